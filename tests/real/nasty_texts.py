"""Two thousand texts that are hard to cut into tokens, the same ones every time."""

# ruff: noqa: E501 - one table row per line, however long it is

from __future__ import annotations

import random

COUNT, SEED = 2000, 7
WORDS = tuple(
    "the quick brown fox's don't I'LL we've naïve café übergroß Straße déjà vu 你好 世界 日本語 カタカナ 한국어 مرحبا العالم "
    "नमस्ते दुनिया ไทย русский Ελληνικά עברית 👩‍👩‍👧‍👦 👍🏽 🇫🇷 é ạ̈ ﬁ Å \u200b \ufeff x=1 foo_bar CamelCase HTMLParser 1234567890 "
    "3.14159 1,000,000 2nd ½ ² ٣٤٥ १२३ $5.00 50% #tag @user http://a.b/c?d=e&f=g <s> </s> <|im_end|> <|endoftext|> "
    "<start_of_turn> <eos> <unk> <0x0A> [INST] ▁ _ -- --- ... … “quoted” «a» (b) [c] {d} \\n \\t a\u0301 e\u0308".split(
        " "
    )
)
SPACES = (
    " ", " ", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", "", " \n ", "    ", " " * 8, "\n    ", "\n\t\t",
    ", ", ". ", "!", "?",
)  # fmt: skip
CODE = "def f(x):\n    if x > 10:\n        return x ** 2  # comment\n\n\n    return None\n"
FIXED = (
    "", " ", "  ", "\n", "\n\n", "\t", "\r\n", " a", "a ", "\u0000", "a\u0000b",
    CODE, CODE.replace("    ", "\t"), CODE.replace("\n", "\r\n"),
)  # fmt: skip
# ASCII, Latin to Greek, Chinese, pictographs, Arabic, Devanagari, combining marks
RANGES = (
    (32, 126), (160, 1000), (0x4E00, 0x9FFF), (0x1F300, 0x1F6FF), (0x600, 0x6FF), (0x900, 0x97F), (0x300, 0x36F),
)  # fmt: skip


def nasty_texts() -> list[str]:
    """Return the texts: digits, white space, characters of many scripts, indentation, words in all kinds of company."""
    rng = random.Random(SEED)
    texts = list(FIXED)
    while len(texts) < COUNT:
        chance = rng.random()
        if chance < 0.15:
            text = "".join(rng.choice("0123456789 .,-") for _ in range(rng.randint(1, 30)))
        elif chance < 0.25:
            text = "".join(rng.choice(" \n\t\r") for _ in range(rng.randint(1, 20))) + rng.choice(WORDS)
        elif chance < 0.35:
            text = "".join(chr(rng.randint(*rng.choice(RANGES))) for _ in range(rng.randint(1, 12)))
        elif chance < 0.45:
            lines = (" " * rng.choice((0, 1, 2, 3, 4, 8, 12, 16)) + rng.choice(WORDS) for _ in range(rng.randint(1, 6)))
            text = "\n".join(lines)
        else:
            text = "".join(rng.choice(WORDS) + rng.choice(SPACES) for _ in range(rng.randint(1, 12)))
        texts.append(text)
    return texts
