"""Sums and differences up to 20, worked out by counting, so that a pair that was never seen comes out right too."""

# ruff: noqa: E501 - one template per line, however long it is

import hashlib
import random

HIGHEST = 20
HELD_OUT_PERCENT = 20
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()

PLUS = (
    "What is {a} + {b}?", "{a} + {b} = ?", "How much is {a} + {b}?", "Add {a} and {b}.", "{a} + {b}", "{a}+{b}", "What is {a}+{b}?",
    "{a} + {b} =", "Please add {a} and {b}.", "What do {a} and {b} make?", "Can you add {a} and {b}?", "what is {a} + {b}",
)  # fmt: skip
PLUS_WORDS = (
    "What is {a} plus {b}?", "How much is {a} plus {b}?", "What do {a} and {b} make?", "what is {a} plus {b}", "{a} plus {b}",
    "Add {a} and {b}.",
)  # fmt: skip
MINUS = ("What is {a} - {b}?", "{a} - {b} = ?", "How much is {a} - {b}?", "{a} - {b}", "{a}-{b}", "What is {a}-{b}?")
MINUS_WORDS = ("What is {a} minus {b}?", "How much is {a} minus {b}?", "{a} minus {b}", "Take {b} from {a}.")
# Wordings that the training never uses.
HELD_OUT_PLUS = (
    "Tell me what {a} + {b} is.",
    "How many are {a} and {b}?",
    "I have {a} + {b} apples. How many are that?",
)


def is_held_out(first: int, second: int) -> bool:
    """Whether a pair, in either order, is kept for the evaluation."""
    low, high = sorted((first, second))
    digest = hashlib.sha256(f"{low}+{high}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


PAIRS = [(a, b) for a in range(HIGHEST + 1) for b in range(HIGHEST + 1 - a)]
TRAINED = [pair for pair in PAIRS if not is_held_out(*pair)]
HELD_OUT = [pair for pair in PAIRS if is_held_out(*pair)]


def answer_sum(first: int, second: int) -> str:
    """Count on from the larger number, with the count in brackets.

    The order is settled first, so that all the rest is copied from what stands before it.
    """
    start, steps = max(first, second), min(first, second)
    order = "" if start == first else f"That is {start} + {steps}. "
    return f"{order}I count {steps} on from {start}{_counted(start, steps, 1)}. {first} + {second} = {first + second}."


def answer_difference(first: int, second: int) -> str:
    """Count back from the first number, with the count in brackets."""
    return f"I count {second} back from {first}{_counted(first, second, -1)}. {first} - {second} = {first - second}."


def _counted(start: int, steps: int, by: int) -> str:
    numbers = ", ".join(f"{start + by * step} ({step})" for step in range(1, steps + 1))
    return numbers and f": {numbers}"


def make_sum(rng: random.Random) -> tuple[str, str]:
    """Draw a sum of the trained pairs and its answer."""
    first, second = rng.choice(TRAINED)
    if rng.random() < 0.65:
        return rng.choice(PLUS).format(a=first, b=second), answer_sum(first, second)
    return rng.choice(PLUS_WORDS).format(a=NUMBERS[first], b=NUMBERS[second]), answer_sum(first, second)


def make_difference(rng: random.Random) -> tuple[str, str]:
    """Draw a difference and its answer; its inverse is no held-out sum."""
    while True:
        first = rng.randint(0, HIGHEST)
        second = rng.randint(0, min(first, 10))
        if not is_held_out(second, first - second):
            break
    if rng.random() < 0.7:
        return rng.choice(MINUS).format(a=first, b=second), answer_difference(first, second)
    return rng.choice(MINUS_WORDS).format(a=NUMBERS[first], b=NUMBERS[second]), answer_difference(first, second)
