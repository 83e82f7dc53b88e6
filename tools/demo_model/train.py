"""Train the demo model from nothing but a seed: text, tokenizer, weights and checkpoint.

Example:
    python train.py --output checkpoint
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path

import torch
from batches import Batch, batches
from checkpoint import save_checkpoint
from generate_text import DEFAULT_SEED, drill_examples, examples, lesson_examples, recall_examples
from model import Llama, ModelConfig
from muon import Muon
from names import use_pieces
from sentencepiece import SentencePieceProcessor
from tokenizer import load_tokenizer, train_tokenizer
from torch.nn import functional as F

SHORT_LENGTH, SHORT_RESPONSE = 128, 60
# What is read by turns, and for how many steps. A kind is the number of `wide` and what is made of the text: whole
# documents, cut ones, lessons (what is no story), or questions about a story that is given.
STAGES: tuple[tuple[tuple[str, ...], int], ...] = (
    # A short row of drills shows a new name far more often per token than a story, so that the model learns early to
    # look names up in the request; before it can do that, long stories teach it little.
    (("drills",), 150),
    # Few wordings make it easier to learn what to copy.
    (("0 cut", "0 whole"), 150),
    # Many wordings. Questions and short conversations are few tokens among stories, so they have steps of their own.
    (("1 whole", "1 cut", "1 lessons"), 500),
    # Any words around the hero.
    (("2 recall", "2 whole", "2 cut", "2 lessons"), 5800),
)
STEPS = sum(steps for _, steps in STAGES)
WARMUP, DECAY = 50, 0.65  # steps of rising rate; the part of all steps, at the end, in which it falls to 0
NAME_WEIGHT = 2.0  # of the loss of a piece of a name; of any other piece 1


def learning_rate(step: int, peak: float) -> float:
    """Warm up, stay, and go down linearly to 0."""
    return peak * min(1.0, (step + 1) / WARMUP, (STEPS - step) / (DECAY * STEPS))


def make_optimizers(model: Llama, rate: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the layers, and AdamW without weight decay for embedding and norms."""
    named = list(model.named_parameters())
    matrices = [parameter for name, parameter in named if parameter.dim() == 2 and "embed" not in name]
    others = [parameter for name, parameter in named if parameter.dim() != 2 or "embed" in name]
    adam = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), eps=1e-9, weight_decay=0.0, fused=True)
    return [Muon(matrices, lr=rate, weight_decay=weight_decay), adam]


def token_losses(model: Llama, batch: Batch) -> torch.Tensor:
    """Return the cross entropy of every response token, in nats."""
    hidden = model.hidden(batch.ids, batch.mask).flatten(0, 1)
    return F.cross_entropy(model.logits(hidden[batch.positions]), batch.targets, reduction="none")


def schedule() -> Iterator[str]:
    """Yield which kind of text each step reads."""
    for kinds, steps in STAGES:
        yield from islice(cycle(kinds), steps)


def text_stream(args: argparse.Namespace, tokenizer: SentencePieceProcessor, first: int) -> Iterator[Batch]:
    """Yield the batches of all steps from `first` on: the same ones as after the steps before."""
    use_pieces(tokenizer.id_to_piece(i) for i in range(tokenizer.vocab_size()))
    # What the earlier steps read is drawn again and skipped, where it is still needed.
    skipped = Counter(islice(schedule(), first))
    streams: dict[str, Iterator[Batch]] = {}
    for kind in islice(schedule(), first, None):
        if kind not in streams:
            streams[kind] = islice(_batches_of(kind, args, tokenizer), skipped[kind], None)
        yield next(streams[kind])


