"""Write the prompts that the bars are measured on.

Example:
    python tools/demo_model/prompts.py tools/demo_model/held_out_prompts.json
"""

import argparse
import json
import random
from pathlib import Path

import vocabulary as words
from chats import ABOUT_STORY, HELD_OUT_QUESTION, INTRODUCTIONS
from facts import make_fact
from generate_text import DEFAULT_SEED, is_held_out
from grammar import expand, fix_articles
from held_out import CHINESE_REQUESTS, COMMON, FRENCH_REQUESTS, held_out_request, request_for
from names import CHARACTERS, FRENCH, MADE_UP, gender_of
from other_languages import chinese_story, french_story
from stories import Character, pick_character, tell


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
        question = HELD_OUT_QUESTION if index % 5 == 0 else ABOUT_STORY[0][0]
        asked = fix_articles(expand(question, rng, story.slots))
        prompts.append({"name": name, "instruction": request_for(rng, story), "question": asked})
    return prompts


def fact_questions(rng: random.Random, count: int = 240) -> list[dict[str, str]]:
    """Return questions about the world whose exact wording training never uses, and their answers."""
    found: dict[str, str] = {}
    while len(found) < count:
        question, answer = make_fact(rng, one_answer=True)
        if is_held_out(question):
            found.setdefault(question, answer)
    return [{"question": question, "answer": answer} for question, answer in found.items()]


def main() -> None:
    """Write the prompts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    content = {
        "stories": story_prompts(random.Random(f"{args.seed}-prompts")),
        "chats": chat_prompts(random.Random(f"{args.seed}-chats")),
        "facts": fact_questions(random.Random(f"{args.seed}-facts")),
    }
    args.output.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
