"""Helpers that tests share: small random models, made when needed, and functions that run them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from sentencepiece import SentencePieceTrainer

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
STORIES = ROOT.parent / "shared" / "models" / "stories260K"
sys.path.insert(0, str(ROOT))  # for the scripts that make fixtures

from llama_onnx.config import ModelConfig
from llama_onnx.decoder import Decoder
from llama_onnx.export import writer
from llama_onnx.export.exporter import export
from llama_onnx.model_directory import read_config
from llama_onnx.pool import MemoryPool

VOCAB = 320
TEXT = """the quick brown fox jumps over the lazy dog and runs into the deep dark forest
where a small bird sings about the rain and the sun while the children play near the river
bonjour le monde, une petite souris mange du fromage dans la cuisine pendant que le chat dort
你好 世界 小猫 在 花园 里 看 月亮
""".splitlines()


def make_tokenizer(path: Path, vocab_size: int = VOCAB) -> None:
    """Train a sentencepiece model with byte fallback on a few lines."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT),
        model_writer=model,
        vocab_size=vocab_size,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.98,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())


def make_checkpoint(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write a random Llama checkpoint in Hugging Face layout; `changes` go into its config.json."""
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCAB,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(random_tensors(config, seed), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    make_tokenizer(folder / "tokenizer.model")
    return folder


def random_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Return float32 weights of a Llama configuration, large enough for clearly different logits."""
    rng = np.random.default_rng(seed)
    hidden, wide, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (rng.standard_normal((rows, columns)) * 1.5 / columns**0.5).astype(np.float32)

    tensors = {
        "model.embed_tokens.weight": matrix(config["vocab_size"], hidden),
        "model.norm.weight": np.ones(hidden, np.float32),
    }
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = matrix(config["vocab_size"], hidden)
    for i in range(layers):
        layer = f"model.layers.{i}."
        for name, rows, columns in (
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.k_proj", keys, hidden),
            ("self_attn.v_proj", keys, hidden),
            ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", wide, hidden),
            ("mlp.up_proj", wide, hidden),
            ("mlp.down_proj", hidden, wide),
        ):
            tensors[f"{layer}{name}.weight"] = matrix(rows, columns)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}{name}.weight"] = 1 + 0.1 * rng.standard_normal(hidden).astype(np.float32)
    return tensors


def decoder_of(directory: Path, budget: int = 1 << 30, chunk: int = 512) -> Decoder:
    """Return a decoder over a pool with the given budget, without a memory promise."""
    config: ModelConfig = read_config(directory)
    return Decoder(config, MemoryPool(config.shards, budget), chunk)


def smallest_decoder(directory: Path) -> Decoder:
    """Return a decoder whose pool holds one shard at a time."""
    config = read_config(directory)
    return Decoder(config, MemoryPool(config.shards, None))


def files_of(directory: Path) -> dict[str, str]:
    """Return the hash of every file of a model directory by name, from its manifest."""
    return {
        name: entry["sha256"] for name, entry in json.loads((directory / "manifest.json").read_text())["files"].items()
    }


def resumed_shards(monkeypatch: pytest.MonkeyPatch, checkpoint: Path, out: Path) -> list[str]:
    """Export and return the names of the shards that were built, not taken from an earlier run."""
    built, graph = [], writer.Graph
    with monkeypatch.context() as patch:
        patch.setattr(writer, "Graph", lambda name, weights: (built.append(name), graph(name, weights))[1])
        export(checkpoint, out)
    return built


def run(*arguments: str | Path, input: str | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a Python command of the project as a user would."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, input=input, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)
