"""Makes a `config.json` from the metadata of a GGUF file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...errors import ModelDirectoryError
from ..families.rope import llama3_frequencies
from .gguf_file import GgufFile
from .gguf_special import end_ids, token_id
from .rotary import LLAMA3_ROPE

# GGUF architecture: (model_type, activation)
FAMILIES = {
    "llama": ("llama", "silu"),
    "qwen2": ("qwen2", "silu"),
    "qwen3": ("qwen3", "silu"),
    "phi3": ("phi3", "silu"),
    "gemma": ("gemma", "gelu_pytorch_tanh"),
    "gemma2": ("gemma2", "gelu_pytorch_tanh"),
    "gemma3": ("gemma3_text", "gelu_pytorch_tanh"),
}


def make_config(file: GgufFile) -> dict[str, Any]:
    """Return the fields that `config.json` would have.

    Raises:
        ModelDirectoryError: a number is missing, or a value is not supported.
    """
    return _Metadata(file).config()


class _Metadata:
    def __init__(self, file: GgufFile) -> None:
        self._file = file
        self._family = file.metadata["general.architecture"]

    def config(self) -> dict[str, Any]:
        heads, hidden = self._number("attention.head_count"), self._number("embedding_length")
        if heads < 1 or self._optional("expert_count", 0):
            raise ModelDirectoryError(
                f"{self._file.path}: a model of experts or without attention, which is not supported"
            )
        head_dim = self._number("attention.key_length", hidden // heads)
        model_type, activation = FAMILIES[self._family]
        config: dict[str, Any] = {
            "model_type": model_type,
            "hidden_size": hidden,
            "intermediate_size": self._number("feed_forward_length"),
            "num_hidden_layers": self._number("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self._number("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "vocab_size": self._vocab_size(),
            "max_position_embeddings": self._number("context_length"),
            "rms_norm_eps": _round(self._number("attention.layer_norm_rms_epsilon")),
            "rope_theta": _round(self._number("rope.freq_base", 10000.0)),
            "hidden_act": activation,
            "tie_word_embeddings": "output.weight" not in self._file.tensors,
        }
        if self._number("attention.value_length", head_dim) != head_dim:
            raise ModelDirectoryError(f"{self._file.path}: keys and values of different sizes are not supported")
        for name, bias in (("attention_bias", "attn_output.bias"), ("mlp_bias", "ffn_down.bias")):
            config[name] = f"blk.0.{bias}" in self._file.tensors
        rotary = self._number("rope.dimension_count", head_dim)
        if rotary != head_dim:
            config["partial_rotary_factor"] = rotary / head_dim
        scaling = self._rope_scaling(config, rotary)
        if scaling:
            config["rope_scaling"] = scaling
        self._add_window(config)
        if self._family.startswith("gemma"):
            self._add_gemma(config)
        config["bos_token_id"] = token_id(self._file.metadata, "bos")
        config["eos_token_id"] = end_ids(self._file.metadata)
        return config

    def _optional(self, name: str, default: Any = None) -> Any:
        return self._file.metadata.get(f"{self._family}.{name}", default)

    def _number(self, name: str, default: Any = None) -> Any:
        value = self._optional(name, default)
        if isinstance(value, list) and len(set(value)) == 1:
            value = value[0]  # one value for each layer
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            what = "differs between layers" if isinstance(value, list) else f"is {value!r}"
            raise ModelDirectoryError(f"{self._file.path}: {self._family}.{name} {what}; such a model is not supported")
        return value

    def _vocab_size(self) -> int:
        entry = self._file.tensors.get("token_embd.weight")
        if entry is None or len(entry.shape) != 2:
            raise ModelDirectoryError(f"{self._file.path}: has no token_embd.weight; is it a complete model?")
        return int(entry.shape[0])

    def _rope_scaling(self, config: dict[str, Any], rotary: int) -> dict[str, Any] | None:
        if "rope_freqs.weight" in self._file.tensors:
            return self._llama3(config["rope_theta"], rotary)
        if "rope_factors_long.weight" in self._file.tensors:
            config["original_max_position_embeddings"] = self._number("rope.scaling.original_context_length")
            factors = {f"{n}_factor": self._file.tensor(f"rope_factors_{n}.weight").tolist() for n in ("short", "long")}
            return {"type": "longrope", **factors}
        # A factor without a type is linear; in 2023 its key was another one.
        kind = self._optional("rope.scaling.type", "linear")
        factor = self._number("rope.scaling.factor", self._number("rope.scale_linear", 1.0))
        if kind == "none" or factor in (0, 1):
            return None
        if kind == "linear":
            return {"rope_type": "linear", "factor": factor}
        if kind == "yarn":
            length = self._number("rope.scaling.original_context_length", config["max_position_embeddings"])
            scaling = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": length}
            share = self._number("rope.scaling.attn_factor", 1.0)
            if share != 1:  # in units of what the factor alone gives
                scaling["attention_factor"] = share * (1 + 0.1 * math.log(factor))
            return scaling
        raise ModelDirectoryError(f"{self._file.path}: rope scaling {kind!r} is not supported")

    def _llama3(self, theta: float, rotary: int) -> dict[str, Any]:
        """Return the scaling of Llama 3.1 and later, of which the file has only the divisors of the frequencies."""
        divisors = self._file.tensor("rope_freqs.weight").astype(np.float64)
        scaling: dict[str, Any] = {"rope_type": "llama3", "factor": float(divisors.max(initial=1)), **LLAMA3_ROPE}
        plain = (1 / theta ** (np.arange(0, rotary, 2) / rotary)).astype(np.float32)
        known = plain / llama3_frequencies(plain, scaling, scaling["original_max_position_embeddings"])
        if divisors.shape != known.shape or not np.allclose(divisors, known, rtol=1e-3):
            raise ModelDirectoryError(
                f"{self._file.path}: rope_freqs.weight does not follow Llama 3's rule, the only one supported"
            )
        return scaling

    def _add_window(self, config: dict[str, Any]) -> None:
        window = self._optional("attention.sliding_window")
        if window:
            config["sliding_window"] = int(window)
            if self._family == "llama":  # which is also the name for Mistral models
                config["model_type"] = "mistral"

    def _add_gemma(self, config: dict[str, Any]) -> None:
        config["hidden_activation"] = config["hidden_act"]
        config["tie_word_embeddings"] = True
        if self._family == "gemma":
            return
        heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
        # Scores are divided by the root of this. GGUF lacks it: it is the head size except in the 27B models.
        large = layers == (46 if self._family == "gemma2" else 62)
        config["query_pre_attn_scalar"] = config["hidden_size"] // heads if large else config["head_dim"]
        # The first Gemma 2 files (June 2024) lack the caps.
        for name, cap in (("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)):
            config[name] = self._optional(name, cap if self._family == "gemma2" else None)
        config["layer_types"] = [
            "sliding_attention" if slides else "full_attention" for slides in self._sliding_layers(layers)
        ]
        if self._family == "gemma3":
            config["rope_local_base_freq"] = _round(self._number("rope.freq_base_swa", 10000.0))

    def _sliding_layers(self, layers: int) -> list[bool]:
        """Return which layers slide. The default is the pattern of the published models."""
        pattern = self._optional("attention.sliding_window_pattern", 2 if self._family == "gemma2" else 6)
        if isinstance(pattern, list) and len(pattern) == layers:
            return [bool(slides) for slides in pattern]
        if isinstance(pattern, int) and pattern > 0:
            return [(i + 1) % pattern != 0 for i in range(layers)]
        raise ModelDirectoryError(f"{self._file.path}: its pattern of sliding layers is not supported")


def _round(value: float) -> float:
    """Return the shortest decimal that gives the file's float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))
