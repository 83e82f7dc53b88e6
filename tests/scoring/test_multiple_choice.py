"""Multiple choice as in the reference implementation of MMLU: the same prompt, and the answer by likelihood."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import decoder_of, run

from llama_onnx.errors import RequestError
from llama_onnx.model_directory import read_config
from llama_onnx.scoring import layerwise
from llama_onnx.scoring.multiple_choice import Question, evaluate_subject, letter_tokens, prompt_of, read_questions
from llama_onnx.text.open import load_tokenizer
from llama_onnx.tokenizer import Tokenizer

VERB = ("-m", "llama_onnx", "eval")
DEV = 'Two and two?,3,4,5,6,B\n"A ""fox"", where?",den,"sea, deep",sky,NA,A\n'
TEST = "The dog?,runs,007,None,flies,A\nThe cat?,sleeps,swims,1.50,sings,C\nThe\nbird?,a,b,c,d,D\n".replace(
    "The\nbird?", '"The\nbird?"'
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two subjects in the layout of the MMLU archive."""
    for part, content in (("dev", DEV), ("test", TEST)):
        (tmp_path / "data" / part).mkdir(parents=True)
        for subject in ("small_talk", "animals"):
            (tmp_path / "data" / part / f"{subject}_{part}.csv").write_text(content)
    (tmp_path / "data" / "test" / "animals_test.csv").write_text("The fish?,runs,swims,talks,flies,B\n")
    return tmp_path / "data"


@pytest.fixture
def tokenizer(model: Path) -> Tokenizer:
    return load_tokenizer(read_config(model))


def test_prompt_equals_that_of_the_reference(data: Path) -> None:
    shown = read_questions(data / "dev" / "small_talk_dev.csv")
    asked = read_questions(data / "test" / "small_talk_test.csv")
    assert prompt_of("small_talk", shown, asked[0]) == (
        "The following are multiple choice questions (with answers) about  small talk.\n\n"
        "Two and two?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer: B\n\n"
        'A "fox", where?\nA. den\nB. sea, deep\nC. sky\nD. NA\nAnswer: A\n\n'
        "The dog?\nA. runs\nB. 007\nC. None\nD. flies\nAnswer:"
    )
    assert asked[2] == Question("The\nbird?", ("a", "b", "c", "d"), "D")


@pytest.mark.parametrize("shots", [0, 1, 2])
def test_answers_have_the_likelihoods_of_the_letters_after_the_whole_prompt(
    data: Path, model: Path, tokenizer: Tokenizer, shots: int
) -> None:
    decoder = decoder_of(model)
    found = evaluate_subject(decoder, tokenizer, data, "small_talk", shots)
    start, letters = letter_tokens(tokenizer, 4)
    shown = read_questions(data / "dev" / "small_talk_dev.csv")
    for number, question in enumerate(read_questions(data / "test" / "small_talk_test.csv")):
        for fitting in range(shots, -1, -1):
            ids = tokenizer.encode(prompt_of("small_talk", shown[:fitting], question)) + start
            if len(ids) <= 256:
                break
        assert found.shots[number] == fitting
        logits = decoder.logits(np.array(ids))[-1].astype(np.float64)
        expected = (logits - np.log(np.exp(logits).sum()))[letters]
        np.testing.assert_allclose(found.log_likelihoods[number], expected, atol=1e-4)
        assert found.correct[number] == ("ABCD"[int(expected.argmax())] == question.answer)
    assert found.accuracy == found.correct.mean()


def test_examples_are_left_out_if_the_context_is_too_short(data: Path, model: Path, tokenizer: Tokenizer) -> None:
    asked = read_questions(data / "test" / "small_talk_test.csv")
    shown = read_questions(data / "dev" / "small_talk_dev.csv")
    start = len(letter_tokens(tokenizer, 4)[0])
    lengths = [len(tokenizer.encode(prompt_of("small_talk", shown[:1], question))) + start for question in asked]
    context = sorted(lengths)[1]
    found = evaluate_subject(decoder_of(model), tokenizer, data, "small_talk", 2, context=context)
    assert found.shots == tuple(int(length <= context) for length in lengths)
    assert sorted(found.shots) == [0, 1, 1]
    with pytest.raises(RequestError, match="small_talk: question 1 alone has"):
        evaluate_subject(decoder_of(model), tokenizer, data, "small_talk", 2, context=20)


