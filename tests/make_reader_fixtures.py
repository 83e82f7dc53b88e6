#!/usr/bin/env python3
"""Write `tests/fixtures/torch-files`: files that torch saves, in each of its formats. Needs torch and transformers.

    python tests/make_reader_fixtures.py

`zip`, `sharded` and `legacy` hold the same model (bfloat16, float16 and float32 of the same values) as Hugging Face
directories; `expected.npz` has `ids` and the float32 `logits` of transformers. `odd.bin` and `odd-legacy.bin` hold
tensors that are not contiguous or have other types; `odd.npz` holds their values.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import transformers

FOLDER = Path(__file__).parent / "fixtures" / "torch-files"


def main() -> None:
    """Write all."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=64,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="eager",
    )
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 1.5 * parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.1
            values = torch.randn_like(parameter) * scale + (0 if parameter.ndim == 2 else 1)
            # Values that bfloat16 and float16 both hold: the same model in every file.
            parameter.copy_(values.to(torch.bfloat16).clamp(-4, 4).mul(2**8).round().div(2**8))
        ids = torch.randint(3, config.vocab_size, (1, 24))
        logits = model(ids).logits[0]
    for parameter in model.parameters():
        assert torch.equal(parameter, parameter.half().float())
        assert torch.equal(parameter, parameter.bfloat16().float())
    FOLDER.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(FOLDER / "expected.npz", ids=ids[0].numpy(), logits=logits.numpy())
    for name, dtype in (("zip", torch.bfloat16), ("sharded", torch.float16), ("legacy", torch.float32)):
        folder = FOLDER / name
        folder.mkdir(exist_ok=True)
        config.save_pretrained(folder)
        state = OrderedDict((key, value.detach().to(dtype)) for key, value in model.state_dict().items())
        if name == "sharded":
            save_shards(state, folder)
        else:
            torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=name == "zip")
    save_odd()


def save_shards(state: OrderedDict[str, torch.Tensor], folder: Path) -> None:
    """Save two shards and their index."""
    weight_map = {}
    for i in (0, 1):
        shard = OrderedDict((key, value) for n, (key, value) in enumerate(state.items()) if n % 2 == i)
        file = f"pytorch_model-0000{i + 1}-of-00002.bin"
        torch.save(shard, folder / file)
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1) + "\n")


def save_odd() -> None:
    """Save views, shared data, parameters and other types."""
    base = torch.arange(60, dtype=torch.float32).reshape(6, 10)
    odd = OrderedDict(
        base=base,
        transposed=base.T,
        part=base[2:5, 1:9:3],
        row=base[3],
        parameter=torch.nn.Parameter(base[1].clone()),
        counts=torch.tensor([-1, 2, 1 << 40]),
        flags=torch.tensor([True, False, True]),
        double=torch.tensor([1 / 3], dtype=torch.float64),
        half=torch.tensor([[0.5, -2.0]], dtype=torch.float16),
        scalar=torch.tensor(7.0),
        empty=torch.zeros(0, 3),
    )
    odd._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]  # as state_dict() leaves it
    torch.save(odd, FOLDER / "odd.bin")
    torch.save(odd, FOLDER / "odd-legacy.bin", _use_new_zipfile_serialization=False)
    np.savez_compressed(FOLDER / "odd.npz", **{name: value.detach().numpy() for name, value in odd.items()})


if __name__ == "__main__":
    main()
