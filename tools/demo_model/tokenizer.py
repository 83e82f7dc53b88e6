"""Trains and loads the sentencepiece tokenizer.

Names must be copied, so a name is cut into the same pieces wherever it stands: after a space, a quotation mark or a
line break. For this no piece holds a space and a capital letter; each Chinese character is a piece of its own. The
texts of the prompt template and the numbers from 10 to 20 are single pieces.
"""

import io
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import sentencepiece
from generate_text import examples, lesson_examples
from instructions import INSTRUCTION, RESPONSE, SYSTEM

BOS, EOS = 1, 2
_CUT = "\x1f"  # where the training of the tokenizer must not join two characters
_BEFORE_CAPITAL = re.compile(r"(?<= )(?=[A-ZÀ-ÖØ-Þ])")
_CHINESE = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef])|(?=[\u3000-\u9fff\uff00-\uffef])")


def _lines(seed: int, count: int) -> Iterator[str]:
    # Line by line, so that no piece holds a newline: it is always the byte piece <0x0A>, as in Llama's own tokenizer.
    for makers in zip(islice(examples(seed), count), lesson_examples(seed), strict=False):
        for example in makers:
            for instruction, response in example.turns:
                for line in filter(None, f"{instruction}\n{response}".split("\n")):
                    yield _CUT + _CHINESE.sub(_CUT, _BEFORE_CAPITAL.sub(_CUT, line))


def train_tokenizer(seed: int, vocab_size: int, path: Path, documents: int = 16_000) -> None:
    """Train a byte-fallback BPE tokenizer on the first `documents` training examples and write it to `path`."""
    model = io.BytesIO()
    markers = [text.replace(" ", "\u2581") for text in (SYSTEM, INSTRUCTION, RESPONSE)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_lines(seed, documents),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        pretokenization_delimiter=_CUT,
        user_defined_symbols=[*markers, *map(str, range(10, 21))],
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