class Letters(Tokenizer):
    """Encodes ' A' as one token, as a space and 'A', or 'A' byte by byte."""

    vocab_size = base_size = 0

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def _token_bytes(self, token: int) -> bytes:
        raise NotImplementedError

    def _encode(self, text: str, special: bool) -> list[int]:
        letter = text.partition(": ")[2]
        if not letter:
            return [1, 2]
        after = {"one": [ord(letter)], "blank": [9, ord(letter)], "many": [9, 8 + ord(letter), 7], "none": []}[
            self.kind
        ]
        return [1, 2, *after]


def test_letters_may_be_one_token_or_a_space_and_one_token() -> None:
    assert letter_tokens(Letters("one"), 4) == ([], [65, 66, 67, 68])
    assert letter_tokens(Letters("blank"), 2) == ([9], [65, 66])
    for kind in ("many", "none"):
        with pytest.raises(RequestError, match="several tokens"):
            letter_tokens(Letters(kind), 4)


def test_verb_reports_each_subject_and_the_average_over_questions(data: Path, model: Path) -> None:
    done = run(*VERB, "-m", model, "--mmlu", data.parent, "--shots", "1")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[2] for line in lines] == ["animals", "small_talk", "average"]
    right = [int(line[1].split("/")[0]) for line in lines]
    assert right[2] == right[0] + right[1]
    assert lines[2][:2] == [f"{right[2] / 4:.3f}", f"{right[2]}/4"]
    figures = json.loads(run(*VERB, "-m", model, "--mmlu", data, "--shots", "1", "--json").stdout)
    assert figures["average"] == right[2] / 4
    assert figures["mean_of_subjects"] == pytest.approx((right[0] + right[1] / 3) / 2)
    assert figures["subjects"]["small_talk"] == {"accuracy": right[1] / 3, "questions": 3}
    some = run(*VERB, "-m", model, "--mmlu", data, "--shots", "0", "--subject", "small_talk", "--limit", "2")
    assert some.stdout.splitlines()[0].split()[1].endswith("/2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("question,a,b,c,d,E\n", "row 1 is not a question"),
        ("question,a,b,c,d,A\nquestion,a,b,c,A\n", "row 2 .*5 fields where row 1 has 6"),
        ("question,A\n", "row 1 is not a question"),
        ('"question,a,b,c,d,A\n', "row 1 is not a question"),
        ("question,a,b,c,d,\n", "row 1 is not a question"),
    ],
)
def test_damaged_questions_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(RequestError, match=message):
        read_questions(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shots", "3"], "2 examples, but 3 shots are requested"),
        (["--shots", "-1"], "--shots must be at least 0"),
        (["--subject", "cooking"], "no subject 'cooking'; the subjects are animals, small_talk"),
        (["--mmlu", "nowhere"], "contains no test/*_test.csv"),
    ],
)
def test_invalid_requests_are_one_line(options: list[str], message: str, data: Path, model: Path) -> None:
    done = run(*VERB, "-m", model, "--mmlu", data, *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_common_prefix_of_the_questions_of_a_subject_is_computed_once(
    data: Path, model: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = decoder_of(model)
    sizes: list[int] = []
    embed = decoder.embed
    monkeypatch.setattr(decoder, "embed", lambda stretch: (sizes.append(stretch.ids.shape[1]), embed(stretch))[1])
    evaluate_subject(decoder, tokenizer, data, "small_talk", 0)
    asked = read_questions(data / "test" / "small_talk_test.csv")
    start = letter_tokens(tokenizer, 4)[0]
    whole = [np.array(tokenizer.encode(prompt_of("small_talk", [], question)) + start) for question in asked]
    common = layerwise.common_start(whole)
    assert common > 50
    assert sizes == [common, *(len(ids) - common for ids in whole)]
