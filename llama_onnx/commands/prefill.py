"""Progress while a long prompt is computed: a bar after 2 s, on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from ..model import LanguageModel
from ..tokens import Step
from .terminal import draw_share, show_progress, wipe_bar

PATIENCE = 2.0  # seconds


class PrefillProgress:
    """Shows a bar while a prompt goes through the layers; before that, the bar of loading."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Take a clock, which returns seconds."""
        self._clock = clock
        self._started = 0.0
        self._shown = False

    def show_loading(self, doing: str, done: int, total: int) -> None:
        """Show the progress of loading, unless that of the prompt is shown, which includes it."""
        if not self._shown:
            show_progress(doing, done, total)

    def watch(self, lm: LanguageModel, tokens: int, steps: Iterator[Step]) -> Iterator[Step]:
        """Yield the steps, and show progress until the first one.

        Args:
            lm: the model that makes them; its decoder reports each layer until then.
            tokens: in the prompt.
            steps: of one generation that has not begun.
        """
        decoder, work, done = lm.decoder, tokens * lm.config.num_layers, 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if self._clock() - self._started >= PATIENCE:
                self._shown = True
                draw_share(done / work, f"reading the prompt of {tokens} tokens, {100 * done // work} %")

        self._started = self._clock()
        setattr(decoder, "through_layers", partial(decoder.through_layers, advance=advance))  # noqa: B010  on this one
        try:
            first = next(steps, None)
        finally:
            del decoder.through_layers
            self._shown = False
            wipe_bar()
        if first is not None:
            yield first
            yield from steps
