"""Measure the demo model against its bars, through the runtime.

Example:
    python tools/demo_model/evaluate.py models/demo --json tools/demo_model/results.json
"""

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

import bars  # noqa: E402

import llama_onnx  # noqa: E402
from llama_onnx.commands.terminal import guard  # noqa: E402

SAMPLES = (
    "bonjour", "Write a story about a dog named Biscuit", "What colour is the sky?", "你好", "What is 8 + 5?",
    "Who are you?", "What is the capital of France?", "How do you say cat in Chinese?",
)  # fmt: skip


def measure(lm: llama_onnx.LanguageModel, loss_examples: int) -> tuple[dict[str, dict[str, float]], dict[str, list]]:
    """Return the rates of all bars by group, and what the model wrote."""
    asked = bars.prompts()
    result: dict[str, dict[str, float]] = {}
    written: dict[str, list] = {}
    for mode in bars.MODES:
        result[mode], texts = bars.stories(lm, asked["stories"], mode)
        written[mode] = [
            {**prompt, "story": text, "mangled": bars.mangled(prompt["name"], text), "plot": bars.plot_of(text)}
            for prompt, text in zip(asked["stories"], texts, strict=True)
        ]
    sizes = {name: len(asked[name]) for name in ("facts", "paraphrased")}
    facts = {name: bars.facts(lm, asked[name]) for name in sizes}
    in_world = {
        rate: sum(sizes[name] * facts[name][rate] for name in sizes) / sum(sizes.values())
        for rate in ("right", "refused")
    }
    result["skills"] = {
        "greetings returned in their language": bars.greetings(lm),
        "sums of pairs never trained": bars.sums(lm),
        "facts, a fifth of them paraphrased": in_world["right"],
        "facts, paraphrased ones only": facts["paraphrased"]["right"],
        "outside questions refused": bars.refusals(lm, asked["outside"]),
        "questions about its world refused": in_world["refused"],
        "second answer of a conversation tells the name": bars.chats(lm, asked["chats"]),
    }
    result["bits a byte"] = {
        "training": bars.bits_per_byte(lm, False, loss_examples),
        "held-out": bars.bits_per_byte(lm, True, loss_examples),
    }
    return result, written


def table(result: dict[str, dict[str, float]]) -> str:
    """Return the tables of the model card."""
    greedy, sampled = (result[mode] for mode in bars.MODES)
    lines = ["| over 300 held-out prompts | greedy | T = 0.8 |", "| --- | ---: | ---: |"]
    lines += [f"| {row} | {100 * greedy[row]:.1f} % | {100 * sampled[row]:.1f} % |" for row in greedy]
    lines += ["", "| skills, greedy | |", "| --- | ---: |"]
    lines += [f"| {row} | {100 * rate:.1f} % |" for row, rate in result["skills"].items()]
    loss = result["bits a byte"]
    lines += ["", "| bits a byte of the answers | |", "| --- | ---: |"]
    lines += [f"| {row} | {value:.4f} |" for row, value in loss.items()]
    lines += [f"| difference | {100 * (loss['held-out'] / loss['training'] - 1):+.1f} % |"]
    return "\n".join(lines)


def run(args: argparse.Namespace) -> None:
    """Print the tables of the model card and sample answers."""
    with llama_onnx.load(args.model) as lm:
        result, written = measure(lm, args.examples)
        print(table(result))
        for instruction in SAMPLES:
            print(f"\n> {instruction}\n{bars.answers(lm, [instruction])[0][0]}")
    for path, content in ((args.json, result), (args.written, written)):
        if path:
            path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=HERE.parent.parent / "models" / "demo")
    parser.add_argument("--examples", type=int, default=400, help="examples of each side for the loss")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--written", type=Path, help="write all stories to this file")
    args = parser.parse_args()
    return guard(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
