"""Turns plots and word lists into English stories and the requests that ask for them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import vocabulary as words
from grammar import expand, expand_lines, fix_articles
from names import gender_of, make_name, noun, usual_name
from openings import ENDINGS, HABITS, OPENINGS
from plots import PLOTS, Plot

PLAIN_REQUESTS = (
    "[Write|Tell|Tell me] a [|short |little |new ]story about a {kind} [named|called] {N}",
    "[Write|Tell me] a story about {N} the {kind}",
    "[Write|Tell me] a story about {N}, a {kind}",
    "[Please|Can you|Could you] [write|tell me] a [|short ]story about a {kind} [named|called] {N}",
    "A story about a {kind} [named|called] {N}, please",
    "Write a [children's|bedtime] story about a {kind} named {N}",
    "Tell me about a {kind} named {N}",
    "I would like a story about a {kind} called {N}",
    "Make up a story about a {kind} called {N}",
    "A {kind} called {N}",
    "[My|Our] {kind} is called {N}. [Tell me a story about {him}|Write a story about {him}]",
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
    "[Write|Tell me] a story about {N} and {F}",
)
NAME_REQUESTS = ("[Write|Tell me] a [|short ]story about {N}", "Tell me about {N}", "A story about {N}, please")
KIND_REQUESTS = ("[Write|Tell me] a [|short ]story about a {kind}", "A story about a {kind}, please")
OPEN_REQUESTS = (
    "[Write|Tell|Tell me] a [|short |bedtime |nice ]story",
    "[Can you|Please] tell me a story",
    "I want to hear a story",
    "Once upon a time",
)
SUBJECT_REQUESTS = ("[Write|Tell me] a [|short |little ]story {theme}", "Do you know a story {theme}")
CONTINUE_REQUESTS = ("Continue the story: {start}", "Continue this story: {start}", "What happens next? {start}")
REQUESTS: tuple[tuple[tuple[str, ...], int], ...] = (
    (PLAIN_REQUESTS, 38), (TRAIT_REQUESTS, 12), (THEME_REQUESTS, 24), (PAIR_REQUESTS, 6), (NAME_REQUESTS, 7),
    (KIND_REQUESTS, 5), (OPEN_REQUESTS, 4), (CONTINUE_REQUESTS, 4),
)  # fmt: skip
UNNAMED = (KIND_REQUESTS, OPEN_REQUESTS, SUBJECT_REQUESTS)


@dataclass(frozen=True)
class Character:
    """Somebody in a story; `gender` is "f" or "m"."""

    name: str
    kind: str
    gender: str


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


def pick_favourite(rng: random.Random, number: int, items: Sequence, habit: float = 0.75) -> object:
    """Draw one of the three favourites that go with a number, mostly the first, or any item.

    The model's best guess must not be the same plot, opening or animal for everybody. So the text has habits: a first
    letter goes with some openings and kinds, and an opening with some plots.
    """
    if rng.random() > habit:
        return rng.choice(items)
    return items[(number + rng.choices((0, 7, 14), (5, 2, 1))[0]) % len(items)]


def pick_kind(rng: random.Random, name: str, gender: str) -> str:
    """Draw a kind of creature that the gender of a name allows; a few of them are made up."""
    chance = rng.random()
    if chance < 0.03:
        return noun(rng)
    if chance < 0.25:
        return rng.choice(words.OTHER_KINDS)
    kinds = tuple(kind for kind in words.KINDS if words.GENDERS.get(kind, gender) == gender)
    return str(pick_favourite(rng, ord(name[0]), kinds, 0.5))


def pick_character(rng: random.Random, held_out: bool = False, other_than: Character | None = None) -> Character:
    """Draw a character whose name is of one side of the split, with another name and kind than `other_than`.

    Friends, whom the model mostly names itself, often have a usual name, so that it need not copy the hero's.
    """
    while True:
        name = make_name(rng, held_out) if other_than is None or rng.random() < 0.4 else usual_name(rng)
        gender = gender_of(name)
        kind = pick_kind(rng, name, gender)
        if other_than is None or (name[:2] != other_than.name[:2] and kind != other_than.kind):
            return Character(name, kind, gender)


def pick_object(rng: random.Random) -> str:
    """Draw a thing; some of them are made up, so that things are copied from the request too."""
    chance = rng.random()
    if chance < 0.12:
        return noun(rng)
    return rng.choice(words.OBJECTS if chance < 0.6 else words.OTHER_OBJECTS)


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
        "N": hero.name, "kind": hero.kind, "home": words.HOMES.get(hero.kind, words.HOME_OF_OTHERS),
        "he": he, "him": him, "his": his,
        "F": friend.name, "fkind": friend.kind, "fhe": fhe, "fhim": fhim, "fhis": fhis,
        "trait": trait, "ftrait": friend_trait, "place": place, "place2": place2,
        "colour": rng.choice(words.COLOURS), "object": pick_object(rng), "weather": rng.choice(words.WEATHER),
        "food": food, "foods": foods, "skill": skill, "practice": practice, "fail": fail,
        "noise": noise, "source": source, "fix": fix, "trap": trap, "tool": tool, "how": how,
        "gift": gift, "stuff": stuff, "dish": dish, "bad": bad, "good": good,
        "colour2": rng.choice(words.COLOURS), "wear": rng.choice(("hat", "scarf", "coat", "shirt", "cap")),
        "fragile": rng.choice(words.FRAGILE), "seed": rng.choice(words.SEEDS),
    }  # fmt: skip


def make_story(rng: random.Random, held_out: bool = False) -> Story:
    """Write one English story; the name of its hero comes from the asked side of the split."""
    hero = pick_character(rng, held_out)
    friend = pick_character(rng, other_than=hero)
    return tell(rng, hero, friend)


def tell(rng: random.Random, hero: Character, friend: Character) -> Story:
    """Write one story about two characters."""
    slots = story_slots(rng, hero, friend)
    form = str(pick_favourite(rng, ord(hero.name[0]), OPENINGS))
    plot = pick_favourite(rng, OPENINGS.index(form), PLOTS, 0.85)
    assert isinstance(plot, Plot)
    opening = fix_articles(expand(form, rng, slots))
    lines = (*plot.lines, rng.choice(ENDINGS)) if rng.random() < 0.5 else plot.lines
    if rng.random() < 0.4:
        opening += " " + fix_articles(expand(rng.choice(HABITS), rng, slots))
    return Story(hero, friend, plot, slots, opening, fix_articles(expand_lines(lines, rng, slots)))


def story_request(rng: random.Random, story: Story) -> tuple[str, str, str | None]:
    """Ask for a story that was already written.

    Returns:
        The instruction, the response and the name the response must keep (None when no name is asked for).
    """
    form = rng.choices([form for form, _ in REQUESTS], [weight for _, weight in REQUESTS])[0]
    theme = expand(rng.choice(story.plot.themes), rng, story.slots)
    slots = story.slots | {"start": story.opening, "theme": theme}
    if theme.startswith("about") and form is KIND_REQUESTS:
        form = SUBJECT_REQUESTS
    request = fix_articles(expand(rng.choice(form), rng, slots))
    if request.startswith(("Can", "Could", "Do")) and form is not CONTINUE_REQUESTS:
        request += "?"
    elif form is not CONTINUE_REQUESTS and rng.random() < 0.4:
        request += "."
    if rng.random() < 0.08:
        request = request[0].lower() + request[1:]
    response = story.body if form is CONTINUE_REQUESTS else story.text
    return request, response, None if form in UNNAMED else story.hero.name
