"""The public API: a model that closes, conversations, streams side by side, threads, types, and models without text."""

from __future__ import annotations

import gc
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import FIXTURES, VOCAB, make_checkpoint, run
from llama_onnx_layout import write_layout

import llama_onnx
from llama_onnx import (
    Conversation,
    LanguageModel,
    LlamaOnnxError,
    ModelDirectoryError,
    ModelStateError,
    PoolTooSmallError,
    RequestError,
    SamplingParams,
)
from llama_onnx.commands.command_line import main
from llama_onnx.decoder import Decoder
from llama_onnx.decoding.lookup import PromptLookup
from llama_onnx.export.exporter import export
from llama_onnx.pool import Reservation

GREEDY = SamplingParams(temperature=0, max_tokens=12)
SEEDED = SamplingParams(temperature=1.2, top_k=0, max_tokens=12, seed=5)
LONG_ANSWER = SamplingParams(temperature=2.0, top_k=0, max_tokens=200, seed=5)  # random tokens, so nothing is drafted
PROMPT = [1, 20, 30, 40, 50, 60]


@pytest.fixture(scope="module")
def lm(model: Path) -> LanguageModel:
    return llama_onnx.load(model)


def tokens(of: LanguageModel | Conversation, prompt: Any, params: SamplingParams = GREEDY) -> list[int]:
    stream = of.stream_generate if isinstance(of, LanguageModel) else of.stream
    return [step.token for step in stream(prompt, params)]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens went through the embed shard, pass by pass."""
    counts: list[int] = []
    embed = Decoder.embed
    monkeypatch.setattr(Decoder, "embed", lambda self, stretch: counts.append(stretch.ids.size) or embed(self, stretch))
    return counts


# Loading and closing


def test_options_of_load_are_keyword_only(model: Path) -> None:
    parameters = list(inspect.signature(llama_onnx.load).parameters.values())
    assert parameters[0].name == "directory"
    assert {parameter.kind for parameter in parameters[1:]} == {inspect.Parameter.KEYWORD_ONLY}
    with pytest.raises(TypeError):
        llama_onnx.load(model, "2GB")  # type: ignore[misc]


@pytest.mark.parametrize("size", [0, 257, 2.5, "10", -1, float("nan"), [10]])
def test_an_invalid_context_size_is_refused(model: Path, size: Any) -> None:
    with pytest.raises(RequestError, match=r"context size must be 1 to 256"):
        llama_onnx.load(model, ctx_size=size)


USES: dict[str, Callable[[LanguageModel, Conversation], Any]] = {
    "stream_generate": lambda lm, chat: lm.stream_generate(PROMPT, GREEDY),
    "generate": lambda lm, chat: lm.generate("fox", GREEDY),
    "generate_many": lambda lm, chat: list(lm.generate_many([PROMPT], GREEDY)),
    "logits": lambda lm, chat: lm.logits(PROMPT),
    "conversation": lambda lm, chat: lm.conversation(),
    "Conversation.stream": lambda lm, chat: chat.stream(PROMPT, GREEDY),
    "Conversation.generate": lambda lm, chat: chat.generate(PROMPT, GREEDY),
    "Conversation.append": lambda lm, chat: chat.append([5]),
    "Conversation.rewind": lambda lm, chat: chat.rewind(1),
}


@pytest.fixture(scope="module")
def closed(model: Path) -> tuple[LanguageModel, Conversation]:
    with llama_onnx.load(model) as lm:
        chat = lm.conversation()
        chat.generate(PROMPT, GREEDY)
    return lm, chat


@pytest.mark.parametrize("use", USES)
def test_every_use_after_close_is_a_typed_error(closed: tuple[LanguageModel, Conversation], use: str) -> None:
    with pytest.raises(ModelStateError, match="the model is closed; load it again"):
        USES[use](*closed)


def test_every_thread_hears_that_the_model_is_closed(model: Path) -> None:
    """Not that another thread is using it: a refused call does not keep the lock."""
    with llama_onnx.load(model) as lm:
        pass
    for _ in range(2):
        with pytest.raises(ModelStateError, match="the model is closed; load it again"):
            lm.logits(PROMPT)
        refused = in_thread(lambda: lm.logits(PROMPT))
        assert isinstance(refused, ModelStateError)
        assert "the model is closed; load it again" in str(refused)


def test_a_stream_begun_before_close_fails_at_its_next_step(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = llama_onnx.load(model)
    begun: list[Iterator[Any]] = [
        lm.stream_generate(PROMPT, GREEDY),
        lm.conversation().stream(PROMPT, GREEDY),
        lm.generate_many([PROMPT, PROMPT], [replace(GREEDY, max_tokens=1), GREEDY]),
    ]
    for one in begun:
        next(one)
    fresh = [lm.stream_generate(PROMPT), lm.generate_many([PROMPT])]
    lm.close()
    changes: list[int] = []
    monkeypatch.setattr(Reservation, "hold", lambda self, size: changes.append(size))
    for one in begun + fresh:
        with pytest.raises(ModelStateError, match="closed"):
            next(one)
    assert not changes  # a pool that is closed makes no new plans
    assert lm.stats()["pool"]["reserved"] == 0


def test_closing_twice_and_closing_a_conversation_of_a_closed_model_do_nothing(model: Path) -> None:
    with llama_onnx.load(model) as lm, lm.conversation() as chat:
        chat.generate(PROMPT, GREEDY)
        lm.close()
        lm.close()
    chat.close()
    assert lm.stats()["pool"]["resident_bytes"] == 0 or not lm.decoder.pool._loader.places()  # type: ignore[attr-defined]


def test_a_model_closes_when_an_error_ends_its_block(model: Path) -> None:
    with pytest.raises(KeyError), llama_onnx.load(model) as lm:
        raise KeyError
    with pytest.raises(ModelStateError):
        lm.generate("fox")


# Conversations


@pytest.mark.parametrize("cache_type", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(
    "params", [GREEDY, SEEDED, replace(GREEDY, prompt_lookup=0)], ids=["greedy", "seeded", "plain"]
)
def test_a_second_turn_computes_only_new_tokens_and_equals_a_fresh_stream(
    model: Path, computed: list[int], params: SamplingParams, cache_type: str
) -> None:
    with llama_onnx.load(model, cache_type=cache_type) as lm, lm.conversation() as chat:
        said = list(PROMPT)
        for turn in range(4):
            added = [70 + turn, 80, 90]
            said += added if turn else []
            computed.clear()
            answer = tokens(chat, said, params)
            # The last token of the answer before was never computed, nor are those of this turn.
            reused = len(said) - 4 if turn else 0
            assert computed[0] == len(said) - reused
            assert lm.timing.reused_tokens == reused
            assert lm.timing.prompt_tokens == len(said)
            computed.clear()
            fresh = tokens(lm, said, params)
            assert computed[0] == len(said)
            if cache_type != "int8" or not turn:  # it rounds the keys of earlier turns, which one pass does not
                assert fresh == answer
            said += answer
            assert chat.ids[: len(said) - 1] == said[:-1]


def test_prompts_of_a_conversation_may_be_text_or_ids(lm: LanguageModel, computed: list[int]) -> None:
    with lm.conversation() as chat:
        text = chat.generate("the quick brown fox", GREEDY)
        assert text == lm.generate("the quick brown fox", GREEDY)
        computed.clear()
        longer = "the quick brown fox jumps over"
        assert tokens(chat, longer) == tokens(lm, lm.tokenizer.encode(longer))
        assert computed[0] < len(lm.tokenizer.encode(longer))


def test_a_prompt_shorter_than_the_cache_computes_one_token(lm: LanguageModel, computed: list[int]) -> None:
    with lm.conversation() as chat:
        first = tokens(chat, PROMPT)
        for prompt in (PROMPT, PROMPT[:3], [*PROMPT, *first[:4]]):
            expected = tokens(lm, prompt, SEEDED)
            computed.clear()
            assert tokens(chat, prompt, SEEDED) == expected
            assert computed[0] >= 1
            assert lm.timing.reused_tokens == len(prompt) - computed[0]
        computed.clear()
        tokens(chat, PROMPT[:3])
        assert computed[0] == 1


def test_a_prompt_with_another_beginning_is_computed_again(lm: LanguageModel, computed: list[int]) -> None:
    with lm.conversation() as chat:
        tokens(chat, PROMPT)
        for prompt, common in (([9, *PROMPT[1:]], 0), ([9, 20, 30, 99, 98, 97, 96], 3)):
            expected = tokens(lm, prompt)
            computed.clear()
            assert tokens(chat, prompt) == expected
            assert computed[0] == len(prompt) - common


def test_append_and_rewind_give_the_scores_of_one_pass(lm: LanguageModel, computed: list[int]) -> None:
    expected = lm.logits(PROMPT)
    with lm.conversation() as chat:
        for _ in range(2):
            computed.clear()
            np.testing.assert_allclose(chat.append(PROMPT[:2]), expected[1], atol=1e-4)
            np.testing.assert_allclose(chat.append(PROMPT[2:5]), expected[4], atol=1e-4)
            chat.append([7, 8, 9])
            assert chat.ids == [*PROMPT[:5], 7, 8, 9]
            chat.rewind(5)
            scores = chat.append(np.array(PROMPT[5:]))  # type: ignore[arg-type]
            np.testing.assert_allclose(scores, expected[5], atol=1e-4)
            assert (scores.dtype, scores.shape) == (np.float32, (VOCAB,))
            assert computed == [2, 3, 3, 1]
            assert chat.ids == PROMPT
            chat.rewind(0)
        chat.append(PROMPT)
        chat.rewind(3)
        computed.clear()
        assert tokens(chat, PROMPT) == tokens(lm, PROMPT)
        assert computed[0] == 3


@pytest.mark.parametrize("length", [-1, 7, 2.5, "3", None, float("nan")])
def test_rewinding_to_an_invalid_length_is_refused_and_changes_nothing(lm: LanguageModel, length: Any) -> None:
    with lm.conversation() as chat:
        chat.append(PROMPT)
        with pytest.raises(RequestError, match="6 tokens"):
            chat.rewind(length)
        assert chat.ids == PROMPT
        chat.rewind(np.int64(4))  # type: ignore[arg-type]
        assert chat.ids == PROMPT[:4]


@pytest.mark.parametrize("lookup", [0, 8])
def test_an_abandoned_stream_leaves_a_usable_cache(lm: LanguageModel, lookup: int) -> None:
    params = replace(GREEDY, prompt_lookup=lookup, max_tokens=40)
    prompt = PROMPT * 4  # repeats itself, so that the cache holds wrong drafted tokens for a while
    expected = tokens(lm, prompt, params)
    with lm.conversation() as chat:
        for count in (1, 2, 7, 20):
            steps = chat.stream(prompt, params)
            begun = [next(steps).token for _ in range(count)]
            assert begun == expected[:count]
            if count % 2:
                steps.close()  # type: ignore[attr-defined]
            del steps
            assert tokens(chat, [*prompt, *begun], replace(params, max_tokens=40 - count)) == expected[count:]


@pytest.mark.parametrize(
    "change",
    [
        lambda chat: chat.stream(PROMPT, GREEDY),
        lambda chat: chat.generate(PROMPT, GREEDY),
        lambda chat: chat.append([5]),
        lambda chat: chat.rewind(2),
        lambda chat: chat.close(),
    ],
    ids=["stream", "generate", "append", "rewind", "close"],
)
def test_a_stream_whose_conversation_moved_on_is_a_typed_error(lm: LanguageModel, change: Any) -> None:
    chat = lm.conversation()
    steps = chat.stream(PROMPT, GREEDY)
    next(steps)
    change(chat)
    with pytest.raises(ModelStateError, match="start a new stream"):
        next(steps)
    chat.close()
    assert lm.stats()["pool"]["reserved"] == 0


@pytest.mark.parametrize("use", [name for name in USES if name.startswith("Conversation")])
def test_a_closed_conversation_is_a_typed_error(lm: LanguageModel, use: str) -> None:
    with lm.conversation() as chat:
        chat.generate(PROMPT, GREEDY)
    with pytest.raises(ModelStateError, match="this conversation is closed; start another one"):
        USES[use](lm, chat)


def test_a_closed_conversation_holds_no_tokens(lm: LanguageModel) -> None:
    with lm.conversation() as chat:
        chat.append(PROMPT)
        assert chat.ids == PROMPT
    assert chat.ids == []


def test_a_refused_prompt_does_not_change_the_conversation(lm: LanguageModel, computed: list[int]) -> None:
    with lm.conversation() as chat:
        first = tokens(chat, PROMPT)
        for bad in ("", [], [VOCAB], [5] * 256, [1.5]):
            with pytest.raises(RequestError):
                chat.stream(bad)  # type: ignore[arg-type]
        with pytest.raises(RequestError):
            chat.append([5] * 250)
        computed.clear()
        tokens(chat, [*PROMPT, *first])
        assert computed[0] == 1


def test_a_conversation_ends_at_the_context(model: Path) -> None:
    with llama_onnx.load(model, ctx_size=20) as lm, lm.conversation() as chat:
        said = list(PROMPT)
        params = replace(GREEDY, max_tokens=2000)
        steps = list(chat.stream(said, params))
        assert (len(said) + len(steps), steps[-1].finish_reason) == (20, "length")
        said += [step.token for step in steps]
        with pytest.raises(RequestError, match="20 tokens, the context holds 20 with the answer"):
            chat.stream(said)
        assert len(tokens(chat, said[:19], params)) == 1
        chat.rewind(0)
        assert chat.append([5] * 19).shape == chat.append([6]).shape  # no room is left for an answer
        with pytest.raises(RequestError, match="21 tokens do not fit the cache of 20"):
            chat.append([7])
        chat.rewind(19)
        chat.append([7])


@pytest.mark.parametrize("name", ["phi3-longrope-below", "phi3-longrope-beyond-partial"])
def test_a_conversation_can_switch_its_rope_factors_and_back(name: str, tmp_path: Path) -> None:
    """LongRoPE: beyond a length all keys are rotated by other factors, so all of them are computed again."""
    export(FIXTURES / name, tmp_path / "model")
    with llama_onnx.load(tmp_path / "model") as lm, lm.conversation() as chat:
        switch = lm.config.rope_switch_length
        assert switch is not None
        ids = np.load(FIXTURES / name / "expected.npz")["ids"].tolist()
        ids = (ids * 9)[: switch + 20]
        params = replace(GREEDY, max_tokens=8)
        lengths = (switch - 12, switch - 3, switch + 6, switch - 5, switch + 1, switch, switch - 1)
        for length in lengths:  # the second one and the last but one cross it during generation
            assert tokens(chat, ids[:length], params) == tokens(lm, ids[:length], params), length
            assert tokens(chat, ids[:length], replace(SEEDED, max_tokens=8)) == tokens(
                lm, ids[:length], replace(SEEDED, max_tokens=8)
            )
        with closing(lm.decoder.new_cache(8, rows=2)) as cache, pytest.raises(RequestError, match="each of the 2 rows"):
            lm.decoder.forward([ids[:4]], cache)
        chat.rewind(0)
        chat.append(ids[: switch - 2])
        np.testing.assert_allclose(
            chat.append(ids[switch - 2 : switch + 3]), lm.logits(ids[: switch + 3])[-1], atol=1e-4
        )
        chat.rewind(switch - 2)
        np.testing.assert_allclose(chat.append(ids[switch - 2 : switch]), lm.logits(ids[:switch])[-1], atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_conversation_of_the_original_layout(
    checkpoint: Path, tmp_path: Path, computed: list[int], dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama_onnx.original.decoder import LegacyDecoder

    counts: list[int] = []
    embed = LegacyDecoder.embed
    monkeypatch.setattr(LegacyDecoder, "embed", lambda self, s: counts.append(s.ids.size) or embed(self, s))
    with llama_onnx.load(write_layout(checkpoint, tmp_path / "old", np.dtype(dtype))) as lm:
        chat = lm.conversation()
        first = tokens(chat, PROMPT)
        assert first == tokens(lm, PROMPT)
        said = [*PROMPT, *first, 70, 80]
        expected = tokens(lm, said)
        counts.clear()
        assert tokens(chat, said) == expected
        assert counts[0] == 3
        assert tokens(chat, PROMPT[:4], SEEDED) == tokens(lm, PROMPT[:4], SEEDED)
        chat.rewind(2)
        np.testing.assert_allclose(
            chat.append(PROMPT[2:]), lm.logits(PROMPT)[-1], atol=1e-3 if dtype == np.float32 else 0.1
        )
        keys = weakref.ref(chat._cache._grown[0][0][0])  # type: ignore[attr-defined]
        assert keys() is not None
        chat.close()
        gc.collect()
        assert keys() is None, "the memory that was given back is still in use"


def test_the_keys_of_a_closed_conversation_are_freed(lm: LanguageModel) -> None:
    chat = lm.conversation()
    chat.append(PROMPT)
    assert lm.stats()["pool"]["reserved"] > 0
    keys = weakref.ref(chat._cache.keys[0])
    chat.close()
    gc.collect()
    assert keys() is None
    assert lm.stats()["pool"]["reserved"] == 0
    chat.close()


def test_pages_that_were_written_stay_reserved_after_rewinding(lm: LanguageModel) -> None:
    """Memory is not returned to the system when a cache is truncated."""

    def held(longest: int) -> int:
        with lm.conversation() as chat:
            chat.append(range(5, 5 + longest))
            chat.rewind(5)
            chat.append([7])
            return reserved(lm)

    cache = lm.decoder.new_cache(lm.context)
    assert held(200) - held(5) == cache.bytes_with([200]) - cache.bytes_with([5]) > 0


# Several streams at a time


@pytest.mark.parametrize("poolsize", [None, "min"])
def test_interleaved_streams_give_the_same_as_alone_and_keep_their_reservations(
    model: Path, poolsize: str | None
) -> None:
    with llama_onnx.load(model, poolsize=poolsize) as lm:
        prompts = ([1, 5, 6], "the lazy dog", [9] * 30)
        each = [replace(SEEDED, max_tokens=count, seed=count) for count in (6, 12, 18)]
        alone, held = [], []  # what each stream says, and how much it reserves after each of its tokens
        for prompt, params in zip(prompts, each, strict=True):
            steps = [(step.token, reserved(lm)) for step in lm.stream_generate(prompt, params)]  # type: ignore[arg-type]
            alone.append([token for token, _ in steps])
            held.append([size for _, size in steps])
            assert reserved(lm) == 0
        streams = [lm.stream_generate(prompt, params) for prompt, params in zip(prompts, each, strict=True)]  # type: ignore[arg-type]
        found: list[list[int]] = [[], [], []]
        for i, stream in enumerate(streams):
            found[i].append(next(stream).token)
            assert reserved(lm) == sum(sizes[0] for sizes in held[: i + 1]) > 0
        running = dict(enumerate(streams))
        while running:
            for i, stream in list(running.items()):
                step = next(stream, None)
                if step is None:
                    del running[i]
                else:
                    found[i].append(step.token)
                assert reserved(lm) == sum(held[j][len(found[j]) - 1] for j in running)
        assert found == alone


def reserved(lm: LanguageModel) -> int:
    return int(lm.stats()["pool"]["reserved"])


def test_conversations_and_streams_of_one_model_do_not_mix(lm: LanguageModel) -> None:
    other = [1, 99, 98, 97]
    expected = tokens(lm, PROMPT, SEEDED), tokens(lm, other, SEEDED)
    with lm.conversation() as one, lm.conversation() as two:
        steps = zip(one.stream(PROMPT, SEEDED), two.stream(other, SEEDED), strict=True)
        both = [(a.token, b.token) for a, b in steps]
        assert tuple(map(list, zip(*both, strict=True))) == expected
        sizes = reserved(lm)
        completions = list(lm.generate_many([PROMPT, other], GREEDY))
        lm.logits(PROMPT)
        assert reserved(lm) == sizes
        assert [c.text for c in completions] == [lm.generate(p, GREEDY) for p in (PROMPT, other)]


# The promise of one model


def test_logits_of_many_positions_are_within_the_promise(model: Path) -> None:
    ids = [5] * 200
    with llama_onnx.load(model) as lm:
        pool, decoder = lm.decoder.pool, lm.decoder
        decoder.chunk = 16  # a layer takes less than the scores of all positions

        def taken(every_position: bool) -> int:
            with closing(decoder.new_cache(200, one_layer=True)) as cache:
                assert decoder.forward([ids], cache, every_position).shape == (1, 200 if every_position else 1, VOCAB)
                return reserved(lm) - held.size

        held = pool.reserved()
        last_only, all_positions = taken(False), taken(True)
        scores = 4 * lm.config.vocab_size * 199
        assert all_positions >= last_only + scores // 2
        pool.resize(sum(shard.loaded_bytes for shard in lm.config.shards) + (12 << 20))  # type: ignore[attr-defined]
        low, high = 0, int(pool.snapshot()["budget"])
        while high - low > 1000:  # the most that can be held
            middle = (low + high) // 2
            try:
                held.hold(middle)
                low = middle
            except PoolTooSmallError:
                high = middle
        held.hold(low - all_positions + scores // 4)
        taken(False)
        with pytest.raises(PoolTooSmallError):
            lm.logits(ids)
        assert reserved(lm) == held.size
        held.hold(low - all_positions)
        assert lm.logits(ids).shape == (200, VOCAB)
        assert reserved(lm) == held.size
        held.close()


def test_the_lookup_table_grows_with_the_answer(lm: LanguageModel) -> None:
    def held(lookup: int) -> list[int]:
        """What a long answer to a short prompt reserves after each of its tokens."""
        sizes = [reserved(lm) for _ in lm.stream_generate(PROMPT, replace(LONG_ANSWER, prompt_lookup=lookup))]
        assert lm.timing.drafted == 0, "the passes of both must be alike"
        return sizes

    tables = [more - plain for more, plain in zip(held(8), held(0), strict=True)]
    assert tables == [PromptLookup(8).bytes_for(len(PROMPT) + i) for i in range(len(tables))]
    assert tables[-1] > 10 * tables[0] > 0


def test_the_lookup_table_is_within_the_promise(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(lookup: int) -> int:
        steps = lm.stream_generate(PROMPT * 8, replace(GREEDY, prompt_lookup=lookup))
        next(steps)
        size = reserved(lm)
        steps.close()  # type: ignore[attr-defined]
        assert reserved(lm) == 0
        return size

    assert held(8) - held(0) == PromptLookup(8).bytes_for(len(PROMPT) * 8) > 0
    monkeypatch.setattr(PromptLookup, "bytes_for", lambda *_: 1 << 60)
    with pytest.raises(PoolTooSmallError):
        held(8)
    held(0)


# Threads


def in_thread(work: Callable[[], Any]) -> Any:
    """Run `work` in a thread and return its result, or the error it raises."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it hangs"
    return found[0]