def _batches_of(kind: str, args: argparse.Namespace, tokenizer: SentencePieceProcessor) -> Iterator[Batch]:
    short = args.rows * args.length // SHORT_LENGTH
    if kind == "drills":
        return batches(drill_examples(args.seed), tokenizer, short, SHORT_LENGTH, cut=SHORT_RESPONSE)
    number, what = kind.split()
    seed, wide = args.seed + 1 + 2 * int(number), int(number)
    if what == "lessons":
        return batches(lesson_examples(seed, wide=wide), tokenizer, short, SHORT_LENGTH)
    if what == "cut":
        return batches(examples(seed, wide=wide), tokenizer, short, SHORT_LENGTH, cut=SHORT_RESPONSE)
    make = recall_examples if what == "recall" else examples
    return batches(make(seed + 1, wide=wide), tokenizer, args.rows, args.length)


@torch.no_grad()
def mean_loss(model: Llama, stream: Iterator[Batch], count: int) -> float:
    """Average the loss over the tokens of `count` batches."""
    total, tokens = 0.0, 0
    for _, batch in zip(range(count), stream, strict=False):
        total += float(token_losses(model, batch).sum())
        tokens += len(batch.targets)
    return total / tokens


def train(args: argparse.Namespace) -> None:
    """Run all stages and leave a checkpoint directory, renewed every `args.save_every` steps."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    output: Path = args.output
    output.mkdir(parents=True, exist_ok=True)
    config = ModelConfig()
    train_tokenizer(args.seed, config.vocab_size, output / "tokenizer.model")
    tokenizer = load_tokenizer(output)
    model = Llama(config)
    optimizers = make_optimizers(model, args.rate, args.weight_decay)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {tokenizer.vocab_size()} pieces", flush=True)

    state_path = output / "training_state.pt"
    first, seen, running, earlier = 0, 0, None, 0.0
    if args.resume:
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first, seen, running, earlier = (state[key] for key in ("step", "tokens", "loss", "seconds"))
    stream = text_stream(args, tokenizer, first)
    start = time.monotonic() - earlier
    with (output / "train_log.jsonl").open("a" if args.resume else "w", encoding="utf-8") as log:
        for step, batch in zip(range(first, STEPS), stream, strict=False):
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step, args.rate)
            losses = token_losses(model, batch)
            weights = 1.0 + (NAME_WEIGHT - 1.0) * batch.named
            ((losses * weights).sum() / weights.sum()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            model.zero_grad(set_to_none=True)
            seen += int(batch.ids.numel())
            loss = losses.mean().item()
            running = loss if running is None else 0.95 * running + 0.05 * loss
            named = losses.detach()[batch.named]
            name_loss = round(named.mean().item(), 4) if len(named) else None

            if (step + 1) % args.save_every == 0 or step + 1 == STEPS:
                unseen = batches(examples(args.seed, held_out=True), tokenizer, args.rows, args.length)
                held_out = round(mean_loss(model, unseen, 3), 4)
                save_checkpoint(model, output)
                state = {
                    "model": model.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "step": step + 1,
                    "tokens": seen,
                    "loss": running,
                    "seconds": time.monotonic() - start,
                }
                # Renamed at the end, so that an interrupt never leaves half a state.
                torch.save(state, state_path.with_suffix(".partial"))
                state_path.with_suffix(".partial").replace(state_path)
            else:
                held_out = None
            if step % 20 == 0 or held_out is not None:
                record = {
                    "step": step + 1,
                    "loss": round(running, 4),
                    "name_loss": name_loss,
                    "held_out": held_out,
                    "tokens": seen,
                    "seconds": round(time.monotonic() - start, 1),
                }
                log.write(json.dumps(record) + "\n")
                log.flush()
                print(record, flush=True)


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="checkpoint directory to write")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--rows", type=int, default=12, help="packed rows per step")
    parser.add_argument("--length", type=int, default=384, help="tokens per row")
    parser.add_argument("--rate", type=float, default=4e-3, help="peak learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="go on from the last save in the output directory")
    with suppress(KeyboardInterrupt):
        train(parser.parse_args())


if __name__ == "__main__":
    main()
