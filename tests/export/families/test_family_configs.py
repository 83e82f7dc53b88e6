"""Published `config.json` files are read; settings that are not implemented are rejected by name."""

from __future__ import annotations

from typing import Any

import pytest

from llama_onnx.errors import ModelDirectoryError
from llama_onnx.export.families.registry import FAMILIES, read_spec
from llama_onnx.export.families.spec import LayerSpec

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "multi-dimensional rope": ("qwen2", {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}, "mrope"),
    "mrope section": (
        "llama",
        {"rope_scaling": {"type": "linear", "factor": 2, "mrope_section": [2]}},
        "mrope_section",
    ),
    "use_mrope": ("qwen2", {"use_mrope": True}, "use_mrope"),
    "unknown rope": ("llama", {"rope_scaling": {"rope_type": "proportional", "factor": 2.0}}, "proportional"),
    "two ropes": ("llama", {"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2.0}}, "rope_type"),
    "no factor": ("llama", {"rope_scaling": {"type": "linear"}}, "factor"),
    "unread factor": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2, "beta_fast": 3}}, "beta_fast"),
    "ropes by layer type": ("llama", {"rope_parameters": {"full_attention": {}}}, "full_attention"),
    "one rope for gemma3": ("gemma3_text", {"rope_parameters": {"rope_type": "default"}}, "rope_parameters"),
    "wrong factors": (
        "phi3",
        {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
        "short_factor",
    ),
    "partial rotary": ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "rope percent": ("nemotron", {"rope_percent": 0.3}, "rope_percent"),
    "alibi": ("llama", {"alibi": True}, "alibi"),
    "clip_qkv": ("llama", {"clip_qkv": 8.0}, "clip_qkv"),
    "soft-cap": ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    "final soft-cap": ("qwen2", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    "gemma3 soft-cap": ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    "multiplier": ("llama", {"residual_multiplier": 0.22}, "residual_multiplier"),
    "logit scale": ("llama", {"logit_scale": 0.06}, "logit_scale"),
    "head norms": ("llama", {"use_qk_norm": True}, "use_qk_norm"),
    "experts": ("mistral", {"num_local_experts": 8}, "num_local_experts"),
    "expert layers": ("qwen3", {"num_experts": 64}, "num_experts"),
    "window of llama": ("llama", {"sliding_window": 16}, "sliding_window"),
    "wrong window": ("mistral", {"sliding_window": 0}, "sliding_window"),
    "layer types of llama": ("llama", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    "unknown layer type": ("qwen2", {"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
    "too few layer types": ("gemma2", {"layer_types": ["full_attention"]}, "layer_types"),
    "window that is off": ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "sliding_window"),
    "both directions": ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    "activation": ("llama", {"hidden_act": "xielu"}, "hidden_act = 'xielu'"),
    "gemma activation": ("gemma2", {"hidden_activation": "quick_gelu"}, "hidden_activation"),
    "two activations": ("gemma2", {"hidden_act": "silu"}, "hidden_act"),
    "gemma's second activation": ("gemma", {"hidden_activation": "relu"}, "hidden_activation"),
    "bias of mistral": ("mistral", {"attention_bias": True}, "attention_bias"),
    "not a flag": ("llama", {"attention_bias": "yes"}, "attention_bias"),
    "not a number": ("llama", {"rms_norm_eps": "small"}, "rms_norm_eps"),
    "quantised otherwise": ("llama", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config"),
    "heads": ("qwen2", {"num_key_value_heads": 3}, "key-value heads"),
    "unknown family": ("mixtral", {}, "mixtral"),
}
BASE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 128,
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_are_not_implemented_are_errors_that_name_them(case: str) -> None:
    family, changes, named = REFUSED[case]
    with pytest.raises(ModelDirectoryError) as caught:
        read_spec({**BASE, "model_type": family, **changes})
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_settings_that_change_nothing_are_accepted(family: str) -> None:
    harmless = {
        "attention_dropout": 0.1, "initializer_range": 0.02, "use_cache": False, "torch_dtype": "bfloat16",
        "pretraining_tp": 1, "rope_scaling": None, "num_experts": None, "residual_multiplier": 1.0, "use_mrope": False,
        "_name_or_path": "x", "architectures": ["X"], "transformers_version": "4.30.0", "pruned_heads": {},
        "attn_implementation": "eager", "cross_attention_hidden_size": None, "is_llama_config": True,
    }  # fmt: skip
    assert read_spec({**BASE, "model_type": family, **harmless}).family == family


PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Phi-4-mini": (
        {
            "model_type": "phi3", "attention_bias": False, "attention_dropout": 0.0, "embd_pdrop": 0.0,
            "full_attn_mod": 1, "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192,
            "interpolate_factor": 1, "lm_head_bias": False, "max_position_embeddings": 131072, "mlp_bias": False,
            "num_attention_heads": 24, "num_hidden_layers": 32, "num_key_value_heads": 8,
            "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75, "resid_pdrop": 0.0,
            "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": True,
            "rope_scaling": {"type": "longrope", "short_factor": [1] * 48, "long_factor": [1.5] * 48},
            "vocab_size": 200064,
        },
        {"head_dim": 128, "cache_head_dim": 128, "rope_switch_length": 4096, "num_kv_heads": 8},
    ),
    "Gemma-3-1b": (
        {
            "model_type": "gemma3_text", "attention_bias": False, "attn_logit_softcapping": None,
            "cache_implementation": "hybrid", "final_logit_softcapping": None, "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 6912,
            "max_position_embeddings": 32768, "num_attention_heads": 4, "num_hidden_layers": 26,
            "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
            "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512,
            "sliding_window_pattern": 6, "vocab_size": 262144,
        },
        {"tied_embeddings": True, "attention_scale": 1 / 16, "embedding_scale": 1152**0.5},
    ),
    "Qwen2.5-7B": (
        {
            "model_type": "qwen2", "hidden_act": "silu", "hidden_size": 3584, "intermediate_size": 18944,
            "max_position_embeddings": 32768, "max_window_layers": 28, "num_attention_heads": 28,
            "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
            "sliding_window": 131072, "tie_word_embeddings": False, "use_mrope": False, "use_sliding_window": False,
            "vocab_size": 152064,
        },
        {"qkv_bias": True, "output_bias": False, "layers": (LayerSpec(),) * 28},
    ),
    "Gemma-2b": (
        {
            "model_type": "gemma", "attention_bias": False, "head_dim": 256, "hidden_act": "gelu",
            "hidden_activation": None, "hidden_size": 2048, "intermediate_size": 16384,
            "max_position_embeddings": 8192, "num_attention_heads": 8, "num_hidden_layers": 18,
            "num_key_value_heads": 1, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 10000.0,
            "vocab_size": 256000,
        },
        {"activation": "gelu_pytorch_tanh", "tied_embeddings": True, "norm_offset": 1.0},
    ),
    "Llama-1": (
        {
            "model_type": "llama", "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
            "max_sequence_length": 2048, "num_attention_heads": 32, "num_hidden_layers": 32, "pad_token_id": 0,
            "rms_norm_eps": 1e-06, "vocab_size": 32000,
        },
        {"head_dim": 128, "num_kv_heads": 32, "context_length": 2048, "tied_embeddings": False},
    ),
    "Mistral-7B": (
        {
            "model_type": "mistral", "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
            "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32,
            "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096,
            "vocab_size": 32000,
        },
        {"layers": (LayerSpec(4096),) * 32},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_are_accepted(name: str) -> None:
    config, expected = PUBLISHED[name]
    spec = read_spec(config)
    assert {field: getattr(spec, field) for field in expected} == expected


def test_layers_of_gemma3_alternate_as_published() -> None:
    layers = read_spec(PUBLISHED["Gemma-3-1b"][0]).layers
    assert [i for i, layer in enumerate(layers) if layer == LayerSpec()] == [5, 11, 17, 23]
    assert layers[0] == LayerSpec(512, "local")