class Inside:
    """While this block runs, another thread is using the model and waits."""

    def __init__(self, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()
        self.found: list[Any] = []
        embed, waiting = lm.decoder.embed, threading.Thread(target=lambda: self.found.append(tokens(lm, PROMPT)))
        self.thread = waiting

        def wait(stretch: Any) -> None:
            if threading.current_thread() is waiting:
                self.entered.set()
                assert self.leave.wait(60)
            embed(stretch)

        monkeypatch.setattr(lm.decoder, "embed", wait)

    def __enter__(self) -> Inside:
        self.thread.start()
        assert self.entered.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self.leave.set()
        self.thread.join(60)


@pytest.mark.parametrize("use", [*USES, "close", "Conversation.close", "a stream under way", "many under way"])
def test_a_second_thread_is_a_typed_error_while_another_uses_the_model(
    model: Path, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    with llama_onnx.load(model) as lm:
        expected = tokens(lm, PROMPT)
        chat = lm.conversation()
        chat.append(PROMPT)
        begun, many = lm.stream_generate(PROMPT, GREEDY), lm.generate_many([PROMPT], GREEDY)
        uses = USES | {
            "close": lambda lm, chat: lm.close(),
            "Conversation.close": lambda lm, chat: chat.close(),
            "a stream under way": lambda lm, chat: next(begun),
            "many under way": lambda lm, chat: next(many),
        }
        held = reserved(lm)
        with Inside(lm, monkeypatch) as inside:
            during = reserved(lm)
            with pytest.MonkeyPatch.context() as patch:
                changes: list[int] = []
                patch.setattr(Reservation, "hold", lambda self, size: changes.append(size))
                refused = in_thread(lambda: uses[use](lm, chat))
            assert isinstance(refused, ModelStateError)
            assert "another thread is using the model" in str(refused)
            assert not changes  # the pool is the other thread's
            assert reserved(lm) == during
        assert inside.found == [expected]  # it was not disturbed
        assert reserved(lm) == held
        assert tokens(lm, PROMPT) == expected
        uses["Conversation.append"](lm, chat)


def test_threads_may_take_turns_between_calls_and_between_steps(lm: LanguageModel) -> None:
    expected = tokens(lm, PROMPT)
    assert in_thread(lambda: tokens(lm, PROMPT)) == expected
    steps = lm.stream_generate(PROMPT, GREEDY)
    found = []
    for i in range(len(expected)):
        found.append((in_thread(lambda: next(steps)) if i % 2 else next(steps)).token)
    assert found == expected
    with lm.conversation() as chat:
        in_thread(lambda: chat.append(PROMPT))
        assert chat.ids == PROMPT


def test_loading_in_a_second_thread_while_another_loads_is_a_typed_error(model: Path) -> None:
    found: list[Any] = []

    def progress(doing: str, done: int, total: int) -> None:
        if not found:
            found.append(in_thread(lambda: llama_onnx.load(model)))

    from llama_onnx.streaming import promise

    with pytest.MonkeyPatch.context() as patch:
        real = promise.open_pool
        patch.setattr("llama_onnx.model.open_pool", lambda *given: progress("", 0, 0) or real(*given))
        with llama_onnx.load(model) as lm:
            assert isinstance(found[0], ModelStateError)
            assert "another thread is loading a model" in str(found[0])
            assert tokens(lm, PROMPT)
    assert isinstance(in_thread(lambda: llama_onnx.load(model)), LanguageModel)


def test_loading_a_second_model_while_another_thread_uses_the_first(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with llama_onnx.load(model) as lm:
        expected, budget = tokens(lm, PROMPT), lm.stats()["pool"]["budget"]
        with (
            Inside(lm, monkeypatch) as inside,
            pytest.raises(ModelStateError, match="another thread is using the model"),
        ):
            llama_onnx.load(model)
        assert inside.found == [expected]
        assert lm.stats()["pool"]["budget"] == budget
        with llama_onnx.load(model) as second:
            assert tokens(second, PROMPT) == expected
            with Inside(lm, monkeypatch) as inside:  # its share of the memory waits
                second.close()
            assert inside.found == [expected]
        assert tokens(lm, PROMPT) == expected


# Types


BAD_PROMPTS = [
    None, 5, 2.5, True, b"fox", bytearray(b"fox"), memoryview(b"fox"), {1: 2}, {5, 6}, object(), iter([5]),
    ["fox"], ["5"], [2.5], [5, True], [None], [b"x"], [[5, 6]], [[5], [6, 7]], [float("nan")], [np.True_],
    [np.float32(3)], np.array([2.5]), np.array([True]), np.array([[5, 6]]), np.array(5), np.array(["a"]),
    np.array([], np.int64), "", [], (),
]  # fmt: skip


@pytest.mark.parametrize("prompt", BAD_PROMPTS, ids=lambda prompt: repr(prompt).split(" at ")[0])
def test_prompts_of_other_types_are_refused_by_every_call(lm: LanguageModel, prompt: Any) -> None:
    chat = lm.conversation()
    calls = [lm.stream_generate, lm.generate, lm.logits, chat.stream, chat.generate, chat.append]
    calls += [lambda prompt: lm.generate_many([PROMPT, prompt])]
    for call in calls:
        with pytest.raises(RequestError, match=r"^[^\n]*(a prompt is a text or a list of token ids|is empty)[^\n]*$"):
            call(prompt)
    chat.close()


@pytest.mark.parametrize(
    "prompt", [tuple(PROMPT), range(20, 26), np.array(PROMPT), np.array(PROMPT, np.uint16), list(np.array(PROMPT))]
)
def test_prompts_may_be_any_sequence_of_whole_numbers(lm: LanguageModel, prompt: Any) -> None:
    ids = [int(token) for token in prompt]
    assert tokens(lm, prompt) == tokens(lm, ids)
    np.testing.assert_array_equal(lm.logits(prompt), lm.logits(ids))
    assert [c.text for c in lm.generate_many([prompt], GREEDY)] == [c.text for c in lm.generate_many([ids], GREEDY)]


@pytest.mark.parametrize("prompts", [None, "fox", b"fox", 5, np.array(5), iter(["fox"]), {"fox"}])
def test_many_prompts_must_be_a_list(lm: LanguageModel, prompts: Any) -> None:
    with pytest.raises(RequestError, match="prompts must be a list"):
        lm.generate_many(prompts, GREEDY)


@pytest.mark.parametrize("params", [{"top_k": 3}, {}, 5, 0, "greedy", "", [], SamplingParams, False])
def test_invalid_params_are_refused_by_every_call(lm: LanguageModel, params: Any) -> None:
    with lm.conversation() as chat:
        for call in (lm.stream_generate, lm.generate, chat.stream, chat.generate):
            with pytest.raises(RequestError, match="params must be SamplingParams, not "):
                call(PROMPT, params)
        for given in (params, [params]):
            with pytest.raises(RequestError, match=r"params must be SamplingParams, |\d sampling params for 1"):
                lm.generate_many([PROMPT], given)
        assert chat.ids == []


@pytest.mark.parametrize("batch", [0, -1, 1.5, "3", None])
def test_batch_must_be_a_whole_number(lm: LanguageModel, batch: Any) -> None:
    with pytest.raises(RequestError, match="batch must be at least 1"):
        lm.generate_many([PROMPT], GREEDY, batch=batch)


THREADS = """
import sys
import llama_onnx
for threads in (2.0, True, "2", 0):
    try:
        llama_onnx.load(sys.argv[1], threads=threads)
    except llama_onnx.RequestError as error:
        print(error)
print(llama_onnx.load(sys.argv[1], threads=1).logits([5, 6]).shape)
"""


def test_a_wrong_number_of_threads_is_refused_and_a_right_one_works_afterwards(model: Path) -> None:
    done = run("-c", THREADS, model)
    assert done.returncode == 0, done.stderr
    *errors, last = done.stdout.splitlines()
    assert [error.split(" on ")[0][:15] for error in errors] == ["threads must be"] * 4
    assert last == f"(2, {VOCAB})"


# Without a tokenizer


@pytest.fixture(scope="module")
def wordless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in a directory that has no tokenizer. Read only."""
    folder = tmp_path_factory.mktemp("wordless")
    checkpoint = make_checkpoint(folder / "checkpoint")
    (checkpoint / "tokenizer.model").unlink()
    export(checkpoint, folder / "model")
    return folder / "model"


def test_a_model_without_a_tokenizer_accepts_token_ids(wordless: Path, lm: LanguageModel) -> None:
    with llama_onnx.load(wordless) as mute, mute.conversation() as chat:
        np.testing.assert_array_equal(mute.logits(PROMPT), lm.logits(PROMPT))
        for params in (GREEDY, SEEDED):
            steps = list(mute.stream_generate(PROMPT, params))
            assert [step.token for step in steps] == tokens(lm, PROMPT, params)
            assert {step.text for step in steps} == {""}
            assert steps[-1].finish_reason is not None
        assert mute.generate(PROMPT, GREEDY) == ""
        done = list(mute.generate_many([PROMPT, PROMPT[:2]], GREEDY))
        same = list(lm.generate_many([PROMPT, PROMPT[:2]], GREEDY))
        assert [(c.text, c.completion_tokens, c.finish_reason) for c in done] == [
            ("", c.completion_tokens, c.finish_reason) for c in same
        ]
        assert tokens(chat, PROMPT) == tokens(lm, PROMPT)
        assert chat.append([5]).shape == (VOCAB,)


@pytest.mark.parametrize(
    "use",
    [
        lambda lm: lm.generate("fox"),
        lambda lm: lm.stream_generate("fox"),
        lambda lm: lm.generate_many(["fox"]),
        lambda lm: lm.conversation().stream("fox"),
        lambda lm: lm.logits("fox"),
        lambda lm: lm.format("fox"),
        lambda lm: lm.format([{"role": "user", "content": "fox"}], "alpaca"),
        lambda lm: lm.tokenizer.encode("fox"),
        lambda lm: lm.tokenizer.decode([5, 6]),
        lambda lm: lm.stream_generate(PROMPT, SamplingParams(stop=["end"])),
        lambda lm: lm.conversation().stream(PROMPT, SamplingParams(stop=["end"])),
        lambda lm: lm.generate_many([PROMPT], SamplingParams(stop=["end"])),
        lambda lm: lm.generate_many([PROMPT], [SamplingParams(stop=["end"])]),
    ],
)  # fmt: skip
def test_calls_that_need_text_report_the_missing_tokenizer_in_one_line(wordless: Path, use: Any) -> None:
    with (
        llama_onnx.load(wordless) as lm,
        pytest.raises(ModelDirectoryError, match=r"^[^\n]*tokenizer\.model: missing; [^\n]*, or use token ids$"),
    ):
        use(lm)


def test_verbs_that_need_text_report_the_missing_tokenizer(
    wordless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("fox")
    for verb in (["generate", "-p", "fox"], ["perplexity", "--text", str(tmp_path / "text")]):
        verb += ["-m", str(wordless)]
        assert main(verb) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "tokenizer.model: missing; copy the tokenizer from the checkpoint" in err


def test_a_missing_listed_tokenizer_is_still_a_damaged_directory(checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.model").unlink()
    with pytest.raises(LlamaOnnxError, match=r"tokenizer\.model: missing, though the manifest lists it"):
        llama_onnx.load(tmp_path / "model")
