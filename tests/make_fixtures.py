#!/usr/bin/env python3
"""Write the small checkpoints of `tests/fixtures` with what transformers computes from them. Needs torch, transformers.

    python tests/make_fixtures.py [NAME …]

Each is a directory with `config.json`, `model.safetensors` and `expected.npz`: `ids` int64 [S], `logits` float32
[S, vocab] of one float32 pass with eager attention, and `greedy` int64 [24], the tokens that greedily follow `ids`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

FIXTURES = Path(__file__).parent / "fixtures"
GREEDY_STEPS = 24
LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
# name: (class of the configuration, its values, type the weights are stored in, length of the prompt)
CASES: dict[str, tuple[str, dict[str, Any], torch.dtype, int]] = {
    "llama-gqa": ("LlamaConfig", LLAMA, torch.float16, 40),
    "llama-mha-tied": (
        "LlamaConfig",
        {**LLAMA, "num_key_value_heads": 4, "tie_word_embeddings": True, "num_hidden_layers": 3},
        torch.bfloat16,
        40,
    ),
    "llama-mqa-bias": (
        "LlamaConfig",
        {**LLAMA, "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True, "rope_theta": 500000.0},
        torch.float32,
        40,
    ),
    "llama-head-dim-24": ("LlamaConfig", {**LLAMA, "head_dim": 24, "attention_bias": True}, torch.float16, 40),
}


def main(names: list[str]) -> None:
    """Make the named fixtures, or all."""
    for name in names or CASES:
        config_class, values, dtype, length = CASES[name]
        config = getattr(transformers, config_class)(**values)
        make(FIXTURES / name, config, dtype, length)
        print(name, sum(path.stat().st_size for path in (FIXTURES / name).iterdir()) // 1024, "KB")


def make(folder: Path, config: Any, dtype: torch.dtype, length: int) -> None:
    """Write one fixture: random weights that `dtype` holds exactly, and the float32 results."""
    torch.manual_seed(0)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for tensor_name, parameter in model.named_parameters():
        with torch.no_grad():
            if "norm" in tensor_name or tensor_name.endswith("bias"):
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5 * 1.5)
            parameter.copy_(parameter.to(dtype).float())
    ids = torch.randint(3, config.vocab_size, (1, length))
    with torch.no_grad():
        logits = model(ids).logits[0]
        sequence = ids
        for _ in range(GREEDY_STEPS):
            sequence = torch.cat([sequence, model(sequence, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    model.to(dtype).save_pretrained(folder, safe_serialization=True)
    for stray in folder.glob("generation_config.json"):
        stray.unlink()
    np.savez_compressed(
        folder / "expected.npz", ids=ids[0].numpy(), logits=logits.numpy(), greedy=sequence[0, length:].numpy()
    )


if __name__ == "__main__":
    main(sys.argv[1:])
