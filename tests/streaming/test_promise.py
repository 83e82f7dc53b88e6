"""One memory promise for the whole process: shared by its models, kept by each request, given back by `close`."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import make_checkpoint, run
from random_checkpoint import pieces

import llama_onnx
from llama_onnx import LanguageModel, ModelStateError, PoolTooSmallError, RequestError, SamplingParams
from llama_onnx.export.exporter import export
from llama_onnx.export.readers.sentencepiece_model import sentencepiece_model
from llama_onnx.memory import MIB, process_bytes
from llama_onnx.pool import MemoryPool, charge_of
from llama_onnx.session import WARM_UP_BYTES, Guard
from llama_onnx.streaming import promise, slots
from llama_onnx.streaming.pool import StreamingPool

GREEDY = SamplingParams(temperature=0, max_tokens=4)
PROMPT = [1, 20, 30, 40]
SHAPES = {"one": {"num_hidden_layers": 8, "intermediate_size": 2048}, "two": {"num_hidden_layers": 5}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models of some 40 MB: in float32, and the first one in int4. Read only, but for packed images."""
    folder = tmp_path_factory.mktemp("promise")
    for name, shape in SHAPES.items():
        shape = {"hidden_size": 256, "intermediate_size": 1024, "vocab_size": 320, **shape}
        export(make_checkpoint(folder / "checkpoint" / name, **shape), folder / name)
    export(folder / "checkpoint" / "one", folder / "one-int4", "int4", block_size=32)
    return {name: folder / name for name in (*SHAPES, "one-int4")}


@pytest.fixture(scope="module")
def expected(models: dict[str, Path]) -> dict[str, list[int]]:
    """What each model says, with all the memory it wants."""
    found = {}
    for name, directory in models.items():
        with llama_onnx.load(directory) as lm:
            found[name] = tokens(lm)
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left_in_memory() -> Iterator[None]:
    before = folders()
    yield
    assert folders() <= before


def folders() -> set[str]:
    """The folders of slots that this process has, by the locks it holds on them."""
    links = set()
    for path in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):
            links.add(os.readlink(path))
    return {link for link in links if link.startswith(f"{slots.MEMORY}/{slots.PREFIX}") and link.endswith(slots.LOCK)}


def tokens(lm: LanguageModel, prompt: list[int] = PROMPT, params: SamplingParams = GREEDY) -> list[int]:
    return [step.token for step in lm.stream_generate(prompt, params)]


def poolsize(room: int) -> str:
    """A size that leaves so many bytes for the pools of a process like this one."""
    return f"{(process_bytes() + WARM_UP_BYTES + room) // 1024 + 1}KB"


def pool(lm: LanguageModel) -> dict[str, Any]:
    return lm.stats()["pool"]


def bytes_of(lm: LanguageModel) -> int:
    return sum(map(charge_of, lm.config.shards))


def assert_kept(*models: LanguageModel) -> None:
    current = promise._current
    assert current is not None
    assert current.total is not None
    assert sum(pool(lm)["budget"] for lm in models) + current.fixed <= current.total
    for lm in models:
        assert pool(lm)["resident_bytes"] <= pool(lm)["budget"]


# Several models


