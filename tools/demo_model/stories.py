"""Turns plots and word lists into English stories and the requests that ask for them."""

import hashlib
import random
from dataclasses import dataclass

import vocabulary as words
from grammar import expand, expand_lines, fix_articles
from openings import ENDINGS, HABITS, OPENINGS
from plots import PLOTS, Plot

HELD_OUT_PERCENT = 8
MADE_UP_HEROES, MADE_UP_FRIENDS = 0.15, 0.03

PLAIN_REQUESTS = (
    "[Write|Tell|Tell me] a [|short |little ]story about a {kind} [named|called] {N}",
    "[Write|Tell me] a story about {N} the {kind}",
    "[Please|Can you|Could you] [write|tell me] a [|short ]story about a {kind} [named|called] {N}",
    "A story about a {kind} [named|called] {N}, please",
    "Write a [children's|bedtime] story about a {kind} named {N}",
    "Tell me about a {kind} named {N}",
    "I would like a story about a {kind} called {N}",
    "Make up a story about a {kind} called {N}",
)
TRAIT_REQUESTS = (
    "[Write|Tell me] a [|short ]story about a {trait} {kind} [named|called] {N}",
    "[Please|Can you] [write|tell] a story about a {trait} {kind} [named|called] {N}",
)
THEME_REQUESTS = (
    "[Write|Tell me] a [|short ]story about a {kind} [named|called] {N} {theme}",
    "[Write|Tell me] a [|short ]story about a {trait} {kind} [named|called] {N} {theme}",
    "Can you tell me a story about {N} the {kind}, {theme}",
    "A story about a {kind} called {N} {theme}, please",
)
PAIR_REQUESTS = (
    "[Write|Tell me] a [|short ]story about a {kind} named {N} and a {fkind} named {F}",
    "[Write|Tell me] a [|short ]story about {N} the {kind} and {F} the {fkind}",
)
NAME_REQUESTS = ("[Write|Tell me] a [|short ]story about {N}", "Tell me about {N}")
KIND_REQUESTS = ("[Write|Tell me] a [|short ]story about a {kind}", "A story about a {kind}, please")
OPEN_REQUESTS = (
    "[Write|Tell|Tell me] a [|short |bedtime |nice ]story",
    "[Can you|Please] tell me a story",
    "I want to hear a story",
    "Once upon a time",
)
SUBJECT_REQUESTS = ("[Write|Tell me] a [|short |little ]story {theme}", "Do you know a story {theme}")
CONTINUE_REQUESTS = ("Continue the story: {start}", "Continue this story: {start}", "What happens next? {start}")


@dataclass(frozen=True)
class Character:
    """Somebody in a story; `gender` is "f" or "m"."""

    name: str
    kind: str
    gender: str

    @property
    def held_out(self) -> bool:
        """Whether this kind and name belong together only in held-out prompts, whatever the theme."""
        digest = hashlib.sha256(f"{self.kind}|{self.name}".encode()).digest()
        return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def make_up_name(rng: random.Random, gender: str) -> str:
    """Put a name together from two or three syllables."""
    middle = rng.choice(words.NAME_MIDDLES) if rng.random() < 0.15 else ""
    return rng.choice(words.NAME_STARTS) + middle + rng.choice(words.GIRL_ENDS if gender == "f" else words.BOY_ENDS)


def pick_character(rng: random.Random, held_out: bool, other_than: Character | None = None) -> Character:
    """Draw a character of one side of the split, with another name and kind than `other_than`."""
    while True:
        gender = rng.choice("fm")
        kind = rng.choice(words.KINDS)
        if words.GENDERS.get(kind, gender) != gender:
            continue
        if rng.random() < (MADE_UP_HEROES if other_than is None else MADE_UP_FRIENDS):
            name = make_up_name(rng, gender)
        else:
            name = rng.choice(words.GIRL_NAMES if gender == "f" else words.BOY_NAMES)
        character = Character(name, kind, gender)
        distinct = other_than is None or (name != other_than.name and kind != other_than.kind)
        if distinct and character.held_out == held_out:
            return character


