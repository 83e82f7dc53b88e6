"""Continue a prompt, or a file of prompts.

The text streams to stdout; everything else goes to stderr. A file of prompts has one line of JSON per prompt. Its
prompts share each pass over the weights, and the results are lines of JSON in the same order.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable

from ..batching.scheduler import BATCH, Report
from ..errors import RequestError
from ..sampling import SamplingParams
from ..text.templates import CHOICES
from .options import add_model, add_runtime, add_sampling, check_positive, load_model, sampling_params
from .prefill import PrefillProgress
from .prompt_file import Results, read_prompts
from .terminal import STANDARD, print_end, print_stats, print_stream, read_text, show_progress, wipe_bar

EXAMPLES = """examples:
  %(prog)s -p bonjour
  %(prog)s HuggingFaceTB/SmolLM2-135M-Instruct -p 'Why is the sky blue?'
  %(prog)s model.gguf -p 'Write a haiku' --poolsize 2
  %(prog)s -m models/alpaca -p 'Once upon a time' --temp 0.8 --seed 7 -v
  %(prog)s -m models/alpaca -p - --template plain --poolsize 2 < question.txt
  %(prog)s -m models/alpaca --prompts questions.jsonl --output answers.jsonl -n 200
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_model(parser)
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("-p", "--prompt", metavar="TEXT", help="text to continue; '-' reads stdin")
    prompt.add_argument(
        "--prompts", metavar="FILE.jsonl",
        help='texts to continue, one per line: a JSON string or {"prompt": "…"}, which may have an "id", a "stop" and '
        "its own sampling options; '-' reads stdin",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="FILE.jsonl",
        help="where the results of --prompts go; an unfinished file is continued (default: stdout)",
    )  # fmt: skip
    parser.add_argument(
        "--batch", type=int, metavar="N",
        help=f"how many prompts share a pass, as far as memory allows (default: {BATCH})",
    )  # fmt: skip
    parser.add_argument(
        "--template", choices=CHOICES, default=CHOICES[0],
        help="format of the prompt: auto takes the one that the model was trained on, and continues the prompt if "
        "there is none; plain continues it unchanged; alpaca makes it an instruction; chat uses the model's own chat "
        "template (needs jinja2) (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--special", action="store_true",
        help="control tokens that the prompt names, such as <|fim_prefix|>, become tokens; otherwise they are text",
    )  # fmt: skip
    add_sampling(parser)
    add_runtime(parser, cache_type=True)


def run(options: argparse.Namespace) -> None:
    """Continue the prompt or the file of prompts."""
    params = sampling_params(options)
    if options.prompts is not None:
        _generate_many(options, params)
        return
    if (options.output, options.batch) != (None, None):
        raise RequestError("--output and --batch need --prompts, a file of prompts; a single prompt goes to stdout")
    prompt = read_text(STANDARD) if options.prompt == STANDARD else options.prompt
    progress = PrefillProgress()
    lm = load_model(options, progress.show_loading)
    ids = lm.format(prompt, options.template, options.special)
    last = print_stream(progress.watch(lm, len(ids), lm.stream_generate(ids, params)))
    if options.verbose:
        print_end(lm, options.template, last, params.max_tokens)
        print_stats(lm)


def _generate_many(options: argparse.Namespace, params: SamplingParams) -> None:
    check_positive(options, "batch")
    batch = options.batch or BATCH
    prompts = read_prompts(options.prompts, params)
    lm = load_model(options)
    ids = [prompt.encode(lm, options.template, options.special) for prompt in prompts]
    form = f"{options.template}, special" if options.special else options.template  # results depend on it
    ends: Counter[str] = Counter()
    with Results(options.output or STANDARD, prompts, lm, form) as results:
        before, started = results.done, time.perf_counter()
        if before:
            print(f"{options.output}: {before} of {len(prompts)} prompts are already done", file=sys.stderr)
        left = [prompt.params for prompt in prompts[before:]]
        for completion in lm.generate_many(ids[before:], left, batch, _batch_report(batch, options.output)):
            results.write(completion)
            length = completion.prompt_tokens + completion.completion_tokens
            full = completion.finish_reason == "length" and length >= lm.context
            ends["full" if full else completion.finish_reason] += 1
    if options.verbose:
        seconds, stats = time.perf_counter() - started, lm.stats()
        print(
            f"[ {results.done - before} prompts, {stats['new_tokens']} tokens in {seconds:.1f} s: "
            f"{stats['new_tokens'] / seconds:.2f} tok/s | ended by an end token or a stop text: {ends['stop']}, by the "
            f"greatest length: {ends['length']}, by a full context: {ends['full']} ]",
            file=sys.stderr,
        )
        print_stats(lm)


def _batch_report(batch: int, output: str | None) -> Callable[[Report], None]:
    """Return a function that shows the progress of a run, and reports when memory lowers the batch size."""
    started, fewest = time.perf_counter(), batch
    alone = output is not None or not sys.stdout.isatty()  # no results are printed in between

    def show(report: Report) -> None:
        nonlocal fewest
        if report.waiting and report.running < fewest:
            fewest = report.running
            wipe_bar()
            print(
                f"batch lowered from {batch} to {fewest}: there is no memory for more; give a larger --poolsize",
                file=sys.stderr,
            )
        if alone:
            rate = report.new_tokens / (time.perf_counter() - started)
            show_progress(f"{report.new_tokens} tokens, {rate:.2f} tokens/s, prompts", report.done, report.total)

    return show
