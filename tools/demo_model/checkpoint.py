"""Reads and writes checkpoints in the Hugging Face layout."""

import json
from pathlib import Path

import torch
from model import Llama, ModelConfig
from safetensors.torch import load_file, save_file
from tokenizer import BOS, EOS


def save_checkpoint(model: Llama, directory: Path) -> None:
    """Write `config.json`, `generation_config.json` and `model.safetensors`, the weights rounded to fp16.

    The output projection is tied to the embedding and not stored twice.
    """
    directory.mkdir(parents=True, exist_ok=True)
    generation = {"bos_token_id": BOS, "do_sample": True, "eos_token_id": EOS, "temperature": 0.1, "top_k": 40}
    for name, content in (("config.json", model.config.to_hf()), ("generation_config.json", generation)):
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tensors = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    # Written next to its place and renamed, so that a reader never sees half a file.
    partial = directory / "model.safetensors.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(directory / "model.safetensors")


def load_checkpoint(directory: Path) -> Llama:
    """Load a model; its fp32 parameters have exactly the stored fp16 values."""
    config = ModelConfig.from_hf(json.loads((directory / "config.json").read_text(encoding="utf-8")))
    model = Llama(config)
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(directory / "model.safetensors").items()})
    return model.eval()
