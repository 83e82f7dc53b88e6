"""`load` a model directory into a `LanguageModel`: config, tokenizer, pool and decoder under one memory promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from .batching.scheduler import BATCH, Report, generate_many, requests_of
from .config import ModelConfig
from .decoder import Decoder
from .errors import ModelStateError, RequestError
from .generate import generate_tokens
from .kv_types import check_cache_type
from .memory import peak_bytes
from .model_directory import read_config
from .original.decoder import LegacyDecoder
from .sampling import SamplingParams
from .session import Guard, start_runtime
from .streaming.images import Progress
from .streaming.promise import one_at_a_time, open_pool, promised
from .text.open import load_tokenizer
from .text.prompts import check_params, check_prompt, encode_prompt
from .text.stream import stream_text
from .text.templates import Message
from .tokenizer import Tokenizer
from .tokens import Completion, Step, Timing

Prompt = str | Sequence[int]


class LanguageModel(AbstractContextManager["LanguageModel"]):
    """A model ready to generate, for one thread at a time, in the process that loaded it, until `close()`.

    Any other use that computes is a `ModelStateError`."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, decoder: Decoder, context: int, promise: Any = None):
        self.config, self.tokenizer, self.decoder, self.context = config, tokenizer, decoder, context
        self.timing, self._promise = Timing(), promise

    def stream_generate(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Step]:
        """Yield a `Step` for each generated token, with the text that is complete by then.

        Args:
            prompt: a text, or token ids, to which no BOS is added.
            params: sampling and stop conditions; None means the defaults of `SamplingParams`.

        Raises:
            RequestError: the prompt is empty, has ids out of range, or does not fit the context.
            PoolTooSmallError: the KV cache has become too large for the pool.
        """
        ids, params = self.check(prompt), check_params(params, self.tokenizer)
        return Conversation(self, min(self.context, len(ids) + params.max_tokens)).stream(ids, params, last=True)

    def generate(self, prompt: Prompt, params: SamplingParams | None = None) -> str:
        """Return the whole text that `stream_generate` yields."""
        with self.decoder.guard:
            return "".join(step.text for step in self.stream_generate(prompt, params))

    def generate_many(
        self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None = None,
        batch: int = BATCH, report: Callable[[Report], object] = lambda report: None,
    ) -> Iterator[Completion]:  # fmt: skip
        """Yield the completion of each of many prompts, in their order; they share each pass over the weights.

        Args:
            prompts: as for `stream_generate`, which lists the errors as well.
            params: one for each prompt, or one for all, with the seeds `seed`, `seed + 1`, …
            batch: the most prompts that share a pass; fewer if memory is too small.
            report: called with a `Report` after every pass.
        """
        requests = requests_of(prompts, params, batch, self.check, self.tokenizer)
        self.timing = Timing()
        return generate_many(self.decoder, self.tokenizer, requests, self.context, batch, self.timing, report)

    def conversation(self) -> Conversation:
        """Return a `Conversation`, which keeps its KV cache from one prompt to the next."""
        with self.decoder.guard:
            return Conversation(self, self.context)

    def format(self, prompt: str | Sequence[Message], template: str = "auto", special: bool = False) -> list[int]:
        """Return the token ids of an instruction or a conversation, in the format the model was trained on.

        Args:
            prompt: the user's text, or a list of messages [{"role": "user", "content": text}, …].
            template: 'plain', 'alpaca', 'chat' (the model's own), or 'auto': see `templates.choose_template`.
            special: make tokens of control tokens that the prompt names; otherwise their names are ordinary text.
        """
        return encode_prompt(self.config, self.tokenizer, prompt, template, special)

    def check(self, prompt: Any, room: int = 1) -> list[int]:
        """Return the token ids of a prompt, or raise a `RequestError`; the context must have room for `room` more."""
        with self.decoder.guard:
            ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) and prompt else prompt
            return check_prompt(ids, self.config.vocab_size, self.context, room)

    def logits(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return float32 [S, vocab] for int64 [S]: the scores of the token after each position, in one pass."""
        return self.decoder.logits(np.array(self.check(ids, room=0), np.int64))

    def stats(self) -> dict[str, Any]:
        """Return the timing of the last generation, the pool's counts and the peak memory of the process in bytes."""
        return {**self.timing.as_dict(), "pool": self.decoder.pool.snapshot(), "peak_memory": peak_bytes()}

    def close(self) -> None:
        """Unload everything; other models of this process get its memory."""
        guard = self.decoder.guard
        if guard.gone:
            return
        with guard:
            guard.closed = True
            self.decoder.pool.close()
            if self._promise is not None:
                self._promise.leave(self.decoder.pool)

    def __exit__(self, *_: object) -> None:
        self.close()


class Conversation(AbstractContextManager["Conversation"]):
    """One KV cache and the memory reserved for it. The common prefix of a prompt and the previous one is reused.

    Example:
        >>> with lm.conversation() as chat:
        ...     said = lm.format("Tell me a story")
        ...     said += [step.token for step in chat.stream(said)]
        ...     chat.generate(said + lm.tokenizer.encode(" And then?", add_bos=False))
    """

    def __init__(self, lm: LanguageModel, capacity: int) -> None:
        self._lm, self._cache = lm, lm.decoder.new_cache(capacity)
        self._turn = 0  # counts changes of the cache: a stream of an earlier turn cannot go on

    @property
    def ids(self) -> list[int]:
        """The tokens whose keys and values are in the cache: none after `close`."""
        return list(map(int, self._cache.tokens())) if self._cache.lengths else []

    def stream(self, prompt: Prompt, params: SamplingParams | None = None, last: bool = False) -> Iterator[Step]:
        """Yield a `Step` for each token that continues `prompt`, which is the whole conversation so far.

        With `last`, the conversation is closed afterwards. See `LanguageModel.stream_generate`.
        """
        lm, cache = self._lm, self._cache
        ids, params, turn = lm.check(prompt), check_params(params, lm.tokenizer), self._next_turn()
        lm.timing = timing = Timing()
        limit = min(cache.capacity, len(ids) + params.max_tokens)
        tokens = generate_tokens(lm.decoder, cache, ids, params, limit, timing)
        return self._guarded(tokens, stream_text(tokens, lm.tokenizer, ids, params.stop), turn, last)

    def generate(self, prompt: Prompt, params: SamplingParams | None = None) -> str:
        """Return the whole text that `stream` yields."""
        with self._lm.decoder.guard:
            return "".join(step.text for step in self.stream(prompt, params))

    def append(self, ids: Sequence[int]) -> np.ndarray:
        """Append tokens to those in the cache; return float32 [vocab], the scores of the next token."""
        new = self._lm.check(ids, room=0)
        self._next_turn()
        return self._lm.decoder.forward([new], self._cache)[0, 0]

    def rewind(self, length: int) -> None:
        """Drop every token from position `length` on."""
        with self._lm.decoder.guard:
            self._next_turn()
            self._cache.truncate(length)

    def close(self) -> None:
        """Free the cache and return its memory to the pool."""
        guard = self._lm.decoder.guard
        with nullcontext() if guard.gone else guard:
            self._turn += 1
            self._cache.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next_turn(self) -> int:
        if not self._cache.lengths:
            raise ModelStateError("this conversation is closed; start another one")
        self._turn += 1
        return self._turn

    def _guarded(self, tokens: Any, steps: Iterator[Step], turn: int, last: bool) -> Iterator[Step]:
        """Yield the steps of a turn, and end the token loop when the caller stops early."""
        with closing(self if last else tokens), closing(tokens):
            while turn == self._turn:
                if (step := next(steps, None)) is None:
                    return
                yield step
            raise ModelStateError("this conversation has moved on or is closed; start a new stream")


@one_at_a_time()
def load(
    directory: str | Path, *, poolsize: str | float | None = None, ctx_size: int | None = None,
    threads: int | None = None, pool_policy: str = "resident", cache_type: str = "fp32",
    progress: Progress = lambda doing, done, total: None,
) -> LanguageModel:  # fmt: skip
    """Load a model directory; shards are loaded when they are first needed.

    Args:
        directory: made by `llama-onnx export`, or in the layout of the original llama.onnx.
        poolsize: memory for the whole process: GiB, a text ('512MB'), 'min' (as little as possible), or None for 80 %
            of the available memory. The first model fixes it; later ones share it and give the same size or None.
        ctx_size: the most tokens of prompt and output together; None means the model's own context length.
        threads: how many threads compute; None means one per core. The first model of a process fixes it.
        pool_policy: 'resident' keeps the layers that fit and streams the others; 'lru' is the plain pool.
        progress: called with (doing, done, total) while shards are packed (once per machine) and first loaded.
        cache_type: the type of keys and values: 'fp32', or 'fp16' or 'int8', which are smaller but slower and coarser.

    Raises a ModelDirectoryError for what is no complete model, a PoolTooSmallError where not even one shard at a time
    fits beside the rest of the process, and a RequestError for an argument out of range.
    """
    promise = promised(poolsize)
    config = read_config(directory)
    if ctx_size is not None and ctx_size not in range(1, config.context_length + 1):
        raise RequestError(f"the context size must be 1 to {config.context_length} (the model's own), not {ctx_size}")
    check_cache_type(config, cache_type)
    tokenizer = load_tokenizer(config)
    start_runtime(threads)
    guard = Guard()
    pool = open_pool(config, promise, guard, pool_policy, progress)
    kind = LegacyDecoder if config.norm else Decoder
    decoder = kind(config, pool, cache_type=cache_type, guard=guard)
    return LanguageModel(config, tokenizer, decoder, int(ctx_size or config.context_length), promise)