@pytest.mark.parametrize("policy", promise.POOL_POLICIES)
@pytest.mark.parametrize("first", ["one", "one-int4"])
def test_models_of_a_process_stay_within_one_promise(
    models: dict[str, Path], expected: dict[str, list[int]], first: str, policy: str
) -> None:
    with llama_onnx.load(models[first], poolsize=poolsize(48 * MIB), pool_policy=policy) as one:
        assert tokens(one) == expected[first]
        alone, before = pool(one)["budget"], pool(one)["resident_bytes"]
        for _ in range(2):
            with llama_onnx.load(models["two"], pool_policy=policy) as two:
                assert pool(one)["budget"] < alone
                assert pool(one)["resident_bytes"] <= before
                assert_kept(one, two)
                both = zip(one.stream_generate(PROMPT, GREEDY), two.stream_generate(PROMPT, GREEDY), strict=False)
                assert [[step.token for step in of] for of in zip(*both, strict=True)] == [
                    expected[first][: len(expected["two"])],
                    expected["two"][: len(expected[first])],
                ]
                assert_kept(one, two)
            assert alone - 64 < pool(one)["budget"] <= alone, "the share of a closed model goes back"
        assert (pool(one)["evictions"] > 0) == (bytes_of(one) > alone // 2)
        assert tokens(one) == expected[first]


def test_the_second_model_evicts_layers_of_the_first_and_they_come_back(
    models: dict[str, Path], expected: dict[str, list[int]]
) -> None:
    with llama_onnx.load(models["one"]) as one:
        room = bytes_of(one) + 20 * MIB
    with llama_onnx.load(models["one"], poolsize=poolsize(room)) as one:
        assert tokens(one) == expected["one"]
        everything = pool(one)["residents"]
        assert everything == len(one.config.shards)
        with llama_onnx.load(models["two"]) as two:
            assert pool(one)["residents"] < everything
            assert pool(one)["evictions"] > 0
            assert tokens(two) == expected["two"]
        misses = pool(one)["misses"]
        assert tokens(one) == expected["one"]
        assert tokens(one) == expected["one"]
        assert pool(one)["residents"] >= everything - 2
        assert pool(one)["misses"] > misses


def test_another_poolsize_is_refused_as_long_as_a_model_is_open(models: dict[str, Path]) -> None:
    size = poolsize(100 * MIB)
    with llama_onnx.load(models["one"], poolsize=size) as one:
        for other in ("64GB", 1, "min"):
            with pytest.raises(
                RequestError, match=r"already has a poolsize of [^\n]*give the same one or none, or close"
            ):
                llama_onnx.load(models["two"], poolsize=other)
        assert tokens(one)
        with llama_onnx.load(models["two"], poolsize=size), llama_onnx.load(models["two"]):
            pass
    with llama_onnx.load(models["two"], poolsize="64GB") as two:
        assert pool(two)["budget"] > 1 << 30
    with llama_onnx.load(models["two"], poolsize="min"), llama_onnx.load(models["one"], poolsize="min"):
        with pytest.raises(RequestError, match="already has a poolsize of min"):
            llama_onnx.load(models["two"], poolsize="64GB")
        llama_onnx.load(models["two"]).close()
    with llama_onnx.load(models["one"]) as one:  # automatic is a size as well
        with pytest.raises(RequestError, match="already has a poolsize"):
            llama_onnx.load(models["two"], poolsize=1)
        llama_onnx.load(models["two"]).close()


def test_a_model_that_was_dropped_without_closing_holds_no_promise(models: dict[str, Path]) -> None:
    lm = llama_onnx.load(models["one"], poolsize=poolsize(24 * MIB))
    tokens(lm)
    del lm
    llama_onnx.load(models["two"], poolsize="64GB").close()


def test_a_failed_load_leaves_no_promise(models: dict[str, Path], tmp_path: Path) -> None:
    for directory, options in ((tmp_path, {}), (models["one"], {"ctx_size": 0}), (models["one"], {"pool_policy": "x"})):
        with pytest.raises(llama_onnx.LlamaOnnxError):
            llama_onnx.load(directory, poolsize="64GB", **options)  # type: ignore[arg-type]
        llama_onnx.load(models["two"], poolsize="63GB").close()
    with pytest.raises(PoolTooSmallError, match="give at least"):
        llama_onnx.load(models["one"], poolsize="1MB")
    llama_onnx.load(models["two"], poolsize="63GB").close()


@pytest.mark.parametrize("policy", promise.POOL_POLICIES)
@pytest.mark.parametrize("name", ["one", "one-int4"])
def test_a_model_that_does_not_fit_beside_another_leaves_it_as_it_was(
    models: dict[str, Path], expected: dict[str, list[int]], name: str, policy: str
) -> None:
    """From a pool that the first model just fits into, to one with room for both."""
    outcomes = []
    for room in range(6, 30, 4):
        size = poolsize(room * MIB)
        try:
            one = llama_onnx.load(models[name], poolsize=size, pool_policy=policy)
        except PoolTooSmallError:
            outcomes.append("neither")
            continue
        with one:
            alone = pool(one)["budget"]
            try:
                with llama_onnx.load(models["two"], pool_policy=policy) as two:
                    assert_kept(one, two)
                    try:
                        assert tokens(two) == expected["two"]
                        outcomes.append("both")
                    except PoolTooSmallError:
                        outcomes.append("both, without room for a KV cache")
            except PoolTooSmallError as error:
                outcomes.append("one" if re.fullmatch(r"[^\n]*poolsize[^\n]*", str(error)) else str(error))
            assert alone - 64 < pool(one)["budget"] <= alone
            try:
                assert tokens(one) == expected[name]
            except PoolTooSmallError:
                assert outcomes[-1] == "one"
                assert room < 12
            assert_kept(one)
    assert outcomes == sorted(outcomes, key=["neither", "one", "both, without room for a KV cache", "both"].index)
    assert {"one", "both"} <= set(outcomes), outcomes


def test_models_share_what_they_need_and_the_rest_in_proportion() -> None:
    shared = promise.Promise(100, 10)
    assert shared._shares([(10, 40)]) == [90]
    assert shared._shares([(10, 40), (5, 20)]) == [60, 30]  # everything fits
    shares = shared._shares([(10, 100), (20, 200)])
    assert shares == [30, 60]
    with pytest.raises(PoolTooSmallError, match="together"):
        shared._shares([(50, 60), (41, 60)])


RACE = """
import sys, threading
import llama_onnx
found, start = [], threading.Barrier(2)

def work():
    start.wait()
    try:
        found.append(llama_onnx.load(sys.argv[1], poolsize="1GB"))
    except llama_onnx.ModelStateError as error:
        found.append(str(error))

threads = [threading.Thread(target=work) for _ in range(2)]
[t.start() for t in threads]
[t.join(60) for t in threads]
models = [one for one in found if isinstance(one, llama_onnx.LanguageModel)]
assert models and len(found) == 2
assert all("another thread is" in one for one in found if isinstance(one, str)), found
from llama_onnx.streaming import promise
assert sum(one.stats()["pool"]["budget"] for one in models) + promise._current.fixed <= 1 << 30
params = llama_onnx.SamplingParams(temperature=0, max_tokens=4)
assert len({one.generate([5, 6], params) for one in models}) == 1
print("kept")
"""


def test_two_threads_that_load_the_first_model_at_once_keep_one_promise(models: dict[str, Path]) -> None:
    done = run("-c", RACE, models["one"])
    assert (done.stdout, done.stderr) == ("kept\n", "")


PEAK = """
import sys
import llama_onnx
from llama_onnx.memory import peak_bytes, process_bytes
import onnxruntime, sentencepiece, numpy
total = process_bytes() + (24 << 20) + (int(sys.argv[1]) << 20)
params = llama_onnx.SamplingParams(temperature=0, max_tokens=10)
with llama_onnx.load(sys.argv[2], poolsize=f"{total >> 10}KB") as one:
    one.generate([5] * 100, params)
    with llama_onnx.load(sys.argv[3]) as two:
        for _ in range(2):
            two.generate([5] * 100, params)
            one.generate([5] * 100, params)
            one.logits([5] * 100)
print(peak_bytes() - total)
"""


@pytest.mark.parametrize("first", ["one", "one-int4"])
@pytest.mark.parametrize("room", [40, 60])
def test_two_models_take_no_more_memory_than_was_promised(models: dict[str, Path], first: str, room: int) -> None:
    with llama_onnx.load(models[first], poolsize="min"):  # makes the packed images, which is not what is measured
        done = run("-c", PEAK, str(room), models[first], models["two"])
    assert done.stderr == ""
    assert int(done.stdout) <= 0


BESIDE = """
import sys
import llama_onnx
from llama_onnx.memory import process_bytes
from llama_onnx.streaming import promise
small = [llama_onnx.load(sys.argv[1], poolsize="64GB") for _ in range(2)]
before, fixed = process_bytes(), promise._current.fixed
large = llama_onnx.load(sys.argv[2])
grown, counted = process_bytes() - before, promise._current.fixed - fixed
large.close()
assert promise._current.fixed == fixed, "what a closed model had is not counted"
print(grown, counted)
"""


def test_memory_of_a_tokenizer_counts_as_a_fixed_part(models: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", vocab_size=60_000, hidden_size=16, num_hidden_layers=1)
    (checkpoint / "tokenizer.model").write_bytes(sentencepiece_model(pieces(60_000)))
    export(checkpoint, tmp_path / "large")
    done = run("-c", BESIDE, models["two"], tmp_path / "large")
    assert done.returncode == 0, done.stderr
    grown, counted = map(int, done.stdout.split())
    assert grown > 4 * MIB
    assert abs(counted - grown) < 2 * MIB


# Closing


CLOSE = """
import sys
from pathlib import Path
import llama_onnx
from llama_onnx.memory import process_bytes
from llama_onnx.streaming.slots import MEMORY, PREFIX
from llama_onnx.session import WARM_UP_BYTES, Guard
import os
folders = lambda: set(MEMORY.glob(PREFIX + "*"))
others = folders()
params = llama_onnx.SamplingParams(temperature=0, max_tokens=10)
llama_onnx.load(sys.argv[2]).close()
before = None
for _ in range(4):
    lm = llama_onnx.load(sys.argv[1], poolsize=sys.argv[3])
    chat = lm.conversation()
    chat.generate([5] * 200, params)
    streams = lm.stats()["pool"]["streams_through"]
    mine = folders() - others
    during = process_bytes()
    lm.close()
    mine = [path for path in mine if not path.exists()]
    assert bool(mine) == (streams == "slots"), streams
    if before is None:
        before = process_bytes()  # with the code of the runtime in memory
    assert process_bytes() < before + (3 << 20), (process_bytes(), before)
    assert during - process_bytes() > int(sys.argv[4]) << 20, (during, process_bytes())
print(streams)
"""


@pytest.mark.parametrize(
    ("name", "size", "streams", "least"),
    [("one", "2GB", "nothing", 50), ("one", "min", "slots", 6), ("one-int4", "2GB", "nothing", 5)],
)
def test_close_gives_memory_and_folders_back(
    models: dict[str, Path], name: str, size: str, streams: str, least: int
) -> None:
    done = run("-c", CLOSE, models[name], models["two"], size, str(least))
    assert (done.stdout, done.stderr) == (f"{streams}\n", "")


# High water


def streaming_model(models: dict[str, Path], staying: float) -> LanguageModel:
    """The first model, with room for so many of its eight layers and 2 MB for what requests take."""
    with llama_onnx.load(models["one"]) as lm:
        config = lm.config
    room = sum(map(charge_of, (config.embed, config.head))) + int(staying * charge_of(config.layers[0]))
    return llama_onnx.load(models["one"], poolsize=poolsize(room))


LONG = [1, *range(3, 203)]


def test_equal_requests_evict_nothing_after_the_first(models: dict[str, Path]) -> None:
    with streaming_model(models, 8.5) as lm:
        tokens(lm)
        resident = pool(lm)["residents"]
        tokens(lm, LONG)
        evictions, fewer = pool(lm)["evictions"], pool(lm)["residents"]
        assert fewer < resident
        assert evictions > 0
        steps = list(lm.stream_generate(LONG, GREEDY))
        for _ in range(3):
            assert tokens(lm, LONG) == [step.token for step in steps]
            assert lm.generate(LONG, GREEDY) == "".join(step.text for step in steps)
            assert (pool(lm)["evictions"], pool(lm)["residents"]) == (evictions, fewer)
        # A holder beside it gets the bytes, and does not lose them when the other one ends.
        with lm.conversation() as chat:
            chat.append(LONG)
            held = pool(lm)["reserved"]
            tokens(lm, LONG)
            assert pool(lm)["reserved"] == held > 0
        # A smaller request lets layers come back.
        tokens(lm)
        tokens(lm)
        assert pool(lm)["residents"] == resident


def test_high_water_is_given_to_a_layer_of_the_plain_pool(models: dict[str, Path]) -> None:
    config = llama_onnx.load(models["one"]).config
    plain = MemoryPool(config.layers, 8 * charge_of(config.layers[0]), lambda shard: shard)  # type: ignore[arg-type,return-value]
    with plain.reserved(charge_of(config.layers[0])):
        pass
    for _ in range(2):
        for shard in config.layers:
            with plain.use(shard):
                pass
    assert plain.stats.evictions == 0
    assert plain.stats.misses == 8


def test_reservations_are_summed_and_end_one_by_one(models: dict[str, Path]) -> None:
    with llama_onnx.load(models["one"]) as lm:
        config = lm.config
    for pool_ in (StreamingPool(config, 1 << 30), MemoryPool(config.shards, 1 << 30)):
        one, two = pool_.reserved(1000), pool_.reserved(500)
        assert pool_.snapshot()["reserved"] == 1500
        two.grow(400)
        assert pool_.snapshot()["reserved"] == 1500
        two.grow(2000)
        assert pool_.snapshot()["reserved"] == 3000
        one.close()
        one.close()
        assert pool_.snapshot()["reserved"] == 2000
        with pytest.raises(PoolTooSmallError):
            two.hold(1 << 31)
        assert (two.size, pool_.snapshot()["reserved"]) == (2000, 2000)
        del two
        assert pool_.snapshot()["reserved"] == 0
        pool_.close()


def test_a_holder_that_ends_while_another_makes_room_is_counted_once(models: dict[str, Path]) -> None:
    """The garbage collector may end a forgotten stream at any moment."""
    with llama_onnx.load(models["one"]) as lm:
        config = lm.config
    plain = MemoryPool(config.shards, 1 << 30)
    one, two = plain.reserved(1000), plain.reserved(500)
    plain.reservations._changed = lambda *_: one.close()
    two.hold(700)
    assert plain.snapshot()["reserved"] == 700


def test_a_long_answer_gives_its_layers_the_room_of_a_longer_prompt_back(models: dict[str, Path]) -> None:
    with streaming_model(models, 8.5) as lm:
        tokens(lm)
        resident = pool(lm)["residents"]
        with lm.conversation() as chat:
            chat.append(LONG)
            assert pool(lm)["residents"] < resident
            chat.append([5])
        params = replace(GREEDY, max_tokens=100, prompt_lookup=0)
        tokens(lm, PROMPT, params)
        assert pool(lm)["residents"] == resident


def test_a_second_thread_may_use_a_second_model(models: dict[str, Path], expected: dict[str, list[int]]) -> None:
    found: dict[str, list[list[int]]] = {}
    with llama_onnx.load(models["one"], poolsize=poolsize(48 * MIB)) as one, llama_onnx.load(models["two"]) as two:

        def work(name: str, lm: LanguageModel) -> None:
            found[name] = [tokens(lm) for _ in range(5)]

        threads = [threading.Thread(target=work, args=pair) for pair in (("one", one), ("two", two))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert_kept(one, two)
    assert found == {name: [expected[name]] * 5 for name in ("one", "two")}


class Share:
    """A pool that remembers its budgets; the names of `refused` ones cannot shrink."""

    def __init__(self, name: str, refused: tuple[str, ...] = ()) -> None:
        self.budgets: list[int] = []
        self._name, self._refused = name, refused

    def needs(self) -> tuple[int, int]:
        return 10, 100

    def resize(self, budget: int) -> None:
        self.budgets.append(budget)
        if self._name in self._refused and budget < 45:
            raise PoolTooSmallError("its layers do not fit any more")


@pytest.mark.parametrize("how", ["the new pool fails", "the second pool cannot shrink", "the second pool is in use"])
def test_a_model_that_cannot_be_admitted_leaves_the_budgets_as_they_were(how: str) -> None:
    shared = promise.Promise(100, 0)
    pools = [Share("first"), Share("second", ("second",) if how == "the second pool cannot shrink" else ())]
    guards = [Guard(), Guard()]
    for one, guard in zip(pools, guards, strict=True):
        shared.admit(one.needs(), guard, lambda budget, one=one: (one.resize(budget), one)[1])  # type: ignore[misc]
    before = [one.budgets[-1] for one in pools]
    assert before == [50, 50]

    def fail(budget: int) -> Share:
        raise KeyboardInterrupt

    if how == "the second pool is in use":
        entered, leave = threading.Event(), threading.Event()

        def use() -> None:
            with guards[1]:
                entered.set()
                leave.wait(60)

        thread = threading.Thread(target=use)
        thread.start()
        entered.wait(60)
        with pytest.raises(ModelStateError):
            shared.admit((10, 100), Guard(), fail)
        leave.set()
        thread.join()
    else:
        with pytest.raises(KeyboardInterrupt if how == "the new pool fails" else PoolTooSmallError):
            shared.admit((10, 100), Guard(), fail)
    assert [one.budgets[-1] for one in pools] == before


def test_a_pool_in_use_does_not_keep_others_from_their_share() -> None:
    shared = promise.Promise(300, 0)
    pools, guards = [Share(name) for name in ("busy", "closed", "idle")], [Guard() for _ in range(3)]
    for one, guard in zip(pools, guards, strict=True):
        shared.admit(one.needs(), guard, lambda budget, one=one: (one.resize(budget), one)[1])  # type: ignore[misc]
    entered, leave = threading.Event(), threading.Event()

    def use() -> None:
        with guards[0]:
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=use)
    thread.start()
    entered.wait(60)
    shared.leave(pools[1])
    leave.set()
    thread.join()
    assert [pools[0].budgets[-1], pools[2].budgets[-1]] == [100, 150]


def test_a_pool_that_is_too_small_leaves_no_folder_behind(models: dict[str, Path]) -> None:
    with llama_onnx.load(models["one"]) as lm:
        config = lm.config
    before = folders()
    with pytest.raises(PoolTooSmallError) as caught:
        StreamingPool(config, charge_of(config.layers[0]))
    assert caught.traceback  # which keeps the pool
    assert folders() == before
