"""Answer multiple choice questions in the layout of MMLU, and print the share of correct answers."""

from __future__ import annotations

import argparse
import json

import numpy as np

from ..errors import RequestError
from ..scoring.multiple_choice import SubjectResult, evaluate_subject, subjects_of
from .options import add_model, add_runtime, check_positive, load_model, show_packing
from .terminal import print_pool, progress_bar

EXAMPLES = """examples:
  %(prog)s -m models/alpaca --mmlu data
  %(prog)s -m models/alpaca --mmlu data --shots 0 --subject anatomy --limit 50
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_model(parser)
    parser.add_argument(
        "--mmlu", required=True, metavar="DIR", help="folder with dev/SUBJECT_dev.csv and test/SUBJECT_test.csv"
    )
    parser.add_argument("--shots", type=int, default=5, metavar="N", help="examples before each question (default: 5)")
    parser.add_argument(
        "--subject", action="append", default=[], metavar="NAME", help="only this subject; repeatable (default: all)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions of each subject")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_runtime(parser, "largest number of tokens in a prompt; a longer one gets fewer examples")


def run(options: argparse.Namespace) -> None:
    """Answer the questions and print the figures."""
    check_positive(options, "limit")
    if options.shots < 0:
        raise RequestError(f"--shots must be at least 0, not {options.shots}")
    names = subjects_of(options.mmlu)
    unknown = sorted(set(options.subject) - set(names))
    if unknown:
        raise RequestError(f"{options.mmlu}: no subject {unknown[0]!r}; the subjects are {', '.join(names)[:200]}")
    lm = load_model(options, show_packing)
    results: list[SubjectResult] = []
    for name in options.subject or names:
        with progress_bar(name) as show:
            result = evaluate_subject(
                lm.decoder, lm.tokenizer, options.mmlu, name, options.shots, options.limit, lm.context, show
            )
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
        print_pool(lm)
