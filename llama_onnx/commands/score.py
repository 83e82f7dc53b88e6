"""The verbs that score a model: `perplexity` and `eval`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RequestError
from ..model import LanguageModel, load
from ..scoring.multiple_choice import SubjectResult, evaluate_subject, subjects_of
from ..scoring.perplexity import perplexity
from ..streaming.images import PACKING


def add_verbs(verbs: Any, add_runtime: Callable[[argparse.ArgumentParser, str], None]) -> None:
    """Add both verbs to the command line; `add_runtime` adds the options that all verbs share."""
    verb = verbs.add_parser(
        "perplexity",
        help="how well a model predicts a text",
        description="Print the perplexity of a text, read in overlapping windows: each predicts the tokens that none "
        "before it has reached.",
        epilog="example:\n  llama-onnx perplexity -m models/alpaca --text wiki.test.raw --ctx 1024 --stride 512\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.set_defaults(run=_perplexity)
    verb.add_argument("-m", "--model", required=True, metavar="DIR", help="model directory")
    verb.add_argument("--text", required=True, metavar="FILE", help="text in UTF-8; '-' reads stdin")
    verb.add_argument("--stride", type=int, metavar="N", help="tokens from window to window (default: half of --ctx)")
    verb.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_runtime(verb, "tokens in a window (default: the model's context, at most 2048)")

    verb = verbs.add_parser(
        "eval",
        help="multiple choice questions",
        description="Answer multiple choice questions in the layout of MMLU and print the share of right answers.",
        epilog="example:\n  llama-onnx eval -m models/alpaca --mmlu data --shots 5\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.set_defaults(run=_eval)
    verb.add_argument("-m", "--model", required=True, metavar="DIR", help="model directory")
    verb.add_argument(
        "--mmlu", required=True, metavar="DIR", help="folder with dev/SUBJECT_dev.csv and test/SUBJECT_test.csv"
    )
    verb.add_argument("--shots", type=int, default=5, metavar="N", help="examples before each question (default: 5)")
    verb.add_argument(
        "--subject", action="append", default=[], metavar="NAME", help="only this subject; repeatable (default: all)"
    )
    verb.add_argument("--limit", type=int, metavar="N", help="only the first N questions of each subject")
    verb.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_runtime(verb, "most tokens of a prompt; those that are longer get fewer examples")


def read_text(path: str) -> str:
    """Return the text of a file, or of standard input for '-'.

    Raises:
        RequestError: it cannot be read, is not UTF-8, or is empty.
    """
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: not a text in UTF-8 (byte {error.start})") from None
    if not text:
        raise RequestError(f"{path}: is empty")
    return text


class Progress:
    """A share of work in percent on one line of stderr; silent where that is not a terminal."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._shown = -1
        self._on = sys.stderr.isatty()

    def __call__(self, share: float) -> None:
        """Show a share of 0 to 1."""
        percent = int(100 * min(share, 1.0))
        if self._on and percent != self._shown:
            self._shown = percent
            print(f"\r{self._title}: {percent} %", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Wipe the line."""
        if self._shown >= 0:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _perplexity(options: argparse.Namespace) -> None:
    text = read_text(options.text)
    for name in ("ctx_size", "stride"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise RequestError(f"--{name.removesuffix('_size')} must be at least 1")
    lm = _load(options, None)
    progress = Progress("perplexity")
    try:
        result = perplexity(lm.decoder, lm.tokenizer.encode(text), options.ctx_size, options.stride, progress)
    finally:
        progress.close()
    if options.json:
        print(json.dumps({"perplexity": result.value, "error": result.error, **vars(result)}))
    else:
        print(
            f"perplexity {result.value:.4f} ± {result.error:.4f} ({result.tokens} tokens scored, "
            f"{result.windows} windows of {result.ctx}, stride {result.stride})"
        )
    if options.verbose:
        _print_pool(lm)


def _eval(options: argparse.Namespace) -> None:
    if options.shots < 0 or (options.limit is not None and options.limit < 1):
        raise RequestError("--shots must be at least 0 and --limit at least 1")
    names = subjects_of(options.mmlu)
    unknown = sorted(set(options.subject) - set(names))
    if unknown:
        raise RequestError(f"{options.mmlu}: no subject {unknown[0]!r}; there are {', '.join(names)[:200]}")
    lm = _load(options, options.ctx_size)
    results: list[SubjectResult] = []
    for name in options.subject or names:
        progress = Progress(name)
        try:
            result = evaluate_subject(
                lm.decoder, lm.tokenizer, options.mmlu, name, options.shots, options.limit, lm.context, progress
            )
        finally:
            progress.close()
        results.append(result)
        if not options.json:
            fewer = sum(shots < options.shots for shots in result.shots)
            note = f"  ({fewer} with fewer than {options.shots} shots: the context is too short)" if fewer else ""
            print(f"{result.accuracy:.3f}  {int(result.correct.sum())}/{len(result.correct)}  {name}{note}", flush=True)
    right = np.concatenate([result.correct for result in results])
    mean = float(np.mean([result.accuracy for result in results]))
    if options.json:
        subjects = {r.subject: {"accuracy": r.accuracy, "questions": len(r.correct)} for r in results}
        figures = {"average": float(right.mean()), "mean_of_subjects": mean, "questions": len(right)}
        print(json.dumps({**figures, "shots": options.shots, "subjects": subjects}, indent=1))
    else:
        print(f"{right.mean():.3f}  {int(right.sum())}/{len(right)}  average (mean of subjects {mean:.3f})")
    if options.verbose:
        _print_pool(lm)


def _load(options: argparse.Namespace, ctx_size: int | None) -> LanguageModel:
    packing = Progress(PACKING)

    def progress(doing: str, done: int, total: int) -> None:
        if doing == PACKING:  # how far the loading is shows in the progress of what is computed
            packing(done / max(total, 1))

    try:
        return load(
            options.model, poolsize=options.poolsize, ctx_size=ctx_size, threads=options.threads,
            pool_policy=options.pool_policy, progress=progress,
        )  # fmt: skip
    finally:
        packing.close()


def _print_pool(lm: LanguageModel) -> None:
    stats = lm.stats()
    figures = ", ".join(f"{name} {stats['pool'][name]}" for name in ("hits", "misses", "evictions", "loaded_bytes"))
    print(f"[ pool {figures} | peak memory {stats['peak_memory']} bytes ]", file=sys.stderr)
