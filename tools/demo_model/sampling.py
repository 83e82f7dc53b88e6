"""Batched generation, for the evaluation."""

import torch
from model import Llama
from sentencepiece import SentencePieceProcessor
from tokenizer import BOS, EOS
from torch import Tensor


def choose(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:
    """Choose one id per row of (rows, vocab_size) logits: the best at temperature 0, else from the `top_k` best."""
    if temperature == 0:
        return logits.argmax(-1)
    best, ids = logits.topk(top_k, dim=-1)
    picked = torch.multinomial((best / temperature).softmax(-1), 1, generator=generator)
    return ids.gather(1, picked)[:, 0]


def generate(
    model: Llama,
    tokenizer: SentencePieceProcessor,
    prompts: list[str],
    temperature: float = 0.0,
    top_k: int = 40,
    limit: int = 400,
    seed: int = 0,
    rows: int = 32,
) -> list[list[int]]:
    """Continue prompts, `rows` at a time.

    Args:
        prompts: Whole prompts, template included.
        temperature: 0 for greedy.
        limit: Most ids per response.

    Returns:
        The ids of every response, EOS included where it came within the limit.
    """
    generator = torch.Generator().manual_seed(seed)
    responses: list[list[int]] = []
    for start in range(0, len(prompts), rows):
        responses += _generate(model, tokenizer, prompts[start : start + rows], temperature, top_k, limit, generator)
    return responses


@torch.no_grad()
def _generate(
    model: Llama,
    tokenizer: SentencePieceProcessor,
    prompts: list[str],
    temperature: float,
    top_k: int,
    limit: int,
    generator: torch.Generator,
) -> list[list[int]]:
    encoded = [[BOS, *tokenizer.encode(prompt)] for prompt in prompts]
    longest = max(map(len, encoded))
    # Padded on the left: rotary attention depends on distances only, so the offset of a row changes nothing.
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in encoded])
    visible = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in encoded])
    limit = min(limit, model.config.max_position_embeddings - longest)
    # A padded position sees itself, because a row without any visible position would give NaN.
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    mask = (causal & visible[:, None, :]) | torch.eye(longest, dtype=torch.bool)
    caches: list[dict] = [{} for _ in model.model.layers]
    responses: list[list[int]] = [[] for _ in prompts]
    done = torch.zeros(len(prompts), dtype=torch.bool)
    logits = model.logits(model.hidden(ids, mask[:, None], caches)[:, -1])
    for _ in range(limit):
        chosen = choose(logits, temperature, top_k, generator)
        for row, token in enumerate(chosen.tolist()):
            if not done[row]:
                responses[row].append(token)
        done |= chosen == EOS
        if done.all():
            break
        visible = torch.cat((visible, torch.ones(len(prompts), 1, dtype=torch.bool)), 1)
        logits = model.logits(model.hidden(chosen[:, None], visible[:, None, None, :], caches)[:, -1])
    return responses
