"""Options that several verbs share: the model, sampling, memory and speed, with their help texts and defaults."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import ModelDirectoryError, PoolTooSmallError, RequestError
from ..kv_types import CACHE_TYPES
from ..model import LanguageModel, load
from ..model_directory import read_config
from ..sampling import SamplingParams
from ..streaming.images import PACKING, Progress
from ..streaming.promise import POOL_POLICIES
from .models import NAME_HELP, add_offline, open_store, smaller_that_fits
from .terminal import show_progress

DEFAULTS = SamplingParams()
MODEL_HELP = f"{NAME_HELP} (default: the small model that comes with llama_onnx)"
POOLSIZE_HELP = (
    "memory for the whole process: a number of GiB, or a size with its unit ('512MB'); 'min' keeps one shard in memory "
    "at a time (default: 80%% of what is available)"
)
CTX_HELP = "most tokens of prompt and answer together (default: the model's context)"
SAMPLING = (  # names, field of SamplingParams, type, placeholder, help
    (("--repeat-penalty", "--repetition-penalty"), "repetition_penalty", float, "X", "above 1: repeat tokens less"),
    (("--temp", "--temperature"), "temperature", float, "T", "0 always takes the most likely token"),
    (("--top-k",), "top_k", int, "K", "sample from the K most likely tokens; 0 = all"),
    (("--top-p",), "top_p", float, "P", "sample from the fewest tokens whose probabilities add up to P"),
    (("--min-p",), "min_p", float, "P", "drop tokens less likely than P times the most likely one"),
    (("-n", "--max-tokens"), "max_tokens", int, "N", "generate at most N tokens"),
    (("--prompt-lookup",), "prompt_lookup", int, "N",
     "guess up to N tokens from the text so far and check them in one pass; 0 = none"),
)  # fmt: skip


def add_option(
    group: argparse._ActionsContainer, *names: str, aliases: tuple[str, ...] = (), **more: Any
) -> argparse.Action:
    """Add an option; its aliases are accepted but not shown by --help."""
    action = group.add_argument(*names, **more)
    if aliases:
        hidden = {**more, "dest": action.dest, "help": argparse.SUPPRESS, "default": argparse.SUPPRESS}
        group.add_argument(*aliases, **hidden)
    return action


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add MODEL, which may be given with or without `-m`, and `--offline`."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("name", metavar="MODEL", nargs="?", help=MODEL_HELP)
    group.add_argument("-m", "--model", metavar="MODEL", help="the same as MODEL")
    add_offline(parser)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the options of sampling, in the order in which they are applied."""
    group = parser.add_argument_group("sampling (applied in this order)")
    for names, dest, kind, metavar, text in SAMPLING:
        group.add_argument(
            *names, dest=dest, type=kind, metavar=metavar, default=getattr(DEFAULTS, dest),
            help=f"{text} (default: %(default)s)",
        )  # fmt: skip
    group.add_argument(
        "-s", "--seed", type=int, metavar="N", help="same seed, same text (default: a new one each time)"
    )
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable")


def add_runtime(parser: argparse.ArgumentParser, ctx: str = CTX_HELP, cache_type: bool = False) -> None:
    """Add the options of memory and speed."""
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
            help="how keys and values are stored; the smaller, the slower and coarser (default: %(default)s)",
        )  # fmt: skip
    add_option(group, "-c", "--ctx-size", aliases=("--ctx",), type=int, metavar="N", help=ctx)
    add_threads(group)
    group.add_argument("-v", "--verbose", action="store_true", help="print figures on stderr at the end")


def add_threads(group: argparse._ActionsContainer) -> None:
    """Add `-t N`."""
    group.add_argument("-t", "--threads", type=int, metavar="N", help="threads that compute (default: one per core)")


def check_positive(options: argparse.Namespace, *names: str) -> None:
    """Raise RequestError if one of these options is given and below 1."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise RequestError(f"--{name.replace('_', '-')} must be at least 1, not {value}")


def sampling_params(options: argparse.Namespace) -> SamplingParams:
    """Return the sampling parameters of the options.

    Raises:
        RequestError: a value is out of range.
    """
    values = {dest: getattr(options, dest) for _, dest, _, _, _ in SAMPLING}
    return SamplingParams(**values, seed=options.seed, stop=tuple(options.stop))


def model_directory(options: argparse.Namespace) -> Path:
    """Return the directory of the given model, which may have to be made, or of the one that comes with llama_onnx."""
    given = options.name if options.model is None else options.model
    return embedded_model() if given is None else open_store(options).get(given)


def load_model(options: argparse.Namespace, progress: Progress = show_progress, **more: Any) -> LanguageModel:
    """Load the model with the options of memory and speed; arguments in `more` override them."""
    asked = {name: getattr(options, name) for name in ("poolsize", "ctx_size", "threads", "pool_policy")}
    if hasattr(options, "cache_type"):
        asked["cache_type"] = options.cache_type
    directory = model_directory(options)
    try:
        return load(directory, progress=progress, **{**asked, **more})
    except PoolTooSmallError as error:
        smaller = smaller_that_fits(read_config(directory), options.poolsize)
        raise PoolTooSmallError(
            f"{error}, or take the model as {smaller}, which would fit" if smaller else str(error)
        ) from None


def show_packing(doing: str, done: int, total: int) -> None:
    """Show only the progress of packing: the work after it has its own progress bar, which covers loading."""
    if doing == PACKING:
        show_progress(doing, done, total)


def embedded_model() -> Path:
    """Return the directory of the model that comes with llama_onnx: in the package, or beside it in a clone.

    Raises:
        ModelDirectoryError: it is in neither place.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "models" / "demo", package.parent / "models" / "demo"):
        if folder.is_dir():
            return folder
    raise ModelDirectoryError(f"the small model that comes with llama_onnx is not beside {package}; give one with -m")
