#!/usr/bin/env python3
"""Write the small checkpoints of `tests/fixtures`, with the results of transformers. Needs torch and transformers.

    python tests/make_fixtures.py [NAME …]

Each is a directory with `config.json`, `model.safetensors` and `expected.npz`: `ids` int64 [S], `logits` float32
[S, vocab] of one float32 pass with eager attention, and `greedy` int64 [24], the tokens that greedily follow `ids`,
each from a pass over the whole sequence without a cache. Prompts are longer than sliding windows; those of LongRoPE
models end just below the original length (the greedy tokens cross it) or beyond it. Some sizes are unusual on purpose:
head sizes and rotary sizes that are not multiples of 16, and windows of 1.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

FIXTURES = Path(__file__).parent / "fixtures"
GREEDY_STEPS = 24
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
LLAMA = {**TINY, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 128, "rms_norm_eps": 1e-5}
GEMMA = {**TINY, "head_dim": 16, "tie_word_embeddings": True}
SHORT, LONG = [1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6], [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 9.5]


@dataclass(frozen=True)
class Case:
    """A fixture: the class and values of its configuration, the type of its stored weights, the length of the prompt.

    `classic` writes config.json as transformers 4 did: rope_theta, rope_scaling, torch_dtype.
    """

    kind: str
    values: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.bfloat16
    length: int = 40
    classic: bool = False


def rope(kind: str, **values: Any) -> dict[str, Any]:
    """Return rope parameters."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **values}}


