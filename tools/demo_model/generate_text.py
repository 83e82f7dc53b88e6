"""Write the training and held-out text of the demo model: `python generate_text.py --count 5 --seed 1`."""

import argparse
import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import held_out as unseen
from chats import Turn, introduction, offered_story, recall_chat, story_chat
from drills import drill
from free_wordings import free_chinese, free_fact, free_french, free_request
from instructions import INSTRUCTION, RESPONSE, SYSTEM, make_pair
from other_languages import chinese_story, french_story
from stories import make_story, story_request
from sums import make_sum
from wordings import CHINESE_REQUESTS as MORE_CHINESE
from wordings import FRENCH_REQUESTS as MORE_FRENCH
from wordings import wide_fact, wide_request, wrap_question

DEFAULT_SEED = 20261
HELD_OUT_PERCENT = 8


@dataclass(frozen=True)
class Example:
    """One document: a conversation, or plain text when the only instruction is empty.

    Attributes:
        category: what it is.
        turns: instructions and responses by turns.
        name: the name that the last response must keep, if any.
        given: how many responses, from the first, are there to be read only; the model learns the others.
    """

    category: str
    turns: tuple[Turn, ...]
    name: str | None = None
    given: int = 0

    @property
    def segments(self) -> list[tuple[str, bool]]:
        """The text in parts, and whether the model writes them: what the runtime's template `alpaca` renders."""
        if not self.turns[0][0]:
            return [("", False), (self.turns[0][1], True)]
        parts: list[tuple[str, bool]] = []
        for index, (instruction, response) in enumerate(self.turns):
            before = "" if parts else SYSTEM
            parts.append((f"{before}\n\n{INSTRUCTION}\n{instruction}\n\n{RESPONSE}\n", False))
            parts.append((response, index >= self.given))
        return parts


def normal(question: str) -> str:
    """Return a question without what does not make it another one: case, quotation marks and the end."""
    return re.sub(r'["“”]|,? please(?=\W*$)', "", question.lower()).strip("?.! ")


