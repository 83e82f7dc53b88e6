"""Multiple choice in the layout of MMLU, as the reference implementation does it (github.com/hendrycks/test).

`DIR/dev/SUBJECT_dev.csv` holds the examples that are shown before each question, `DIR/test/SUBJECT_test.csv` the
questions. Each row is a question, its choices and the letter of the answer; there is no header. (The archive unpacks to
a folder `data`; DIR may be this folder or its parent.) The prompt ends in "Answer:". The model's answer is the letter
with the largest log-likelihood as the next token.

There are two intended differences from the reference: cells are read as text (pandas would read a column of digits as
numbers, and the choice "None" as missing), and a question may have up to 26 choices.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

import numpy as np

from ..decoder import Decoder
from ..errors import RequestError
from ..tokenizer import Tokenizer
from . import layerwise
from .perplexity import log_likelihoods

ANSWER = "\nAnswer:"


@dataclass(frozen=True)
class Question:
    """A question, its choices, and the letter of the correct one."""

    text: str
    choices: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class SubjectResult:
    """The model's answers in one subject: log-likelihoods float64 [questions, choices], and which are correct."""

    subject: str
    log_likelihoods: np.ndarray
    correct: np.ndarray
    shots: tuple[int, ...]  # examples before each question; fewer than requested if the context is too short

    @property
    def accuracy(self) -> float:
        """The share of correct answers."""
        return float(self.correct.mean())


def subjects_of(directory: str | Path) -> list[str]:
    """Return the sorted names of the subjects that have a test file.

    Raises:
        RequestError: there is none.
    """
    folder = _data_folder(directory)
    names = sorted(path.name.removesuffix("_test.csv") for path in (folder / "test").glob("*_test.csv"))
    if not names:
        raise RequestError(f"{directory}: contains no test/*_test.csv; give the data folder of the MMLU archive")
    return names


def evaluate_subject(
    decoder: Decoder,
    tokenizer: Tokenizer,
    directory: str | Path,
    subject: str,
    shots: int = 5,
    limit: int | None = None,
    context: int | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> SubjectResult:
    """Answer the questions of one subject.

    Args:
        decoder: of the model.
        tokenizer: of the model.
        directory: contains `dev` and `test`.
        subject: as in the file names, such as `abstract_algebra`.
        shots: examples before each question; fewer if they do not fit the context.
        limit: ask only the first `limit` questions.
        context: the most tokens of a prompt; None means the model's context.
        on_progress: called with the share of the work that is done, 0 to 1.

    Raises:
        RequestError: a file is missing or has another layout, or a question is longer than the context.
    """
    folder, context = _data_folder(directory), context or decoder.config.context_length
    examples = read_questions(folder / "dev" / f"{subject}_dev.csv") if shots else []
    if len(examples) < shots:
        raise RequestError(f"{folder}/dev/{subject}_dev.csv: {len(examples)} examples, but {shots} shots are requested")
    questions = read_questions(folder / "test" / f"{subject}_test.csv")[:limit]
    start, letters = letter_tokens(tokenizer, len(questions[0].choices))
    prompts = []
    for number, question in enumerate(questions, 1):
        for shown in range(shots, -1, -1):
            ids = tokenizer.encode(prompt_of(subject, examples[:shown], question)) + start
            if len(ids) <= context:
                prompts.append((shown, np.array(ids, np.int64)))
                break
        else:
            raise RequestError(
                f"{subject}: question {number} alone has {len(ids)} tokens, more than the context of {context}"
            )
    scores = np.empty((len(questions), len(letters)))
    for place, values in _answer(decoder, prompts, letters, on_progress):
        scores[place] = values
    right = np.array([ascii_uppercase.index(question.answer) for question in questions])
    return SubjectResult(subject, scores, scores.argmax(-1) == right, tuple(shown for shown, _ in prompts))


def read_questions(path: Path) -> list[Question]:
    """Read a file of rows `question, choice…, answer letter`. All rows must have the same number of choices.

    Raises:
        RequestError: the file is missing or empty, or a row has another layout.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    if not rows:
        raise RequestError(f"{path}: is empty")
    width = len(rows[0])
    for number, row in enumerate(rows, 1):
        letters = ascii_uppercase[: width - 2]
        if not 4 <= width <= 28 or len(row) != width or row[-1].strip() not in tuple(letters):
            raise RequestError(
                f"{path}: row {number} is not a question, its choices and the letter of the answer"
                + (f" ({len(row)} fields where row 1 has {width})" if len(row) != width else "")
            )
    return [Question(row[0], tuple(row[1:-1]), row[-1].strip()) for row in rows]


def prompt_of(subject: str, examples: Sequence[Question], question: Question) -> str:
    """Return the text before the answer, exactly as in the reference (with its two spaces before the subject)."""
    about = "".join(f" {word}" for word in subject.split("_"))
    shown = "".join(f"{_lines(example)} {example.answer}\n\n" for example in examples)
    return f"The following are multiple choice questions (with answers) about {about}.\n\n{shown}{_lines(question)}"


def letter_tokens(tokenizer: Tokenizer, count: int) -> tuple[list[int], list[int]]:
    """Return the tokens of " A", " B", … after the prompt: their common prefix, and the last token of each.

    Most tokenizers have a token for " A", so the prefix is empty. Others write it as a space and "A". The likelihood of
    the space is then the same for every letter, and does not change which letter is the most likely.

    Raises:
        RequestError: a letter is more than one token after the prefix.
    """
    before = tokenizer.encode(ANSWER, add_bos=False)
    whole = [tokenizer.encode(f"{ANSWER} {letter}", add_bos=False) for letter in ascii_uppercase[:count]]
    tails = [ids[len(before) :] for ids in whole]
    common = layerwise.common_start([np.array(tail) for tail in tails]) if all(tails) else 0
    single = all(len(tail) == common + 1 for tail in tails) and all(ids[: len(before)] == before for ids in whole)
    if not single or len({tail[-1] for tail in tails}) < count:
        raise RequestError("the tokenizer splits the answers ' A', ' B' … into several tokens; they cannot be compared")
    return tails[0][:common], [tail[-1] for tail in tails]


def _answer(
    decoder: Decoder,
    prompts: Sequence[tuple[int, np.ndarray]],
    letters: Sequence[int],
    on_progress: Callable[[float], None] | None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number of the prompt, log-likelihoods of the letters). A common prefix of prompts is computed once."""
    done = 0
    for shown in {shown for shown, _ in prompts}:
        places = [place for place, (shots, _) in enumerate(prompts) if shots == shown]
        waiting = iter(places)
        for group in layerwise.split(decoder, (prompts[place][1] for place in places)):
            for hidden in layerwise.final_hidden(decoder, group, layerwise.common_start(group)):
                (logits,) = layerwise.logits(decoder, hidden[:, -1:])
                yield next(waiting), log_likelihoods(np.repeat(logits, len(letters), 0), np.array(letters))
                done += 1
                if on_progress:
                    on_progress(done / len(prompts))


def _lines(question: Question) -> str:
    choices = "".join(
        f"\n{letter}. {choice}" for letter, choice in zip(ascii_uppercase, question.choices, strict=False)
    )
    return f"{question.text}{choices}{ANSWER}"


def _data_folder(directory: str | Path) -> Path:
    directory = Path(directory)
    return directory if (directory / "test").is_dir() else directory / "data"
