#!/usr/bin/env python3
"""Write `tests/fixtures/perplexity.json`: losses of transformers over windows of token ids. Needs torch.

    python tests/make_perplexity_fixture.py

The loop is that of the Hugging Face guide (https://huggingface.co/docs/transformers/perplexity): tokens that are not
scored get the label -100, and the model returns the loss. The guide weights the loss of each window by its number of
labels minus one, although only the first window loses a label to the shift. Here, each token counts once. The result
with the guide's weights is kept as `guide`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
import transformers

FIXTURES = Path(__file__).parent / "fixtures"
STORIES = Path(__file__).resolve().parents[2] / "shared" / "models" / "stories260K"
CASES = [
    ("llama-gqa", 100, 100, 50),  # shorter than the window
    ("llama-gqa", 300, 128, 64),
    ("llama-gqa", 300, 128, 128),
    ("llama-gqa", 257, 128, 128),  # the last window has one token, which is not predicted
    ("llama-mqa-bias", 90, 32, 5),
    ("llama-mha-tied", 200, 64, 1),
    ("llama-llama3", 250, 120, 77),
    ("phi3-longrope-beyond-partial", 200, 90, 45),  # the last window is rotated by other rope factors
    ("stories260K", 257, 64, 32),
]


def main() -> None:
    """Write the file."""
    cases = []
    for name, length, ctx, stride in CASES:
        folder = STORIES if name == STORIES.name else FIXTURES / name
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        if name == STORIES.name:
            ids = torch.tensor([json.loads((STORIES / "greedy256.json").read_text())])
        else:
            torch.manual_seed(1)
            ids = torch.randint(3, model.config.vocab_size, (1, length))
        case = {"model": name, "ctx": ctx, "stride": stride, "ids": ids[0].tolist()}
        cases.append({**case, **score(model, ids, ctx, stride)})
        print(name, cases[-1]["perplexity"], cases[-1]["guide"])
    lines = ",\n".join(json.dumps(case) for case in cases)
    (FIXTURES / "perplexity.json").write_text(f"[\n{lines}\n]\n")


def score(model: transformers.PreTrainedModel, ids: torch.Tensor, ctx: int, stride: int) -> dict[str, object]:
    """Return the mean loss of each window, the number of tokens it scores, and the perplexity."""
    losses, counts, guide, scored_end = [], [], [], 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + ctx, ids.shape[1])
        new = end - scored_end
        window = ids[:, begin:end]
        labels = window.clone()
        labels[:, :-new] = -100
        count = int((labels[:, 1:] != -100).sum())
        if count:
            with torch.no_grad():
                losses.append(model(window, labels=labels, use_cache=False).loss.item())
            counts.append(count)
            guide.append(int((labels != -100).sum()) - 1)
        scored_end = end
        if end == ids.shape[1]:
            break
    total = sum(loss * count for loss, count in zip(losses, counts, strict=True))
    total_guide = sum(loss * count for loss, count in zip(losses, guide, strict=True))
    return {
        "losses": losses,
        "counts": counts,
        "perplexity": math.exp(total / sum(counts)),
        "guide": math.exp(total_guide / max(1, sum(guide))),
    }


if __name__ == "__main__":
    main()
