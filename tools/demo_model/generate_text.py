"""Write the training and held-out text of the demo model: `python generate_text.py --count 5 --seed 1`."""

import argparse
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from drills import drill
from instructions import TEMPLATE, make_pair
from other_languages import chinese_story, french_story
from stories import HELD_OUT_PERCENT, make_story, story_request

DEFAULT_SEED = 20240


@dataclass(frozen=True)
class Example:
    """One document: `prompt` is empty for plain text; `name` is the name that the response must keep, if any."""

    category: str
    instruction: str
    prompt: str
    response: str
    name: str | None = None


def _held_out_text(instruction: str) -> bool:
    digest = hashlib.sha256(instruction.lower().encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def _instruction(category: str, instruction: str, response: str, name: str | None = None) -> Example:
    return Example(category, instruction, TEMPLATE.format(instruction=instruction), response, name)


def story_example(rng: random.Random, held_out: bool, named_only: bool = False) -> Example:
    """Make a request for an English story; the hero's kind and name belong to one side of the split only."""
    return _instruction("story", *story_request(rng, make_story(rng, held_out), named_only))


def other_example(rng: random.Random, held_out: bool) -> Example:
    """Make an instruction that is not a story request.

    Its exact wording belongs to one side of the split. Greetings are few and are training text only.
    """
    while True:
        category, instruction, response = make_pair(rng)
        if category == "chat" and not held_out:
            break
        if category != "chat" and _held_out_text(instruction) == held_out:
            break
    return _instruction(category, instruction, response)


def foreign_example(rng: random.Random, held_out: bool) -> Example:
    """Make a request for a French or Chinese story; its exact wording belongs to one side of the split."""
    while True:
        language, make = rng.choice((("french", french_story), ("chinese", chinese_story)))
        instruction, response, name = make(rng)
        if _held_out_text(instruction) == held_out:
            return _instruction(language, instruction, response, name)


def examples(seed: int, held_out: bool = False) -> Iterator[Example]:
    """Yield documents for ever, the same ones for the same seed."""
    rng = random.Random(f"{seed}-{'held-out' if held_out else 'train'}")
    while True:
        kind = rng.choices(("story", "plain", "other", "foreign"), (40, 6, 48, 6))[0]
        if kind == "story":
            yield story_example(rng, held_out)
        elif kind == "plain":
            yield Example("plain", "", "", make_story(rng, held_out).text)
        elif kind == "other":
            yield other_example(rng, held_out)
        else:
            yield foreign_example(rng, held_out)


def drill_examples(seed: int) -> Iterator[Example]:
    """Yield the documents of the first part of the training: one drill to every ordinary document."""
    rng = random.Random(f"{seed}-drills")
    for example in examples(seed):
        instruction, response, name = drill(rng)
        if instruction is None:
            yield Example("drill", "", "", response, name)
        else:
            yield _instruction("drill", instruction, response, name)
        yield example


def lesson_examples(seed: int) -> Iterator[Example]:
    """Yield documents that are not stories: questions, greetings, sentences and poems."""
    rng = random.Random(f"{seed}-lessons")
    while True:
        yield other_example(rng, False)


def held_out_prompts(seed: int, stories: int = 150, others: int = 50) -> list[dict[str, str | None]]:
    """Return the prompts of the quality bar, none of which occurs in training; all are different."""
    rng = random.Random(f"{seed}-prompts")
    found: dict[str, Example] = {}
    while len(found) < stories:
        example = story_example(rng, True, named_only=True)
        found.setdefault(example.instruction, example)
    while len(found) < stories + others:
        example = foreign_example(rng, True) if len(found) % 5 == 0 else other_example(rng, True)
        found.setdefault(example.instruction, example)
    keys = ("category", "instruction", "name", "response")
    renamed = {"response": "reference"}
    return [{renamed.get(key, key): asdict(example)[key] for key in keys} for example in found.values()]


def main() -> None:
    """Print examples, or write the held-out prompts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--count", type=int, default=10, help="how many examples to print")
    parser.add_argument("--held-out", action="store_true", help="print the held-out side of the split")
    parser.add_argument("--prompts", type=Path, help="write the 200 held-out prompts to this JSON file instead")
    args = parser.parse_args()
    if args.prompts:
        text = json.dumps(held_out_prompts(args.seed), ensure_ascii=False, indent=1)
        args.prompts.write_text(text + "\n", encoding="utf-8")
        return
    for _, example in zip(range(args.count), examples(args.seed, args.held_out), strict=False):
        print(json.dumps(asdict(example), ensure_ascii=False))


if __name__ == "__main__":
    main()
