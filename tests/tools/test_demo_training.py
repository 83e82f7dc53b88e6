"""The training of the embedded model goes on from a save as if it had never stopped. Needs torch."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT
from sentencepiece import SentencePieceProcessor

torch = pytest.importorskip("torch")
MAKER = ROOT / "tools" / "demo_model"
STAGES = ((("drills",), 2), (("0 cut", "0 whole"), 3), (("2 recall", "2 whole", "2 cut", "2 lessons"), 8))


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The training script, with few steps; its modules import each other from their own folder."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(MAKER))
    import train

    monkeypatch.setattr(train, "STAGES", STAGES)
    yield train
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(str(sys.modules[name].__file__)).parent == MAKER:
            del sys.modules[name]


@pytest.mark.parametrize("first", [1, 4, 6, 7, 8, 11])
def test_resumed_training_reads_the_text_of_an_unbroken_run(train: ModuleType, first: int) -> None:
    tokenizer = SentencePieceProcessor(model_file=str(ROOT / "models" / "demo" / "tokenizer.model"))
    args = Namespace(seed=1, rows=2, length=384)
    unbroken = list(train.text_stream(args, tokenizer, 0))
    assert len(unbroken) == 13
    sys.modules["names"].use_pieces(())  # a new process knows of no pieces
    for batch, wanted in zip(train.text_stream(args, tokenizer, first), unbroken[first:], strict=True):
        assert torch.equal(batch.ids, wanted.ids)
        assert torch.equal(batch.targets, wanted.targets)
