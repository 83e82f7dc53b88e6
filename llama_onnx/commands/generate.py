"""The command line: `llama-onnx VERB …` or `python -m llama_onnx VERB …`. Text goes to stdout, all else to stderr."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .. import __version__
from ..batching.scheduler import BATCH, Report
from ..errors import LlamaOnnxError, RequestError
from ..kv_types import CACHE_TYPES
from ..memory import format_size
from ..model import LanguageModel, load
from ..sampling import SamplingParams
from ..streaming.promise import POOL_POLICIES
from ..text.templates import CHOICES
from ..tokens import Step
from . import bench
from . import inspect as inspection
from . import score as cli_scoring
from .prompt_file import STANDARD, Results, read_prompts

DEFAULTS = SamplingParams()
INTERRUPTED = 130
BAR = 20  # characters
POOLSIZE_HELP = (
    "memory for the whole process: GiB as a number, or with a unit ('512MB'); 'min' holds one shard at a time "
    "(default: 80%% of what is available)"
)
TEMPLATE_HELP = (
    "what the prompt is put into: plain = nothing, the text is continued; alpaca = an instruction; chat = the model's "
    "own chat template (needs jinja2); auto = what the model was trained on (default: %(default)s)"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 an error, 2 usage, 130 interrupted."""
    options = _parser().parse_args(arguments)
    return guard(lambda: options.run(options))


def guard(run: Callable[[], object]) -> int:
    """Run a command; turn what a user may cause into one line on stderr and an exit code."""
    try:
        run()
        sys.stdout.flush()
    except LlamaOnnxError as error:
        print(f"error: {error}", file=sys.stderr)
        _give_up_output()
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as `head` does: nothing is left to say
        _give_up_output()
    except OSError as error:  # a full disk under it, most likely
        print(f"error: {error.filename or 'the output'}: {error.strerror}", file=sys.stderr)
        _give_up_output()
        return 1
    return 0


