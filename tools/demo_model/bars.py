"""The bars that the demo model has to meet, as functions of a loaded model; `evaluate.py` and the tests call them.

Everything runs through the runtime, so what is measured is what a user gets.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import names
import numpy as np
import openings
import vocabulary
from generate_text import DEFAULT_SEED, examples
from outside import ANSWER
from plots import PLOTS, plot_of
from sums import HELD_OUT, HELD_OUT_PLUS, NUMBERS, PLUS, PLUS_WORDS

from llama_onnx import LanguageModel, SamplingParams

HERE = Path(__file__).parent
BATCH = 50
LIMIT = 400
MODES: dict[str, dict[str, float]] = {"greedy": {"temperature": 0.0}, "T = 0.8": {"temperature": 0.8, "top_k": 0}}
REFUSAL = ANSWER.split(".")[0]  # "I don't know that"
# How an answer may begin, and the greetings that it answers.
GREETINGS = (
    (("Hello", "Hi"), ("hello", "Hi", "Hi there", "Hello!", "hey")),
    (("Good morning",), ("Good morning", "good morning")),
    (("Good night",), ("Good night!", "good night")),
    (("Goodbye", "See you"), ("Goodbye", "goodbye")),
    (("Bonjour", "Salut"), ("bonjour", "Bonjour !", "Salut", "Coucou")),
    (("Bonsoir",), ("Bonsoir", "bonsoir")),
    (("Au revoir",), ("Au revoir",)),
    (("你好",), ("你好", "您好", "你好！")),
    (("早上好",), ("早上好", "早安")),
    (("晚安",), ("晚安",)),
    (("再见",), ("再见", "再见！")),
)


def prompts() -> dict[str, list[dict[str, str]]]:
    """Return the held-out prompts ("stories", "chats", "facts"), "outside" questions and "paraphrased" facts."""
    content: dict[str, Any] = {}
    for name in ("held_out_prompts.json", "skills_held_out.json"):
        content |= json.loads((HERE / name).read_text(encoding="utf-8"))
    content["outside"] = [{"question": question} for question in content["outside"]]
    return content


def answers(
    lm: LanguageModel, asked: Sequence[Any], temperature: float = 0.0, top_k: int = 0, limit: int = LIMIT
) -> list[tuple[str, bool]]:
    """Return the answer to each instruction or conversation, and whether it ended by itself."""
    ids = [lm.format(prompt) for prompt in asked]
    params = [
        SamplingParams(
            temperature=temperature, top_k=top_k, seed=index, max_tokens=min(limit, lm.context - len(prompt))
        )
        for index, prompt in enumerate(ids)
    ]
    return [
        (completion.text.strip(), completion.finish_reason == "stop")
        for completion in lm.generate_many(ids, params, batch=BATCH)
    ]


@cache
def ordinary_words() -> frozenset[str]:
    """Return the capitalised words of the templates, and the known names."""
    lines = [line for plot in PLOTS for line in plot.lines]
    text = " ".join((*lines, *openings.OPENINGS, *openings.HABITS, *openings.ENDINGS))
    found = set(re.findall(r"[A-ZÀ-Þ]\w*", re.sub(r"\{\w+\}", " ", text)))
    for value in vars(vocabulary).values():
        if isinstance(value, (tuple, dict)):
            words = re.findall(r"\w+", json.dumps(list(value), ensure_ascii=False))
            found.update(word.capitalize() for word in words)
    known = (names.GIRLS, names.BOYS, names.WORDS, names.HELD_OUT_NAMES)
    return frozenset(found.union(*known, {"He", "She", "His", "Her", "Him"}))


def distance(first: str, second: str) -> int:
    """Return the Levenshtein distance of two words."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


def mangled(name: str, text: str) -> list[str]:
    """Return the capitalised words that are no known name but within half the length of `name` in edit distance.

    Chinese has no capitals, so nothing is found there.
    """
    found = {word.strip("-'") for word in re.findall(r"[A-ZÀ-Þ][\w-]*", text)} - {name} - ordinary_words()
    return [word for word in sorted(found) if distance(word, name) <= len(name) / 2]


def named(name: str, text: str) -> bool:
    """Whether a text has a name as a whole word; Chinese has no spaces, so there any place counts."""
    return name in text if name > "\u2e80" else bool(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text))


def tells_name(name: str, answer: str) -> bool:
    """Whether an answer says that somebody is called so, not only something else about him."""
    return bool(re.search(rf"(?:called|name is|about|is|was) {re.escape(name)}(?!\w)", answer))


def most_repeated(text: str, size: int = 4) -> int:
    """Return how often the most frequent run of four words occurs."""
    words = text.split()
    return max(Counter(zip(*(words[i:] for i in range(size)), strict=False)).values(), default=0)