def is_held_out(instruction: str) -> bool:
    """Whether the wording of a request that is no story is kept out of the training."""
    digest = hashlib.sha256(normal(instruction).encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


@cache
def held_out_questions() -> re.Pattern[str]:
    """Return a pattern that finds the questions of `skills_held_out.json`, whatever stands before or after them."""
    content = json.loads(Path(__file__).with_name("skills_held_out.json").read_text(encoding="utf-8"))
    questions = [*content["outside"], *(fact["question"] for fact in content["paraphrased"])]
    return re.compile("|".join(rf"(?<!\w){re.escape(normal(question))}(?!\w)" for question in questions))


def other_pair(rng: random.Random, held_out: bool, wide: int = 0) -> tuple[str, str, str]:
    """Draw a category, an instruction that is no story request, and its response.

    The wording belongs to one side of the split. Greetings are few and are training text only. With `wide`, there are
    more facts and sums, in more wordings.
    """
    while True:
        category, instruction, response = make_pair(rng)
        if wide > 1 and category == "unknown" and rng.random() < 0.5:
            continue
        if wide and category == "fact" and rng.random() < 0.4:
            instruction, response = (wide_fact if rng.random() < 0.6 else make_sum)(rng)
        if wide > 1 and category == "fact" and rng.random() < 0.3:
            instruction, response = free_fact(rng)
        if is_held_out(instruction) != held_out and (category != "chat" or held_out):
            continue
        if wide and category in ("fact", "unknown"):
            instruction = wrap_question(rng, instruction)
        if not held_out_questions().search(normal(instruction)):
            return category, instruction, response


_REQUESTS = (story_request, wide_request, free_request)  # by `wide`


def _story(rng: random.Random, held_out: bool, wide: int) -> Example:
    if held_out:
        instruction, response, name = unseen.held_out_request(rng)
    else:
        instruction, response, name = _REQUESTS[wide](rng, make_story(rng))
    return Example("story", ((instruction, response),), name)


def _foreign(rng: random.Random, held_out: bool, wide: int) -> Example:
    french = rng.random() < 0.4
    if held_out:
        make = french_story if french else chinese_story
        instruction, response, name = make(
            rng, True, requests=unseen.FRENCH_REQUESTS if french else unseen.CHINESE_REQUESTS
        )
    elif wide > 1:
        instruction, response, name = (free_french if french else free_chinese)(rng)
    elif wide and french:
        instruction, response, name = french_story(rng, requests=MORE_FRENCH)
    elif wide:
        instruction, response, name = chinese_story(rng, requests=MORE_CHINESE, rare=rng.choice((0.0, 0.5, 1.0)))
    else:
        instruction, response, name = (french_story if french else chinese_story)(rng)
    return Example("french" if french else "chinese", ((instruction, response),), name)


def _other(rng: random.Random, held_out: bool, wide: int) -> Example:
    category, instruction, response = other_pair(rng, held_out, wide)
    return Example(category, ((instruction, response),))


def _plain(rng: random.Random, held_out: bool, wide: int) -> Example:
    story = make_story(rng, held_out)
    return Example("plain", (("", story.text),), story.hero.name)


def _chat(rng: random.Random, held_out: bool, wide: int) -> Example:
    if rng.random() < 0.2:
        turns, name = offered_story(rng)
    else:
        turns, name = story_chat(rng, _REQUESTS[wide], lambda: _other(rng, False, wide).turns[0])
    return Example("chat", turns, name)


def short_chat(rng: random.Random, wide: int) -> Example:
    """Make a conversation without a story."""
    if rng.random() < 0.6:
        between = other_pair(rng, False, wide)[1:] if rng.random() < 0.3 else None
        turns, name = introduction(rng, between)
        return Example("introduction", turns, name)
    return Example("questions", tuple(_other(rng, False, wide).turns[0] for _ in range(rng.choice((2, 2, 3)))))


# Stories, plain text, questions, French and Chinese stories, conversations; for each value of `wide`.
_WEIGHTS = ((34, 4, 42, 6, 14), (42, 3, 28, 14, 13), (38, 2, 18, 26, 16))


def examples(seed: int, held_out: bool = False, wide: int = 0) -> Iterator[Example]:
    """Yield documents for ever, the same ones for the same seed; conversations belong to the training only.

    With `wide` 1, training requests come in the many wordings of `wordings.py` too, and there are more French and
    Chinese stories; with 2, half of them have any words around the hero (`free_wordings.py`).
    """
    rng = random.Random(f"{seed}-{'held-out' if held_out else 'train'}")
    makers: tuple[Callable[[random.Random, bool, int], Example], ...] = (_story, _plain, _other, _foreign, _chat)
    weights = (40, 4, 50, 6, 0) if held_out else _WEIGHTS[wide]
    while True:
        yield rng.choices(makers, weights)[0](rng, held_out, wide)


def drill_examples(seed: int) -> Iterator[Example]:
    """Yield the documents of the first part of the training: one drill to every ordinary document."""
    rng = random.Random(f"{seed}-drills")
    for example in examples(seed):
        instruction, response, name = drill(rng)
        yield Example("drill", ((instruction or "", response),), name)
        yield example


def lesson_examples(seed: int, wide: int = 0) -> Iterator[Example]:
    """Yield documents that are not stories: questions, greetings, sentences, poems and short conversations."""
    rng = random.Random(f"{seed}-lessons")
    while True:
        yield short_chat(rng, wide) if rng.random() < 0.15 else _other(rng, False, wide)


def recall_examples(seed: int, wide: int = 2) -> Iterator[Example]:
    """Yield conversations in which the story, often only its opening, is given, and what is asked about it is learned.

    A story fills most of a row, so that a batch of whole conversations has few questions.
    """
    rng = random.Random(f"{seed}-recall")
    while True:
        if rng.random() < 0.15:
            yield short_chat(rng, wide)
            continue
        turns, name = recall_chat(rng, _REQUESTS[wide])
        yield Example("recall", turns, name, given=1)


def main() -> None:
    """Print examples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--count", type=int, default=10, help="how many examples to print")
    parser.add_argument("--held-out", action="store_true", help="print the held-out side of the split")
    args = parser.parse_args()
    for _, example in zip(range(args.count), examples(args.seed, args.held_out), strict=False):
        print(json.dumps(asdict(example), ensure_ascii=False))


if __name__ == "__main__":
    main()
