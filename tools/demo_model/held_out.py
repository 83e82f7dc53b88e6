"""The held-out side: other names, other wordings, other things; and the file of prompts that the bars are measured on.

python held_out.py --prompts held_out_prompts.json
"""

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path

import vocabulary as words
from chats import ABOUT_STORY, HELD_OUT_ABOUT_STORY, INTRODUCTIONS
from facts import make_fact
from grammar import expand, fix_articles
from names import CHARACTERS, ENGLISH, FRENCH, MADE_UP, PINYIN, gender_of, make_name
from other_languages import chinese_story, french_story
from stories import Character, Story, pick_character, pick_kind, tell

REQUESTS = (
    "Invent a tale with a {kind} whose name is {N}",
    "Please compose a few paragraphs on {N}, who is a {trait} {kind}",
    "I have a {kind}. We call {him} {N}. Make a story of it",
    "Let me hear something about the {kind} {N}",
    "Give me a story in which a {kind} by the name of {N} is the hero",
    "{N} is a {trait} {kind}. What happened to {him} one day",
    "Could I have a tale about {N}, the {trait} {kind}",
    "Tell my daughter a bedtime tale about {N} the {kind}",
    "story: {kind}, {N}",
    "What do you know about the {trait} {kind} {N}",
)
THEME_REQUESTS = (
    "Invent a tale with a {kind} whose name is {N}, {theme}",
    "Give me a story in which {N} is a {kind} {theme}",
    "Could I have a tale about a {trait} {kind} by the name of {N}, {theme}",
)
FRENCH_REQUESTS = (
    "Invente un conte avec {un} {kind} : {N}",
    "J'aimerais entendre l'histoire de {N}",
    "Peux-tu écrire un petit récit sur {N}, {un} {kind}",
)
CHINESE_REQUESTS = ("我想听{kind}{N}的故事", "给我讲讲{N}吧", "{N}是一只{kind}，讲讲它的故事")
COMMON = ENGLISH + FRENCH + PINYIN


def request_for(rng: random.Random, story: Story) -> str:
    """Ask for a story in words that the training never uses."""
    theme = expand(rng.choice(story.plot.held_out_themes), rng, story.slots)
    form = rng.choice(THEME_REQUESTS if rng.random() < 0.25 else REQUESTS)
    request = fix_articles(expand(form, rng, story.slots | {"theme": theme}))
    if request.startswith(("What", "Could")) or " What " in request:
        return request + "?"
    return request + rng.choice(("", "", "."))


def held_out_request(rng: random.Random, name: str | None = None) -> tuple[str, str, str]:
    """Return a request for a story, the story, and the name in both, which training never uses."""
    name = name or (rng.choice(COMMON + MADE_UP) if rng.random() < 0.5 else make_name(rng, held_out=True))
    gender = gender_of(name)
    hero = Character(name, pick_kind(rng, name, gender), gender)
    story = tell(rng, hero, pick_character(rng, other_than=hero))
    return request_for(rng, story), story.text, name


def story_prompts(rng: random.Random) -> list[dict[str, str]]:
    """Return the 300 requests for stories: each of the 200 names once, and 100 of them a second time."""
    prompts = []
    for names in (COMMON + CHARACTERS + MADE_UP, COMMON[::2] + CHARACTERS[::3] + MADE_UP[::2] + MADE_UP[1:4:2]):
        for index, name in enumerate(names):
            if name in CHARACTERS:
                language, request = "Chinese", chinese_story(rng, requests=CHINESE_REQUESTS, name=name)[0]
            elif name in FRENCH and index % 3 == 0:
                language, request = "French", french_story(rng, requests=FRENCH_REQUESTS, name=name)[0]
            else:
                language, request = "English", held_out_request(rng, name)[0]
            prompts.append({"language": language, "name": name, "instruction": request})
    return prompts


def chat_prompts(rng: random.Random) -> list[dict[str, str]]:
    """Return 100 conversations of two turns: 80 about a story, some in new wordings, 20 about what the user said."""
    prompts = []
    for index in range(100):
        name = rng.choice(COMMON + MADE_UP)
        if index % 5 == 4:
            slots = {"N": name, "kind": rng.choice(words.KINDS[:50]), "foods": "", "colour": ""}
            slots["him"] = "her" if gender_of(name) == "f" else "him"
            said, _, question, _ = (fix_articles(expand(text, rng, slots)) for text in INTRODUCTIONS[index % 2])
            prompts.append({"name": name, "instruction": said, "question": question})
            continue
        hero = Character(name, rng.choice(words.KINDS), gender_of(name))
        story = tell(rng, hero, pick_character(rng, other_than=hero))
        question = (HELD_OUT_ABOUT_STORY if index % 5 == 0 else ABOUT_STORY)[0][0]
        asked = fix_articles(expand(question, rng, story.slots))
        prompts.append({"name": name, "instruction": request_for(rng, story), "question": asked})
    return prompts


def fact_questions(rng: random.Random, is_held_out: Callable[[str], bool], count: int = 240) -> list[dict[str, str]]:
    """Return questions about the world whose exact wording training never uses, and their answers."""
    found: dict[str, str] = {}
    while len(found) < count:
        question, answer = make_fact(rng, one_answer=True)
        if is_held_out(question):
            found.setdefault(question, answer)
    return [{"question": question, "answer": answer} for question, answer in found.items()]


def main() -> None:
    """Write the prompts."""
    from generate_text import DEFAULT_SEED, is_held_out  # it imports this module

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--prompts", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    content = {
        "stories": story_prompts(random.Random(f"{args.seed}-prompts")),
        "chats": chat_prompts(random.Random(f"{args.seed}-chats")),
        "facts": fact_questions(random.Random(f"{args.seed}-facts"), is_held_out),
    }
    args.prompts.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
