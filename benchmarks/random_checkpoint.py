#!/usr/bin/env python3
"""Write a Llama checkpoint with the shape of a real model and random weights: real speed and memory, random text."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from safetensors.numpy import save_file

from llama_onnx.commands.terminal import guard
from llama_onnx.errors import RequestError
from llama_onnx.export.progress import progress
from llama_onnx.export.readers.sentencepiece_model import BYTE, CONTROL, NORMAL, UNKNOWN, Piece, sentencepiece_model

# hidden, intermediate, layers, heads, key-value heads, vocabulary
SHAPES = {
    "tiny": (64, 192, 4, 4, 2, 512),
    "stories-110m": (768, 2048, 12, 12, 12, 32000),
    "tinyllama-1.1b": (2048, 5632, 22, 32, 4, 32000),
    "llama-7b": (4096, 11008, 32, 32, 32, 32000),
    "mistral-7b": (4096, 14336, 32, 32, 8, 32000),
}
CONTEXT = 2048
SPREAD = 0.02  # standard deviation of the weights
CYCLE_START = 300  # the first token of a cycle
LOUD = 64.0  # size of the embedding vectors of a cycle: far larger than what the layers add to them


def write_checkpoint(shape: str, out: Path, cycle: int | None = None) -> None:
    """Write `config.json`, `tokenizer.model` and float16 safetensors, one file per layer, into the directory `out`.

    With `cycle`, greedy text repeats the tokens 300 … 300 + cycle - 1 forever, to measure the gain of prompt lookup.
    All layers are computed as usual, but their contribution is too small to change the text.

    Raises:
        RequestError: the vocabulary is too small for the cycle.
    """
    hidden, wide, layers, heads, kv_heads, vocab = SHAPES[shape]
    if cycle is not None and not 1 <= cycle <= vocab - CYCLE_START:
        raise RequestError(f"--cycle must be 1 to {vocab - CYCLE_START} for {shape}, not {cycle}")
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal(1 << 24, dtype=np.float32) * SPREAD).astype(np.float16)
    ones = np.ones(hidden, np.float16)
    file_of: dict[str, str] = {}

    def matrix(rows: int, columns: int) -> np.ndarray:  # drawing every weight separately would take minutes
        return np.resize(np.roll(noise, int(rng.integers(noise.size))), (rows, columns))

    def save(file: str, tensors: dict[str, np.ndarray]) -> None:
        save_file(tensors, out / file)
        file_of.update(dict.fromkeys(tensors, file))

    keys = hidden // heads * kv_heads
    for i in progress(range(layers), f"writing {shape}"):
        sizes = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (wide, hidden),
            "mlp.up_proj": (wide, hidden),
            "mlp.down_proj": (hidden, wide),
        }
        layer = {f"model.layers.{i}.{name}.weight": matrix(*size) for name, size in sizes.items()}
        norms = ("input_layernorm", "post_attention_layernorm")
        save(f"model-{i:05d}.safetensors", {**layer, **{f"model.layers.{i}.{name}.weight": ones for name in norms}})
    ends = {"model.embed_tokens.weight": matrix(vocab, hidden), "lm_head.weight": matrix(vocab, hidden)}
    if cycle:
        token = CYCLE_START + np.arange(cycle)
        vectors = np.sign(rng.standard_normal((cycle, hidden))).astype(np.float16)
        ends["model.embed_tokens.weight"][token] = LOUD * vectors
        ends["lm_head.weight"][np.roll(token, -1)] = 2 * SPREAD * vectors
    save("model-ends.safetensors", {**ends, "model.norm.weight": ones})
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": file_of}))
    (out / "config.json").write_text(json.dumps(_config(shape), indent=1))
    (out / "tokenizer.model").write_bytes(sentencepiece_model(pieces(vocab)))


def _config(shape: str) -> dict[str, object]:
    hidden, wide, layers, heads, kv_heads, vocab = SHAPES[shape]
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
    }


def pieces(count: int) -> list[Piece]:
    """Return a vocabulary of bytes and made-up words."""
    special = [Piece("<unk>", 0, UNKNOWN), Piece("<s>", 0, CONTROL), Piece("</s>", 0, CONTROL)]
    octets = [Piece(f"<0x{i:02X}>", 0, BYTE) for i in range(256)]
    octets.append(Piece("\u2581", 0, NORMAL))
    start = len(special) + len(octets)
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    base = len(syllables)

    def word(i: int) -> str:
        text = syllables[i % base]
        while i := i // base:
            text += syllables[i % base]
        return "\u2581" + text

    return [*special, *octets, *(Piece(word(i), -float(i), NORMAL) for i in range(count - start))]


def main() -> int:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/random_checkpoint.py tinyllama-1.1b checkpoints/1.1b",
    )
    parser.add_argument("shape", choices=SHAPES, help="the shape to use")
    parser.add_argument("out", metavar="OUT", type=Path, help="directory to write")
    parser.add_argument("--cycle", type=int, metavar="N", help="make greedy text repeat itself every N tokens")
    options = parser.parse_args()
    return guard(lambda: write_checkpoint(options.shape, options.out, cycle=options.cycle))


if __name__ == "__main__":
    sys.exit(main())
