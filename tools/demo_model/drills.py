"""Drills for the start of the training: rows of very short sentences in which one name comes again and again.

A story names its hero in one word of sixteen, and a fresh model gets stuck at guessing names at random. In a drill
every fourth word is the name, so that copying from the context pays from the first steps on.
"""

import random

from grammar import capitalize, expand, fix_articles
from stories import PLAIN_REQUESTS, TRAIT_REQUESTS, pick_character
from vocabulary import PLACES, TRAITS

SENTENCES = (
    "{N} [ran|sang|smiled|laughed|waited|slept|cried|danced|jumped|looked|nodded|walked|came|stopped|listened].",
    "Then {N} [ran|sang|smiled|laughed|waited|slept|cried|danced|jumped|looked|nodded|walked|came|stopped|listened].",
    '"[Hello|Come|Look|Thank you|Good morning], {N}!"',
    '"{N}!"',
    "{N} was {t}.",
    "[It was|This is|Here is|Look at|I see] {N}.",
    "{N} and {N} alone.",
    '"Yes," said {N}.',
    "{N} the {k}.",
    "{N} went to the {p}.",
    "{N} met {F}.",
    "{F} liked {N}.",
)


def drill(rng: random.Random) -> tuple[str | None, str, str]:
    """Return an instruction (None for plain text), a row of sentences and the name in them."""
    hero = pick_character(rng)
    friend = pick_character(rng, other_than=hero)
    slots = {"N": hero.name, "F": friend.name, "kind": hero.kind, "k": hero.kind, "p": rng.choice(PLACES)}
    slots["him"] = "her" if hero.gender == "f" else "him"
    slots |= {"trait": rng.choice(TRAITS), "t": rng.choice(TRAITS)}
    sentences = [expand(rng.choice(SENTENCES), rng, slots) for _ in range(10)]
    if rng.random() < 0.4:
        return None, " ".join(sentences), hero.name
    request = fix_articles(expand(rng.choice(PLAIN_REQUESTS + TRAIT_REQUESTS), rng, slots))
    start = capitalize(expand("[here is|this is|once there was|do you know] ", rng, slots))
    return request, start + " ".join([f"{hero.name}.", *sentences]), hero.name
