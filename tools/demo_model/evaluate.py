"""Measure the demo model: perplexity on both sides of the split, and the quality bar over the held-out prompts.

Example:
    python evaluate.py checkpoint
"""

import argparse
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from batches import batches
from checkpoint import load_checkpoint
from generate_text import DEFAULT_SEED, examples
from instructions import TEMPLATE
from model import Llama
from sampling import generate
from sentencepiece import SentencePieceProcessor
from tokenizer import EOS, load_tokenizer
from train import mean_loss

PROMPTS = Path(__file__).with_name("held_out_prompts.json")
SAMPLES = (
    "bonjour",
    "Write a story about a dog named Max",
    "What colour is the sky?",
    "你好",
    "What sound does a cow make?",
    "Who are you?",
    "What is 3 + 4?",
    "How do you say cat in Chinese?",
)
Prompt = dict[str, str | None]


def most_repeated(items: Sequence, size: int = 4) -> int:
    """Return how often the most frequent run of `size` items occurs."""
    runs = Counter(tuple(items[i : i + size]) for i in range(len(items) - size + 1))
    return max(runs.values(), default=0)


def keeps_name(name: str, response: str) -> bool:
    """Whether the asked-for name stands in every paragraph of a response."""
    return all(name in paragraph for paragraph in response.strip().split("\n\n"))


def quality(prompts: list[Prompt], responses: list[list[int]], tokenizer: SentencePieceProcessor) -> dict[str, float]:
    """Return the rates of the quality bar, each between 0 and 1."""
    texts = [tokenizer.decode([token for token in ids if token != EOS]) for ids in responses]
    named = [(prompt["name"], text) for prompt, text in zip(prompts, texts, strict=True) if prompt["name"]]
    facts = [
        (prompt["reference"], text) for prompt, text in zip(prompts, texts, strict=True) if prompt["category"] == "fact"
    ]
    return {
        "ends with EOS": sum(ids[-1] == EOS for ids in responses) / len(responses),
        "mentions the name": sum(name in text for name, text in named) / len(named),
        "name in every paragraph": sum(keeps_name(name, text) for name, text in named) / len(named),
        "no word 4-gram > 3 times": sum(most_repeated(text.split()) <= 3 for text in texts) / len(texts),
        "no token 4-gram > 3 times": sum(most_repeated(ids) <= 3 for ids in responses) / len(responses),
        # Lists can be answered in many ways; the others have one right answer.
        "fact as in the reference": sum(text == reference for reference, text in facts) / max(1, len(facts)),
    }


def perplexities(model: Llama, tokenizer: SentencePieceProcessor, seed: int, count: int) -> tuple[float, float]:
    """Return the perplexity per response token of text seen in training and of held-out text."""
    train, held_out = (
        mean_loss(model, batches(examples(seed, side), tokenizer, 8, 360), count) for side in (False, True)
    )
    return math.exp(train), math.exp(held_out)


def main() -> None:
    """Print the table of the model card and sample answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--prompts", type=Path, default=PROMPTS)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--batches", type=int, default=40, help="batches of 8 x 360 tokens per perplexity")
    parser.add_argument("--limit", type=int, default=400, help="most tokens per response")
    parser.add_argument("--responses", type=Path, help="write all responses to this JSON file")
    args = parser.parse_args()
    model, tokenizer = load_checkpoint(args.checkpoint), load_tokenizer(args.checkpoint)

    print("perplexity: train {:.3f}, held-out {:.3f}".format(*perplexities(model, tokenizer, args.seed, args.batches)))
    prompts: list[Prompt] = json.loads(args.prompts.read_text(encoding="utf-8"))
    texts = [TEMPLATE.format(instruction=prompt["instruction"]) for prompt in prompts]
    modes = {"greedy": 0.0, "T=0.8": 0.8}
    responses = {
        mode: generate(model, tokenizer, texts, temperature, limit=args.limit, seed=args.seed)
        for mode, temperature in modes.items()
    }
    tables = {mode: quality(prompts, ids, tokenizer) for mode, ids in responses.items()}
    print(f"\n| over {len(prompts)} held-out prompts | " + " | ".join(modes) + " |\n| --- | ---: | ---: |")
    for row in tables["greedy"]:
        print(f"| {row} | " + " | ".join(f"{100 * tables[mode][row]:.1f} %" for mode in modes) + " |")
    if args.responses:
        content = [
            prompt | {mode: tokenizer.decode(responses[mode][index]) for mode in modes}
            for index, prompt in enumerate(prompts)
        ]
        args.responses.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    samples = generate(model, tokenizer, [TEMPLATE.format(instruction=text) for text in SAMPLES], temperature=0.1)
    for instruction, ids in zip(SAMPLES, samples, strict=True):
        print(f"\n> {instruction}\n{tokenizer.decode(ids)}")


if __name__ == "__main__":
    main()
