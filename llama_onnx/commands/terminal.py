"""Functions that all verbs and scripts share: errors and exit codes, text, progress, figures, help."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from ..errors import LlamaOnnxError, RequestError
from ..memory import format_size
from ..model import LanguageModel
from ..text.templates import choose_template
from ..tokens import Step

INTERRUPTED = 130
STANDARD = "-"  # as the name of a file: standard input or output
BAR = 20  # characters
WIPE = "\r\x1b[K"  # back to the start of the line, and clear it
_bar = ""  # the progress bar that is shown now


def guard(run: Callable[[], int | None]) -> int:
    """Run a command and return its exit code. Errors that a user may cause are one line on stderr, not a traceback."""
    _open_streams()
    try:
        code = run()
        sys.stdout.flush()
    except LlamaOnnxError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has ended, as `head` does: this is not an error
        _give_up_output()
        return 0
    except OSError as error:  # a full disk, most likely
        return _fail(f"{error.filename or 'the output'}: {error.strerror}")
    return code or 0


def _open_streams() -> None:
    """Open /dev/null in place of closed standard streams, and let the terminal show "?" where it lacks a character."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for the rest of the process
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")


def _fail(message: str) -> int:
    wipe_bar()
    print(f"error: {message}", file=sys.stderr)
    _give_up_output()
    return 1


def _give_up_output() -> None:
    """Discard buffered output that cannot be written, so that it does not fail again when the process ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_stream(steps: Iterator[Step]) -> Step | None:
    """Print text as it is generated, and a newline at the end; return the last step."""
    step = None
    for step in steps:
        print(step.text, end="", flush=True)
    print()
    return step


def read_text(path: str) -> str:
    """Return the text of a file, or of standard input for '-'.

    Raises:
        RequestError: it cannot be read, is not UTF-8, or is empty.
    """
    name = "stdin" if path == STANDARD else path
    try:
        data = sys.stdin.buffer.read() if path == STANDARD else Path(path).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise RequestError(f"{name}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{name}: not valid UTF-8 text (byte {error.start})") from None
    if not text:
        raise RequestError(f"{name}: is empty")
    return text


def show_progress(doing: str, done: int, total: int) -> None:
    """Show a progress bar on stderr, and wipe it at the end; show nothing if stderr is not a terminal."""
    if done < total:
        draw_share(done / total, f"{doing}, {done} of {total}")
    else:
        wipe_bar()


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[float], None]]:
    """Yield a function that shows a share, 0 to 1, on the progress bar; wipe the bar at the end."""
    try:
        yield lambda share: draw_share(share, f"{title}, {100 * share:.0f} %")
    finally:
        wipe_bar()


def wipe_bar() -> None:
    """Wipe the progress bar, if one is shown."""
    global _bar
    if _bar and sys.stderr.isatty():
        print(WIPE, end="", file=sys.stderr, flush=True)
    _bar = ""


def draw_share(share: float, text: str) -> None:
    """Show a share, 0 to 1, on the progress bar with a text beside it, if stderr is a terminal."""
    global _bar
    full = int(BAR * min(share, 1.0))
    bar = f"{'█' * full}{'░' * (BAR - full)} {text}"
    if bar != _bar and sys.stderr.isatty():
        print(f"{WIPE}{bar}", end="", file=sys.stderr, flush=True)
        _bar = bar


def print_end(lm: LanguageModel, template: str, last: Step | None, max_tokens: int) -> None:
    """Print one line to stderr: how the prompt was presented, why the text ended, and how guesses fared."""
    stats, name = lm.stats(), choose_template(lm.config, template).name
    if last is None or last.finish_reason is None:
        reason = "was stopped"
    elif last.finish_reason == "stop":
        reason = "ended with an end token" if last.token in lm.config.eos_token_ids else "ended at a stop text"
    elif stats["prompt_tokens"] + stats["new_tokens"] >= lm.context:
        reason = f"ended because the context of {lm.context} tokens is full"
    else:
        reason = f"ended after --max-tokens {max_tokens}"
    guesses = f"prompt lookup: {stats['accepted']} of {stats['drafted']} guesses accepted"
    print(f"[ template {name} | {reason} | {guesses} ]", file=sys.stderr)


def print_stats(lm: LanguageModel) -> None:
    """Print one line of figures about the last generation to stderr."""
    stats = lm.stats()
    print(
        f"[ prompt {stats['prompt_tokens']} tokens, {stats['prompt_tokens_per_second']:.1f} tok/s | "
        f"generation {stats['new_tokens']} tokens, {stats['tokens_per_second']:.1f} tok/s | {_memory(stats)} ]",
        file=sys.stderr,
    )


def print_pool(lm: LanguageModel) -> None:
    """Print one line of figures about the memory pool to stderr."""
    print(f"[ {_memory(lm.stats())} ]", file=sys.stderr)


def _memory(stats: Mapping[str, Any]) -> str:
    pool = stats["pool"]
    return (
        f"pool {pool['hits']} hits, {pool['misses']} misses, {pool['evictions']} evictions, "
        f"{format_size(pool['loaded_bytes'])} loaded | peak memory {format_size(stats['peak_memory'])}"
    )


class HelpFormatter(argparse.HelpFormatter):
    """Wraps the paragraphs of descriptions and examples, and keeps indented lines unchanged."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = 14  # argparse ignores that the names of verbs are indented

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        blocks = groupby(text.strip().splitlines(), key=lambda line: line.startswith(" ") or not line)
        return "\n".join(
            "\n".join(lines) if as_it_is else textwrap.fill(" ".join(lines), width) for as_it_is, lines in blocks
        )
