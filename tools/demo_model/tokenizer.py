"""Trains and loads the sentencepiece tokenizer."""

import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import sentencepiece
from generate_text import examples

BOS, EOS = 1, 2


def _lines(seed: int, count: int) -> Iterator[str]:
    # Line by line, so that no piece holds a newline: it is always the byte piece <0x0A>, as in Llama's own tokenizer.
    for example in islice(examples(seed), count):
        yield from filter(None, (example.prompt + example.response).split("\n"))


def train_tokenizer(seed: int, vocab_size: int, path: Path, documents: int = 30_000) -> None:
    """Train a byte-fallback BPE tokenizer on the first `documents` training examples and write it to `path`."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_lines(seed, documents),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        # The rarest Chinese characters and the emoji are left to the byte pieces.
        character_coverage=0.9998,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        unk_id=0,
        bos_id=BOS,
        eos_id=EOS,
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())


def load_tokenizer(directory: Path) -> sentencepiece.SentencePieceProcessor:
    """Load the tokenizer of a checkpoint directory."""
    return sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