def _give_up_output() -> None:
    """What stdout still holds and cannot get rid of must not fail once more when the process ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_stream(steps: Iterator[Step]) -> None:
    """Print text as it comes, and a newline after it."""
    for step in steps:
        print(step.text, end="", flush=True)
    print()


def show_progress(doing: str, done: int, total: int) -> None:
    """Show on a terminal how far something is that keeps people waiting, and take it away when it is done."""
    if sys.stderr.isatty():
        bar = "█" * (BAR * done // total) + "░" * (BAR - BAR * done // total)
        line = f"{bar} {doing}, {done} of {total}" if done < total else ""
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def print_stats(lm: LanguageModel) -> None:
    """Print one line of figures about the last generation to stderr."""
    stats = lm.stats()
    pool = stats["pool"]
    print(
        f"[ prompt {stats['prompt_tokens']} tokens, {stats['prompt_tokens_per_second']:.1f} tok/s | "
        f"generation {stats['new_tokens']} tokens, {stats['tokens_per_second']:.1f} tok/s | "
        f"pool {pool['hits']} hits, {pool['misses']} misses, {pool['evictions']} evictions, "
        f"{format_size(pool['loaded_bytes'])} loaded | peak memory {format_size(stats['peak_memory'])} ]",
        file=sys.stderr,
    )


def _generate(options: argparse.Namespace) -> None:
    params = SamplingParams(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        max_tokens=options.max_tokens,
        seed=options.seed,
        stop=tuple(options.stop),
        prompt_lookup=options.prompt_lookup,
    )
    if options.prompts is not None:
        _generate_many(options, params)
        return
    if (options.output, options.batch) != (None, None):
        raise RequestError("--output and --batch go with --prompts, a file of prompts; a single one goes to stdout")
    prompt = _read_stdin() if options.prompt == STANDARD else options.prompt
    lm = _load(options)
    print_stream(lm.stream_generate(lm.format(prompt, options.template), params))
    if options.verbose:
        print_stats(lm)


def _load(options: argparse.Namespace) -> LanguageModel:
    return load(
        options.model, poolsize=options.poolsize, ctx_size=options.ctx_size, threads=options.threads,
        pool_policy=options.pool_policy, progress=show_progress, cache_type=options.cache_type,
    )  # fmt: skip


def _generate_many(options: argparse.Namespace, params: SamplingParams) -> None:
    batch = BATCH if options.batch is None else options.batch
    if batch < 1:
        raise RequestError(f"batch must be at least 1, not {batch}")
    prompts = read_prompts(options.prompts, params)
    lm = _load(options)
    ids = [prompt.encode(lm, options.template) for prompt in prompts]
    with Results(options.output or STANDARD, prompts, lm, options.template) as results:
        before, started = results.done, time.perf_counter()
        if before:
            print(f"{options.output}: {before} of {len(prompts)} prompts are done already", file=sys.stderr)
        left = [prompt.params for prompt in prompts[before:]]
        for completion in lm.generate_many(ids[before:], left, batch, _batch_report(batch, options.output)):
            results.write(completion)
    if options.verbose:
        seconds, stats = time.perf_counter() - started, lm.stats()
        print(
            f"[ {results.done - before} prompts, {stats['new_tokens']} tokens in {seconds:.1f} s: "
            f"{stats['new_tokens'] / seconds:.2f} tok/s ]",
            file=sys.stderr,
        )
        print_stats(lm)


def _batch_report(batch: int, output: str | None) -> Callable[[Report], None]:
    """Return what shows on a terminal how far a run is, and says whenever memory lets fewer share a pass."""
    started, fewest = time.perf_counter(), batch
    alone = output is not None or not sys.stdout.isatty()  # no results come between

    def show(report: Report) -> None:
        nonlocal fewest
        if report.waiting and report.running < fewest:
            fewest = report.running
            clear = "\r\x1b[K" if sys.stderr.isatty() else ""
            print(
                f"{clear}batch lowered from {batch} to {fewest}: there is no memory for more; give a larger poolsize",
                file=sys.stderr,
            )
        if alone:
            rate = report.new_tokens / (time.perf_counter() - started)
            show_progress(f"{report.new_tokens} tokens, {rate:.2f} tokens/s, prompts", report.done, report.total)

    return show


def _read_stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise RequestError(f"the prompt on standard input is not text: {error}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llama-onnx",
        description="Run a Llama-family model of any size in any amount of memory, one ONNX shard per layer.",
        epilog="Make a model directory from a Hugging Face checkpoint with: python tools/export_onnx.py HF_DIR OUT",
    )
    parser.add_argument("--version", action="version", version=f"llama_onnx {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    verb = verbs.add_parser(
        "generate",
        help="continue a prompt, or a file of them",
        description="Continue a prompt; the text streams to stdout as it comes. Or continue many prompts, which share "
        "each pass over the weights: a JSON line each, as are the results, in the same order.",
        epilog="examples:\n  llama-onnx generate -m models/alpaca -p 'Once upon a time' --temp 0.8 --seed 7 -v\n"
        "  llama-onnx generate -m models/alpaca -p - --poolsize 2 < question.txt\n"
        "  llama-onnx generate -m models/alpaca --prompts questions.jsonl --output answers.jsonl -n 200\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.set_defaults(run=_generate)
    verb.add_argument("-m", "--model", required=True, metavar="DIR", help="model directory")
    prompt = verb.add_mutually_exclusive_group(required=True)
    prompt.add_argument("-p", "--prompt", metavar="TEXT", help="text to continue; '-' reads stdin")
    prompt.add_argument(
        "--prompts", metavar="FILE.jsonl",
        help='texts to continue, each a line {"prompt": "…"}, with "id", "stop" and sampling options of its own where '
        "wanted, or a JSON string; '-' reads stdin",
    )  # fmt: skip
    verb.add_argument("--output", metavar="FILE.jsonl", help="where results of --prompts go; a file that was begun is "
        "continued (default: stdout)")  # fmt: skip
    verb.add_argument("--batch", type=int, metavar="N", help="how many of --prompts share a pass, if the memory holds "
        f"them (default: {BATCH})")  # fmt: skip
    verb.add_argument("--template", choices=CHOICES, default="plain", help=TEMPLATE_HELP)
    _add_sampling(verb)
    _add_runtime(verb, cache_type=True)
    cli_scoring.add_verbs(verbs, _add_runtime)
    bench.add_verbs(verbs, _add_runtime, show_progress)
    inspection.add_verb(verbs)
    return parser


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    def add(*names: str, help: str, **more: Any) -> None:
        parser.add_argument(
            *names, default=getattr(DEFAULTS, more["dest"]), help=f"{help} (default: %(default)s)", **more
        )

    group = parser.add_argument_group("sampling (applied in this order)")
    parser = group  # type: ignore[assignment]
    add("--repeat-penalty", "--repetition-penalty", dest="repetition_penalty", type=float, metavar="X",
        help="above 1 makes tokens that occurred already less likely")  # fmt: skip
    add("--temp", "--temperature", dest="temperature", type=float, metavar="T", help="0 = always the most likely token")
    add("--top-k", dest="top_k", type=int, metavar="K", help="sample from the K most likely tokens; 0 = all")
    add("--top-p", dest="top_p", type=float, metavar="P", help="sample from the fewest tokens that reach P together")
    add("--min-p", dest="min_p", type=float, metavar="P", help="drop tokens below this share of the most likely one")
    add("-n", "--max-tokens", dest="max_tokens", type=int, metavar="N", help="the most tokens to generate")
    add("--prompt-lookup", dest="prompt_lookup", type=int, metavar="N",
        help="guess up to N tokens from the text so far and check them in one pass; 0 = none")  # fmt: skip
    group.add_argument(
        "-s", "--seed", type=int, metavar="N", help="same seed, same text (default: a new one each time)"
    )
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable")


def _add_runtime(
    parser: argparse.ArgumentParser,
    ctx: str = "most tokens of prompt and answer together",
    cache_type: bool = False,
) -> None:
    group = parser.add_argument_group("memory and speed")
    group.add_argument("--poolsize", metavar="SIZE", help=POOLSIZE_HELP)
    group.add_argument(
        "--pool-policy", choices=POOL_POLICIES, default=POOL_POLICIES[0],
        help="'resident' keeps the layers that fit and reads the others ahead; 'lru' loads each when it is needed "
        "(default: %(default)s)",
    )  # fmt: skip
    if cache_type:
        group.add_argument(
            "--cache-type", choices=CACHE_TYPES, default=CACHE_TYPES[0],
            help="how keys and values are kept; the smaller, the slower and coarser (default: %(default)s)",
        )  # fmt: skip
    group.add_argument("-c", "--ctx", "--ctx-size", dest="ctx_size", type=int, metavar="N", help=ctx)
    group.add_argument("-t", "--threads", type=int, metavar="N", help="threads that compute (default: one per core)")
    group.add_argument("-v", "--verbose", action="store_true", help="figures on stderr at the end")
