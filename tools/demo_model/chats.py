"""Conversations of several turns: a story and questions about it, and what people say of themselves."""

# ruff: noqa: E501 - one template per line, however long it is

import random
from collections.abc import Callable

from grammar import capitalize, expand, fix_articles
from names import gender_of, make_name
from stories import Story, make_story
from vocabulary import COLOURS, FOODS, KINDS, OTHER_KINDS

Turn = tuple[str, str]

# What can be asked about a story, and the answer. The training never uses the held-out wordings.
ABOUT_STORY: tuple[tuple[str, str], ...] = (
    ("[What was the {kind} called?|What was the name of the {kind}?|What is the {kind} called?|What was the {kind}'s name?|How was the {kind} called?|Who was the {kind}?]",
     "The {kind} was called {N}."),
    ("[What was the friend called?|What was the name of the friend?|Who was the friend of {N}?|Who was {N}'s friend?|Who helped {N}?|Who did {N} meet?]",
     "The friend of {N} was called {F}."),
    ("[What was the {fkind} called?|What was the name of the {fkind}?|Who was the {fkind}?]", "The {fkind} was called {F}."),
    ("[Who was {N}?|What kind of animal was {N}?|What was {N}?|Who is {N}?]", "{N} was a {trait} {kind}."),
    ("[Who was {F}?|What kind of animal was {F}?|What was {F}?]", "{F} was a {ftrait} {fkind}."),
    ("[What was the hero called?|What was the name of the hero?|Who was the story about?|Who is the story about?]",
     "The story was about {N}, a {trait} {kind}."),
)  # fmt: skip
HELD_OUT_QUESTION = (
    "[Can you tell me the name of the {kind}?|What name did the {kind} have?|I forgot the name of the {kind}.]"
)
THANKS = (
    ("[Thank you!|Thanks|Thank you|That was nice|I like it|What a nice story!|Great story!]",
     "You are welcome! [Would you like another story?|I am glad that you liked it.]"),
    ("[Bye|Goodbye|Good night|Bye!]", "[Goodbye!|Good night!] [Come back for another story.|Sleep well!]"),
)  # fmt: skip
AGREED = ("[Yes|yes|Yes, please|Yes please|Sure|OK|ok|Please do|Of course]",)
OFFERS = (
    ("[hello|Hello|Hello!|hi|Hi|Hi!|Hi there|hey]", "Hello! Would you like to hear a story?"),
    ("[bonjour|Bonjour|Salut|salut]", "Bonjour ! Voulez-vous écouter une histoire ?"),
    ("[I am bored|I am bored.|I cannot sleep]", "Would you like to hear a story?"),
)
# Somebody introduces himself or his animal: the words, the reply, the question later on, and its answer.
INTRODUCTIONS: tuple[tuple[str, str, str, str], ...] = (
    ("[My name is {N}|I am {N}|My name is {N}.|Hello, I am {N}|Hi, my name is {N}|I'm {N}]",
     "[Hello|Nice to meet you], {N}! [Would you like to hear a story?|How are you today?]",
     "[What is my name?|What's my name?|Do you know my name?|Who am I?]", "Your name is {N}."),
    ("[My {kind} is called {N}|I have a {kind} called {N}|I have a {kind} named {N}.|My {kind}'s name is {N}]",
     "{N} is a lovely name for a {kind}! [Shall I tell you a story about {N}?|I like {N} already.]",
     "[What is my {kind} called?|What is the name of my {kind}?|What was the {kind} called?|What is my {kind}'s name?]", "Your {kind} is called {N}."),
    ("[I like {foods}|My favourite food is {foods}.|I love {foods}]", "[{Foods} are delicious!|I have never eaten {foods}, but they sound good.]",
     "[What do I like?|What do I like to eat?|What is my favourite food?]", "You like {foods}."),
    ("[I like {colour}|My favourite colour is {colour}|My favourite colour is {colour}.]", "{Colour} is a [beautiful|nice] colour!",
     "[What is my favourite colour?|Which colour do I like?]", "Your favourite colour is {colour}."),
)  # fmt: skip


def about_story(rng: random.Random, story: Story) -> Turn:
    """Ask about a story that was told."""
    question, answer = rng.choice(ABOUT_STORY)
    return fix_articles(expand(question, rng, story.slots)), fix_articles(expand(answer, rng, story.slots))


def story_chat(
    rng: random.Random, ask: Callable[[random.Random, Story], tuple[str, str, str | None]], other: Callable[[], Turn]
) -> tuple[tuple[Turn, ...], str]:
    """Return a story, one to three things said afterwards, some of them by `other`, and the name of the hero."""
    story = make_story(rng)
    request, response, _ = ask(rng, story)
    turns = [(request, response)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        chance = rng.random()
        if chance < 0.6:
            turns.append(about_story(rng, story))
        elif chance < 0.85:
            turns.append(other())
        else:
            said, reply = rng.choice(THANKS)
            turns.append((expand(said, rng, {}), expand(reply, rng, {})))
    return tuple(turns), story.hero.name


def recall_chat(
    rng: random.Random, ask: Callable[[random.Random, Story], tuple[str, str, str | None]]
) -> tuple[tuple[Turn, ...], str]:
    """Return a story, or only its opening, a question about it that it answers, and the name of the hero."""
    story = make_story(rng)
    request, response, _ = ask(rng, story)
    whole = rng.random() < 0.4 or not response.startswith(story.opening)
    known = ABOUT_STORY if whole else tuple(row for row in ABOUT_STORY if "{F}" not in "".join(row))
    question, answer = rng.choice((known[0], rng.choice(known)))
    asked = tuple(fix_articles(expand(text, rng, story.slots)) for text in (question, answer))
    return ((request, response if whole else story.opening), (asked[0], asked[1])), story.hero.name


def offered_story(rng: random.Random) -> tuple[tuple[Turn, ...], str]:
    """Return a greeting that offers a story, and the story."""
    story = make_story(rng)
    said, reply = rng.choice(OFFERS)
    if "histoire" in reply:
        accepted = rng.choice(("oui", "Oui", "In English, please", "yes"))
    else:
        accepted = expand(rng.choice(AGREED), rng, {})
    return ((expand(said, rng, {}), reply), (accepted, story.text)), story.hero.name


def introduction(rng: random.Random, between: Turn | None = None) -> tuple[tuple[Turn, ...], str]:
    """Return somebody's words about himself, perhaps another turn, and a question about those words."""
    name = make_name(rng, simple=rng.random() < 0.8)
    kind = rng.choice(KINDS[:50] if rng.random() < 0.7 else OTHER_KINDS[:60])
    slots = {"N": name, "kind": kind, "foods": rng.choice(FOODS)[1], "colour": rng.choice(COLOURS)}
    slots["him"] = "her" if gender_of(name) == "f" else "him"
    said, reply, question, answer = (fix_articles(expand(text, rng, slots)) for text in rng.choice(INTRODUCTIONS))
    first, last = (capitalize(said) if rng.random() < 0.9 else said, reply), (question, answer)
    return (first, between, last) if between else (first, last), name