CASES: dict[str, Case] = {
    "llama-gqa": Case("Llama", LLAMA, torch.float16),
    "llama-mha-tied": Case(
        "Llama",
        {**LLAMA, "num_key_value_heads": 4, "tie_word_embeddings": True, "intermediate_size": 80},
        classic=True,
    ),
    "llama-mqa-bias": Case(
        "Llama",
        {**TINY, "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True, **rope("default", rope_theta=5e5)},
        torch.float32,
    ),
    "llama-head-dim-24": Case("Llama", {**TINY, "head_dim": 24, "attention_bias": True}, torch.float16),
    "llama-linear": Case("Llama", {**TINY, **rope("linear", factor=4.0)}, torch.float16, classic=True),
    "llama-dynamic": Case("Llama", {**TINY, **rope("dynamic", factor=2.0)}, length=100),
    "llama-yarn": Case(
        "Llama",
        {**TINY, "head_dim": 32, **rope("yarn", factor=4.0, original_max_position_embeddings=32)},
        length=100,
        classic=True,
    ),
    "llama-llama3": Case(
        "Llama",
        {
            **TINY,
            "head_dim": 32,
            **rope(
                "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
            ),
        },
        length=100,
    ),
    "mistral-window": Case("Mistral", {**TINY, "sliding_window": 9, "head_dim": 16}, classic=True),
    "mistral-null-window": Case("Mistral", {**TINY, "sliding_window": None, "num_key_value_heads": 1}),
    "mistral-window-1": Case("Mistral", {**TINY, "sliding_window": 1}, torch.float16),
    "phi3-window": Case("Phi3", {**TINY, "sliding_window": 12, "pad_token_id": 0}, torch.float16),
    "phi3-longrope-below": Case(
        "Phi3",
        {
            **TINY,
            "num_attention_heads": 2,
            "pad_token_id": 0,
            "original_max_position_embeddings": 48,
            **rope("longrope", short_factor=SHORT, long_factor=LONG),
        },
        length=40,
        classic=True,
    ),
    "phi3-longrope-beyond-partial": Case(
        "Phi3",
        {
            **TINY,
            "hidden_size": 48,
            "num_attention_heads": 2,
            "pad_token_id": 0,
            "original_max_position_embeddings": 48,
            "sliding_window": 30,
            **rope("longrope", short_factor=SHORT[:6], long_factor=LONG[:6], partial_rotary_factor=0.5),
        },
        length=70,
    ),
    "gemma-tied": Case("Gemma", GEMMA, classic=True),
    "gemma-head-dim-40": Case("Gemma", {**GEMMA, "head_dim": 40, "num_key_value_heads": 1, "num_attention_heads": 3}),
    "gemma2-caps": Case(
        "Gemma2",
        {**GEMMA, "sliding_window": 8, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 5.0},
        classic=True,
    ),
    "gemma2-no-caps": Case(
        "Gemma2",
        {
            **GEMMA,
            "num_hidden_layers": 3,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "sliding_window": 5,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        },
    ),
    "gemma3-local-global": Case(
        "Gemma3Text",
        {
            **GEMMA,
            "num_hidden_layers": 4,
            "sliding_window": 8,
            "sliding_window_pattern": 2,
            "query_pre_attn_scalar": 16,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
        classic=True,
    ),
    "gemma3-longrope": Case(
        "Gemma3Text",
        {
            **GEMMA,
            "sliding_window": 8,
            "sliding_window_pattern": 2,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "longrope",
                    "rope_theta": 1e6,
                    "short_factor": SHORT,
                    "long_factor": LONG,
                    "original_max_position_embeddings": 32,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
        length=60,
    ),
    "gemma3-head-dim-24": Case(
        "Gemma3Text",
        {
            **GEMMA,
            "num_hidden_layers": 3,
            "head_dim": 24,
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "final_logit_softcapping": 20.0,
            "tie_word_embeddings": False,
        },
    ),
    "qwen2-bias": Case("Qwen2", {**TINY, "tie_word_embeddings": True, **rope("default", rope_theta=1e6)}, classic=True),
    "qwen2-window": Case(
        "Qwen2",
        {**TINY, "num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    ),
    "qwen3-qk-norm": Case("Qwen3", {**TINY, "head_dim": 16, "tie_word_embeddings": True}, classic=True),
    "qwen3-head-dim-24": Case("Qwen3", {**TINY, "head_dim": 24, "attention_bias": True, "rms_norm_eps": 1e-3}),
    "nemotron-half-rope": Case("Nemotron", {**TINY, "head_dim": 32, "num_attention_heads": 2}, classic=True),
    "nemotron-quarter-rope-bias": Case(
        "Nemotron",
        {
            **TINY,
            "head_dim": 24,
            "attention_bias": True,
            "mlp_bias": True,
            **rope("default", partial_rotary_factor=0.25),
        },
        torch.float16,
    ),
}


def main(names: list[str]) -> None:
    """Make the named fixtures, or all of them."""
    for name in names or CASES:
        case = CASES[name]
        config = getattr(transformers, f"{case.kind}Config")(**case.values)
        make(FIXTURES / name, config, case.dtype, case.length)
        if case.classic:
            make_classic(FIXTURES / name / "config.json")
        print(name, sum(path.stat().st_size for path in (FIXTURES / name).iterdir()) // 1024, "KB")


def make(folder: Path, config: Any, dtype: torch.dtype, length: int) -> None:
    """Write one fixture: random weights that `dtype` holds exactly, and the float32 results."""
    torch.manual_seed(0)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    for tensor_name, parameter in model.named_parameters():
        with torch.no_grad():
            if "norm" in tensor_name or tensor_name.endswith("bias"):
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5 * 1.5)
            parameter.copy_(parameter.to(dtype).float())
    ids = torch.randint(3, config.vocab_size, (1, length))
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits[0]
        sequence = ids
        for _ in range(GREEDY_STEPS):
            sequence = torch.cat([sequence, model(sequence, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    model.to(dtype).save_pretrained(folder, safe_serialization=True)
    for stray in folder.glob("generation_config.json"):
        stray.unlink()
    (folder / "model.safetensors").chmod(0o644)
    np.savez_compressed(
        folder / "expected.npz", ids=ids[0].numpy(), logits=logits.numpy(), greedy=sequence[0, length:].numpy()
    )


def make_classic(path: Path) -> None:
    """Rewrite a config.json in the format of transformers 4."""
    config = json.loads(path.read_text())
    parameters = config.pop("rope_parameters")
    config["torch_dtype"] = config.pop("dtype")
    if "full_attention" in parameters:
        config["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
        parameters = parameters["full_attention"]
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in parameters:
            config[name] = parameters.pop(name)
    by_pattern = config.get("_sliding_window_pattern", 6) != 6  # the list replaces the pattern
    if by_pattern or config["model_type"] not in ("gemma2", "gemma3_text", "qwen2", "qwen3"):
        config.pop("layer_types", None)
    kind = parameters.pop("rope_type")
    original = parameters.pop("original_max_position_embeddings", None)
    if kind != "default":
        config["rope_scaling"] = {"type": kind, **parameters}
        if original is not None and config["model_type"] != "phi3":
            config["rope_scaling"]["original_max_position_embeddings"] = original
    else:
        config["rope_scaling"] = None
    path.write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
