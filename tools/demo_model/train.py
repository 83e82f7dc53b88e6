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
from itertools import cycle, islice, repeat
from pathlib import Path

import torch
from batches import Batch, batches
from checkpoint import save_checkpoint
from generate_text import DEFAULT_SEED, Example, drill_examples, examples, lesson_examples, recall_examples
from model import Llama, ModelConfig
from muon import Muon
from names import use_pieces
from sentencepiece import SentencePieceProcessor
from tokenizer import load_tokenizer, train_tokenizer
from torch.nn import functional as F

SHORT_LENGTH, SHORT_RESPONSE = 128, 60
DRILLS, MIXED, WIDE, LOOSE, STRANGE, FINISH, RECALL, FREE = (
    150,
    150,
    800,
    1700,
    2200,
    450,
    1000,
    1500,
)  # steps of stages
LAST_STAGES = ((FINISH, 0.25), (RECALL, 0.3), (FREE, 0.4))  # steps, and the rate that each begins with, of the peak
NAME_WEIGHT = 2.0  # of the loss of a piece of a name; of any other piece 1


def learning_rate(step: int, args: argparse.Namespace, decay: float = 0.5) -> float:
    """Warm up, stay, and go down linearly over the last `decay` part of the steps; again in each of the last stages."""
    main = args.steps - sum(steps for steps, _ in LAST_STAGES)
    if step < args.warmup:
        return args.rate * (step + 1) / args.warmup
    if step < main:
        return args.rate * max(0.01, min(1.0, (main - step) / (decay * main)))
    step -= main
    for steps, share in LAST_STAGES:
        if step < steps:
            return share * args.rate * (steps - step) / steps
        step -= steps
    return 0.0


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
    """Yield which kind of text each step reads, in eight stages.

    1. Short rows of drills and cut documents. A short row shows a new name, kind and theme far more often per token, so
       the model learns early to look them up in the request; before it can do that, long stories teach it little.
    2. By turns cut and whole documents, in few wordings, which make it easier to learn what to copy.
    3. The same in many more wordings, and in every third step questions and short conversations, which are few tokens
       among stories.
    4. Loose wordings too: words are missing or strange, as long as the creature and its name are there. Two of four
       steps are whole documents.
    5. More strange wordings, and fewer questions from outside.
    6. Names made from the pieces of the tokenizer, and more conversations.
    7. By turns questions about a story that is given, the same as before, and questions.
    8. The same, in requests and sums among any words.
    """
    yield from repeat("drills", DRILLS)
    yield from islice(cycle(("cut", "whole")), MIXED)
    yield from islice(cycle(("wide", "wide cut", "wide lessons")), WIDE)
    yield from islice(cycle(("loose", "loose cut", "loose", "loose lessons")), LOOSE)
    yield from islice(cycle(("last", "last cut", "last", "last lessons")), STRANGE)
    yield from islice(cycle(("finish", "finish cut")), FINISH)
    yield from islice(cycle(("recall", "finish", "finish cut", "finish lessons")), RECALL)
    yield from cycle(("free recall", "free", "free cut", "free lessons"))


def text_stream(args: argparse.Namespace, tokenizer: SentencePieceProcessor, first: int) -> Iterator[Batch]:
    """Yield the batches of all steps from `first` on: the same ones as after the steps before."""
    short, seed = args.rows * args.length // SHORT_LENGTH, args.seed

    def cut(documents: Iterator[Example]) -> Iterator[Batch]:
        return batches(documents, tokenizer, short, SHORT_LENGTH, cut=SHORT_RESPONSE)

    streams = {"drills": cut(drill_examples(seed)), "cut": cut(examples(seed + 1)),
               "whole": batches(examples(seed), tokenizer, args.rows, args.length)}  # fmt: skip
    for wide, name in enumerate(("wide", "loose", "last", "finish", "free"), 1):
        first_seed = seed + 2 * wide
        streams[name] = batches(examples(first_seed, wide=wide), tokenizer, args.rows, args.length)
        streams[f"{name} cut"] = cut(examples(first_seed + 1, wide=wide))
        streams[f"{name} lessons"] = batches(lesson_examples(first_seed, wide=wide), tokenizer, short, SHORT_LENGTH)
    streams["recall"] = batches(recall_examples(seed), tokenizer, args.rows, args.length)
    streams["free recall"] = batches(recall_examples(seed + 1, wide=5), tokenizer, args.rows, args.length)
    # What the earlier steps read is drawn again and skipped, where it is still needed.
    skipped = Counter(islice(schedule(), first))
    for kind in islice(schedule(), first, None):
        if kind in ("finish", "recall", "free recall"):
            use_pieces(tokenizer.id_to_piece(i) for i in range(tokenizer.vocab_size()))
        yield next(islice(streams[kind], skipped.pop(kind, 0), None))


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
        for step, batch in zip(range(first, args.steps), stream, strict=False):
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step, args)
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

            if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
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
    parser.add_argument("--steps", type=int, default=7950)
    parser.add_argument("--rows", type=int, default=12, help="packed rows per step")
    parser.add_argument("--length", type=int, default=384, help="tokens per row")
    parser.add_argument("--rate", type=float, default=4e-3, help="peak learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="go on from the last save in the output directory")
    with suppress(KeyboardInterrupt):
        train(parser.parse_args())


if __name__ == "__main__":
    main()