def stories(lm: LanguageModel, asked: Sequence[dict[str, str]], mode: str) -> tuple[dict[str, float], list[str]]:
    """Return the rates of the story bars in one mode, each from 0 to 1, and the stories."""
    told = answers(lm, [prompt["instruction"] for prompt in asked], **MODES[mode])  # type: ignore[arg-type]
    texts = [text for text, _ in told]
    plots = Counter(plot_of(text) for prompt, text in zip(asked, texts, strict=True) if prompt["language"] == "English")
    english = plots.total()
    del plots[None]
    rates = {
        "has the asked-for name": _rate(named(p["name"], text) for p, text in zip(asked, texts, strict=True)),
        "has no mangled form of it": _rate(not mangled(p["name"], text) for p, text in zip(asked, texts, strict=True)),
        "most frequent plot": max(plots.values(), default=0) / english,
        "follows one of the plots": plots.total() / english,
        "ends by itself": _rate(ended for _, ended in told),
        "no four words more than three times": _rate(most_repeated(text) <= 3 for text in texts),
    }
    return rates, texts


def bits_per_byte(lm: LanguageModel, held_out: bool, count: int) -> float:
    """Return the loss on responses of `count` examples of one side; greetings and conversations are left out."""
    nats, size = 0.0, 0
    chosen = (example for example in examples(DEFAULT_SEED, held_out) if example.category != "chat")
    for example in islice(chosen, count):
        (prompt, _), (response, _) = example.segments
        ids = lm.tokenizer.encode(prompt + response)
        first = len(lm.tokenizer.encode(prompt)) if prompt else 1
        targets = [*ids[first:], lm.config.eos_token_ids[0]]
        scores = lm.logits(ids)[first - 1 :].astype("float64")
        top = scores.max(-1, keepdims=True)
        logs = scores - top
        logs -= np.log(np.exp(logs).sum(-1, keepdims=True))
        nats -= float(logs[np.arange(len(targets)), targets].sum())
        size += len(response.encode())
    return nats / math.log(2) / size


def sums(lm: LanguageModel, some: slice = slice(None)) -> float:
    """Return the share of right sums, over the pairs that training never saw, in known and in new wordings."""
    asked = []
    for index, (first, second) in enumerate(HELD_OUT[some]):
        form = (*PLUS, *HELD_OUT_PLUS)[index % (len(PLUS) + len(HELD_OUT_PLUS))]
        asked.append(form.format(a=first, b=second))
        asked.append(PLUS_WORDS[index % len(PLUS_WORDS)].format(a=NUMBERS[first], b=NUMBERS[second]))
    said = answers(lm, asked, limit=120)
    pairs = [pair for pair in HELD_OUT[some] for _ in range(2)]
    return _rate(
        text.endswith(f"{a} + {b} = {a + b}.") or text.endswith(f"{b} + {a} = {a + b}.")
        for (a, b), (text, _) in zip(pairs, said, strict=True)
    )


def contains(answer: str, text: str) -> bool:
    """Whether a text has an answer as whole words, in any case."""
    answer, text = answer.casefold().rstrip("."), text.casefold()
    return (
        answer in text
        if re.search(r"[^\x00-\u024f]", answer)
        else bool(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text))
    )


def facts(lm: LanguageModel, asked: Sequence[dict[str, str]]) -> dict[str, float]:
    """Return the shares of right answers and of wrong refusals over questions about the world."""
    said = [text for text, _ in answers(lm, [prompt["question"] for prompt in asked], limit=80)]
    right = _rate(contains(prompt["answer"], text) for prompt, text in zip(asked, said, strict=True))
    return {"right": right, "refused": _rate(text.startswith(REFUSAL) for text in said)}


def refusals(lm: LanguageModel, asked: Sequence[dict[str, str]]) -> float:
    """Return the share of questions that the model says it cannot answer."""
    return _rate(text.startswith(REFUSAL) for text, _ in answers(lm, [p["question"] for p in asked], limit=80))


def chats(lm: LanguageModel, asked: Sequence[dict[str, str]]) -> float:
    """Return the share of conversations whose second answer tells the name of the first turn."""
    first = answers(lm, [prompt["instruction"] for prompt in asked], limit=LIMIT)
    conversations = [
        [
            {"role": "user", "content": prompt["instruction"]},
            {"role": "assistant", "content": text},
            {"role": "user", "content": prompt["question"]},
        ]
        for prompt, (text, _) in zip(asked, first, strict=True)
    ]
    second = answers(lm, conversations, limit=60)
    return _rate(tells_name(prompt["name"], text) for prompt, (text, _) in zip(asked, second, strict=True))


def greetings(lm: LanguageModel) -> float:
    """Return the share of greetings that are returned in their language."""
    wanted = [(greeting, starts) for starts, row in GREETINGS for greeting in row]
    said = answers(lm, [greeting for greeting, _ in wanted], limit=80)
    return _rate(text.startswith(starts) for (_, starts), (text, _) in zip(wanted, said, strict=True))


def _rate(flags: Iterable[bool]) -> float:
    values = list(flags)
    return sum(values) / len(values)
