"""Train the demo model from nothing but a seed: text, tokenizer, weights and checkpoint.

Example:
    python train.py --output checkpoint
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import torch
from batches import Batch, batches
from checkpoint import save_checkpoint
from generate_text import DEFAULT_SEED, drill_examples, examples, lesson_examples
from model import Llama, ModelConfig
from sentencepiece import SentencePieceProcessor
from tokenizer import load_tokenizer, train_tokenizer
from torch.nn import functional as F
from vocabulary import BOY_NAMES, GIRL_NAMES

SHORT_LENGTH, SHORT_RESPONSE = 120, 60
STAGES = (200, 200, 200)  # steps of each stage but the last


def learning_rate(step: int, args: argparse.Namespace, decay: float = 0.4) -> float:
    """Warm up, stay, and go down linearly to a hundredth of the peak over the last `decay` part of the cycle.

    `args.first_cycle` steps make up a cycle of their own, so that a finished run can be continued (`--resume`).
    """
    steps = args.first_cycle or args.steps
    if args.first_cycle and step >= args.first_cycle:
        step, steps = step - args.first_cycle, args.steps - args.first_cycle
    if step < args.warmup:
        return args.rate * (step + 1) / args.warmup
    return args.rate * max(0.01, min(1.0, (steps - step) / (decay * steps)))


def make_optimizer(model: Llama, rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return AdamW with weight decay on the matrices of the layers only, not on embedding and norms."""
    named = list(model.named_parameters())
    decayed = [parameter for name, parameter in named if parameter.dim() == 2 and "embed" not in name]
    others = [parameter for name, parameter in named if parameter.dim() != 2 or "embed" in name]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), eps=1e-9, fused=True)


def token_losses(model: Llama, batch: Batch) -> torch.Tensor:
    """Return the cross entropy of every response token, in nats."""
    hidden = model.hidden(batch.ids, batch.mask).flatten(0, 1)
    return F.cross_entropy(model.logits(hidden[batch.positions]), batch.targets, reduction="none")


def text_stream(args: argparse.Namespace, tokenizer: SentencePieceProcessor) -> Iterator[Batch]:
    """Yield the batches of the run, in four stages.

    1. Short rows of drills and cut documents. A short row shows a new name, kind and theme far more often per token, so
       the model learns early to look them up in the request; before it can do that, long stories teach it little.
    2. Whole documents.
    3. Cut and whole documents by turns.
    4. By turns whole documents and rows of nothing but questions and answers, which are few tokens among stories.
    """
    rows = args.rows * args.length // SHORT_LENGTH
    drills = batches(drill_examples(args.seed), tokenizer, rows, SHORT_LENGTH, cut=SHORT_RESPONSE)
    whole = batches(examples(args.seed), tokenizer, args.rows, args.length)
    short = batches(examples(args.seed + 1), tokenizer, rows, SHORT_LENGTH, cut=SHORT_RESPONSE)
    lessons = batches(lesson_examples(args.seed), tokenizer, rows, SHORT_LENGTH)
    yield from islice(drills, STAGES[0])
    yield from islice(whole, STAGES[1])
    for _ in range(STAGES[2] // 2):
        yield next(short)
        yield next(whole)
    while True:
        yield next(lessons)
        yield next(whole)


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
    optimizer = make_optimizer(model, args.rate, args.weight_decay)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {tokenizer.vocab_size()} pieces", flush=True)

    names = torch.zeros(config.vocab_size, dtype=torch.bool)
    names[[tokenizer.piece_to_id("▁" + name) for name in GIRL_NAMES + BOY_NAMES]] = True
    state_path = output / "training_state.pt"
    first, seen, running, earlier = 0, 0, None, 0.0
    if args.resume:
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, seen, running, earlier = (state[key] for key in ("step", "tokens", "loss", "seconds"))
    # The text of the steps already done is drawn again and skipped, so a resumed run sees what an unbroken one sees.
    stream = islice(text_stream(args, tokenizer), first, None)
    start = time.monotonic() - earlier
    with (output / "train_log.jsonl").open("a" if args.resume else "w", encoding="utf-8") as log:
        for step, batch in zip(range(first, args.steps), stream, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, args)
            losses = token_losses(model, batch)
            loss = losses.mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            seen += int(batch.ids.numel())
            running = loss.item() if running is None else 0.95 * running + 0.05 * loss.item()
            named = losses.detach()[names[batch.targets]]
            name_loss = round(named.mean().item(), 4) if len(named) else None

            if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
                unseen = batches(examples(args.seed, held_out=True), tokenizer, args.rows, args.length)
                held_out = mean_loss(model, unseen, 5)
                save_checkpoint(model, output)
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1,
                         "tokens": seen, "loss": running, "seconds": time.monotonic() - start}  # fmt: skip
                torch.save(state, state_path)
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
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--first-cycle", type=int, default=0, help="steps of an earlier, finished cycle; 0 for none")
    parser.add_argument("--rows", type=int, default=8, help="packed rows per step")
    parser.add_argument("--length", type=int, default=360, help="tokens per row")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="go on from the last save in the output directory")
    with suppress(KeyboardInterrupt):
        train(parser.parse_args())


if __name__ == "__main__":
    main()