def story_slots(rng: random.Random, hero: Character, friend: Character) -> dict[str, str]:
    """Choose everything that stays the same throughout one story."""
    place, place2 = rng.sample(words.PLACES, 2)
    trait, friend_trait = rng.sample(words.TRAITS, 2)
    food, foods = rng.choice(words.FOODS)
    skill, practice, fail = rng.choice(words.SKILLS)
    noise, source, fix = rng.choice(words.NOISES)
    trap, tool, how = rng.choice(words.TRAPS)
    gift, stuff = rng.choice(words.GIFTS)
    dish, bad, good = rng.choice(words.DISHES)
    pronouns = {"f": ("she", "her", "her"), "m": ("he", "him", "his")}
    he, him, his = pronouns[hero.gender]
    fhe, fhim, fhis = pronouns[friend.gender]
    return {
        "N": hero.name, "kind": hero.kind, "home": words.HOMES[hero.kind], "he": he, "him": him, "his": his,
        "F": friend.name, "fkind": friend.kind, "fhe": fhe, "fhim": fhim, "fhis": fhis,
        "trait": trait, "ftrait": friend_trait, "place": place, "place2": place2,
        "colour": rng.choice(words.COLOURS), "object": rng.choice(words.OBJECTS), "weather": rng.choice(words.WEATHER),
        "food": food, "foods": foods, "skill": skill, "practice": practice, "fail": fail,
        "noise": noise, "source": source, "fix": fix, "trap": trap, "tool": tool, "how": how,
        "gift": gift, "stuff": stuff, "dish": dish, "bad": bad, "good": good,
        "colour2": rng.choice(words.COLOURS), "wear": rng.choice(("hat", "scarf", "coat", "shirt", "cap")),
        "fragile": rng.choice(words.FRAGILE), "seed": rng.choice(words.SEEDS),
    }  # fmt: skip


@dataclass(frozen=True)
class Story:
    """A story with its characters and the slots it was made from."""

    hero: Character
    friend: Character
    plot: Plot
    slots: dict[str, str]
    opening: str
    body: str

    @property
    def text(self) -> str:
        """The whole story."""
        return f"{self.opening} {self.body}"


def make_story(rng: random.Random, held_out: bool = False) -> Story:
    """Write one English story; its hero comes from the asked side of the split."""
    hero = pick_character(rng, held_out)
    friend = pick_character(rng, False, other_than=hero)
    slots = story_slots(rng, hero, friend)
    plot = rng.choice(PLOTS)
    opening = fix_articles(expand(rng.choice(OPENINGS), rng, slots))
    ending = f"[{'|'.join(ENDINGS)}]" if rng.random() < 0.6 else ""
    lines = (*plot.lines, ending) if ending else plot.lines
    if rng.random() < 0.5:
        opening += " " + fix_articles(expand(rng.choice(HABITS), rng, slots))
    return Story(hero, friend, plot, slots, opening, fix_articles(expand_lines(lines, rng, slots)))


def story_request(rng: random.Random, story: Story, named_only: bool = False) -> tuple[str, str, str | None]:
    """Ask for a story that was already written; with `named_only`, by the kind and the name of its hero.

    Returns:
        The instruction, the response and the name the response must keep (None when no name is asked for).
    """
    forms: list[tuple[tuple[str, ...], int]] = [
        (PLAIN_REQUESTS, 38), (TRAIT_REQUESTS, 12), (THEME_REQUESTS, 28), (PAIR_REQUESTS, 5)
    ]  # fmt: skip
    if not named_only:
        forms += [(NAME_REQUESTS, 4), (KIND_REQUESTS, 5), (OPEN_REQUESTS, 4), (CONTINUE_REQUESTS, 6)]
    form = rng.choices([form for form, _ in forms], [weight for _, weight in forms])[0]
    theme = expand(rng.choice(story.plot.themes), rng, story.slots)
    slots = story.slots | {"start": story.opening, "theme": theme}
    if theme.startswith("about") and form is KIND_REQUESTS:
        form = SUBJECT_REQUESTS
    request = fix_articles(expand(rng.choice(form), rng, slots))
    if request.startswith(("Can", "Could", "Do")) and form is not CONTINUE_REQUESTS:
        request += "?"
    elif form is not CONTINUE_REQUESTS and rng.random() < 0.4:
        request += "."
    if rng.random() < 0.05:
        request = request[0].lower() + request[1:]
    named = form not in (KIND_REQUESTS, OPEN_REQUESTS, SUBJECT_REQUESTS)
    return request, story.body if form is CONTINUE_REQUESTS else story.text, story.hero.name if named else None
