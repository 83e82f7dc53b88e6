"""Requests for stories on the held-out side: names and wordings that the training never uses."""

import random

from grammar import expand, fix_articles
from names import ENGLISH, FRENCH, MADE_UP, PINYIN, gender_of, make_name
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
