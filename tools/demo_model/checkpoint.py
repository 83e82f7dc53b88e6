"""Reads and writes checkpoints in the Hugging Face layout."""

import json
from pathlib import Path

import torch
from instructions import INSTRUCTION, RESPONSE, SYSTEM
from model import Llama
from safetensors.torch import save_file
from tokenizer import BOS, EOS

# What the runtime's built-in template `alpaca` writes, for programs that know chat templates only.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ messages[0].content }}{% else %}" + SYSTEM + "{% endif %}"
    "{% for message in messages if message.role != 'system' %}"
    "{{ '\\n\\n"
    + RESPONSE
    + "\\n' if message.role == 'assistant' else '\\n\\n"
    + INSTRUCTION
    + "\\n' }}{{ message.content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\\n\\n" + RESPONSE + "\\n' }}{% endif %}"
)


def save_checkpoint(model: Llama, directory: Path) -> None:
    """Write the configuration, the chat template and `model.safetensors`, the weights rounded to fp16.

    The output projection is tied to the embedding and not stored twice.
    """
    directory.mkdir(parents=True, exist_ok=True)
    generation = {"bos_token_id": BOS, "do_sample": True, "eos_token_id": EOS, "temperature": 0.1, "top_k": 40}
    texts = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE + "\n", encoding="utf-8")
    files = {"config.json": model.config.to_hf(), "generation_config.json": generation, "tokenizer_config.json": texts}
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tensors = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    # Written next to its place and renamed, so that a reader never sees half a file.
    partial = directory / "model.safetensors.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(directory / "model.safetensors")
