"""`load` a model directory into a `LanguageModel`: config, tokenizer, pool and decoder under one memory promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from .batching.scheduler import BATCH, Completion, Report, Request, generate_many
from .config import ModelConfig, read_config
from .decoder import Decoder
from .errors import PoolTooSmallError, RequestError
from .generate import check_prompt, generate_tokens
from .kv_cache import check_cache_type
from .memory import available_bytes, format_size, parse_size, peak_bytes, process_bytes
from .original.decoder import LegacyDecoder
from .pool import MemoryPool, Pool, charge_of
from .sampling import SamplingParams
from .session import WARM_UP_BYTES, start_runtime
from .streaming.images import Progress
from .streaming.pool import StreamingPool
from .text.open import load_tokenizer
from .text.stream import stream_text
from .text.templates import Message, choose_template, render
from .tokenizer import Tokenizer
from .tokens import Step, Timing

SMALLEST_POOL = "min"
POOL_POLICIES = ("resident", "lru")
AUTOMATIC_SHARE = 0.8  # of the memory that is available


class LanguageModel:
    """A model ready to generate. Not for several threads at once."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, decoder: Decoder, context: int) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.decoder = decoder
        self.context = context
        self.timing = Timing()

    def stream_generate(self, prompt: str | Sequence[int], params: SamplingParams | None = None) -> Iterator[Step]:
        """Yield a `Step` for each generated token, its text as it becomes whole.

        Args:
            prompt: a text, or token ids taken as they are (no BOS is added).
            params: sampling and stop conditions; the defaults of `SamplingParams` where left out.

        Raises:
            RequestError: the prompt is empty, has ids out of range, or does not fit the context.
            PoolTooSmallError: the KV cache outgrew the memory that the pool size leaves.

        Example:
            >>> for step in lm.stream_generate("bonjour", SamplingParams(seed=7)):
            ...     print(step.text, end="", flush=True)
        """
        params = params or SamplingParams()
        ids = self._ids(prompt)
        check_prompt(ids, self.config.vocab_size, self.context)
        self.timing = Timing()
        tokens = generate_tokens(self.decoder, ids, params, self.context, self.timing)
        return _closing_stream(tokens, self.tokenizer, ids, params.stop)

    def generate(self, prompt: str | Sequence[int], params: SamplingParams | None = None) -> str:
        """Return the whole text that `stream_generate` yields."""
        return "".join(step.text for step in self.stream_generate(prompt, params))

    def generate_many(
        self,
        prompts: Sequence[str | Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        batch: int = BATCH,
        report: Callable[[Report], object] = lambda report: None,
    ) -> Iterator[Completion]:
        """Yield what comes after each of many prompts, in their order; they share each pass over the weights.

        Args:
            prompts: texts, or token ids taken as they are.
            params: for all prompts, which then have the seeds `seed`, `seed + 1` …; or one for each. Their
                `prompt_lookup` is not used.
            batch: how many are under way at a time, at the most; fewer where the memory does not hold them.
            report: called with a `Report` after every pass.

        Raises:
            RequestError: a prompt cannot be used (see `stream_generate`), batch is below 1, or there are not as many
                params as prompts.
            PoolTooSmallError: the memory that the pool size leaves does not hold one sequence.

        Example:
            >>> for completion in lm.generate_many(["bonjour", "The old man"], SamplingParams(max_tokens=50)):
            ...     print(completion.index, completion.text)
        """
        if batch < 1:
            raise RequestError(f"batch must be at least 1, not {batch}")
        if params is None or isinstance(params, SamplingParams):
            params = [(params or SamplingParams()).of_prompt(i) for i in range(len(prompts))]
        if len(params) != len(prompts):
            raise RequestError(f"{len(params)} sampling params for {len(prompts)} prompts; give one for each, or one")
        requests = [Request(self._ids(prompt), one) for prompt, one in zip(prompts, params, strict=True)]
        for i, request in enumerate(requests):
            try:
                check_prompt(request.prompt, self.config.vocab_size, self.context)
            except RequestError as error:
                raise RequestError(f"prompt {i}: {error}") from None
        self.timing = Timing()
        return generate_many(self.decoder, self.tokenizer, requests, self.context, batch, self.timing, report)

    def format(self, prompt: str | Sequence[Message], template: str = "auto") -> list[int]:
        """Return the token ids of an instruction, or of a conversation, in the form the model was trained on.

        Args:
            prompt: what the user says, or [{"role": "user", "content": text}, …].
            template: 'plain', 'alpaca', 'chat' (the model's own), or 'auto': see `templates.choose_template`.

        Raises:
            RequestError: an empty prompt, an unknown template, or messages the template refuses.
            MissingDependencyError: the model's chat template is asked for and jinja2 is not installed.

        Example:
            >>> lm.generate(lm.format("Say hello in French"))
        """
        if isinstance(prompt, str):
            _refuse_empty(prompt)
            prompt = [{"role": "user", "content": prompt}]
        chosen = choose_template(self.config, template)
        special = chosen.writes_special_tokens
        return self.tokenizer.encode(render(chosen, prompt), add_bos=not special, special=special)

    def logits(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return float32 [S, vocab] for int64 [S]: the scores for the token after each position, in one pass.

        Raises:
            RequestError: no ids, ids out of range, or more than the context holds.
        """
        ids = np.asarray(ids, np.int64)
        if ids.ndim != 1:
            raise RequestError(f"logits takes one sequence of ids [S], not an array of shape {list(ids.shape)}")
        check_prompt(ids.tolist(), self.config.vocab_size, self.context + 1)
        return self.decoder.logits(ids)

    def stats(self) -> dict[str, Any]:
        """Return the figures of the last generation, the pool's counts and the peak memory of the process (bytes)."""
        return {**self.timing.as_dict(), "pool": self.decoder.pool.as_dict(), "peak_memory": peak_bytes()}

    def _ids(self, prompt: str | Sequence[int]) -> list[int]:
        if not isinstance(prompt, str):
            return list(prompt)
        _refuse_empty(prompt)
        return self.tokenizer.encode(prompt)


def load(
    directory: str | Path,
    poolsize: str | float | None = None,
    ctx_size: int | None = None,
    threads: int | None = None,
    pool_policy: str = "resident",
    progress: Progress = lambda doing, done, total: None,
    cache_type: str = "fp32",
) -> LanguageModel:
    """Load a model directory. Shards are loaded when they are first needed.

    Args:
        directory: made by `tools/export_onnx.py`, or one of the original llama.onnx.
        poolsize: what the whole process may use: a number of GiB, a text ('2GB', '512MB'), 'min' (one shard at a
            time, as little as possible), or None for 80 % of the memory that is available.
        ctx_size: the most tokens of prompt and output together; None means the model's own context length.
        threads: how many threads compute; None means one per core. Fixed by the first model a process loads.
        pool_policy: 'resident' keeps the layers that fit and streams the others ahead of the loop; 'lru' loads a shard
            when it is needed, the least recently used one out first.
        progress: told (doing, done, total) while packed images of quantised shards are made, once per machine, and
            while the first pass loads the shards.
        cache_type: how keys and values are kept: 'fp32', or smaller at some cost in speed and quality 'fp16', 'int8'.

    Raises:
        ModelDirectoryError: the directory is not a whole model.
        PoolTooSmallError: not even one shard at a time fits beside the rest of the process.
        RequestError: an argument out of range.

    Example:
        >>> lm = llama_onnx.load("models/alpaca", poolsize="2GB")
    """
    if poolsize not in (None, SMALLEST_POOL):
        parse_size(poolsize)  # nonsense is told before anything is read
    config = read_config(directory)
    if ctx_size is not None and not 1 <= ctx_size <= config.context_length:
        raise RequestError(f"the context size must be 1 to {config.context_length} (the model's own), not {ctx_size}")
    check_cache_type(config, cache_type)
    tokenizer = load_tokenizer(config)
    start_runtime(threads)
    pool = _make_pool(config, poolsize, pool_policy, progress)
    decoder = LegacyDecoder(config, pool) if config.norm else Decoder(config, pool, cache_type=cache_type)
    return LanguageModel(config, tokenizer, decoder, ctx_size or config.context_length)


def _make_pool(config: ModelConfig, poolsize: str | float | None, policy: str, progress: Progress) -> Pool:
    """Return a pool of what is left of the promise when the rest of the process has its share."""
    if policy not in POOL_POLICIES:
        raise RequestError(f"pool policy {policy!r} is not known; these are: {', '.join(POOL_POLICIES)}")
    if poolsize == SMALLEST_POOL:
        return MemoryPool.smallest(config.shards) if policy == "lru" else StreamingPool(config, None, progress=progress)
    used = process_bytes() + WARM_UP_BYTES
    loading = max(shard.loading_bytes for shard in config.shards)
    promise = used + int(AUTOMATIC_SHARE * available_bytes()) if poolsize is None else parse_size(poolsize)
    if policy == "resident":
        try:
            return StreamingPool(config, promise - used, used, progress)
        except PoolTooSmallError:  # then perhaps one shard at a time
            pass
    try:
        return MemoryPool(config.shards, promise - used - loading, fixed_bytes=used + loading)
    except PoolTooSmallError:
        largest = max(map(charge_of, config.shards))
        raise PoolTooSmallError(
            f"a poolsize of {format_size(promise)} is too small for this model: the program itself takes "
            f"{format_size(used)} and one shard {format_size(largest + loading)} while it is loaded; "
            f"give at least {format_size(used + loading + largest)}"
        ) from None


def _refuse_empty(prompt: str) -> None:
    if not prompt:
        raise RequestError("the prompt is empty; give some text")


def _closing_stream(
    tokens: Iterator[Any], tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]
) -> Iterator[Step]:
    """Stream the text and end the token loop with it, so that its memory is free when the caller stops early."""
    with closing(tokens):  # type: ignore[type-var]
        yield from stream_text(tokens, tokenizer, prompt, stop)
