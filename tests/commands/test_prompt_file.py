"""Files of prompts: every line is checked before anything runs, results are in order, interrupted runs continue."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from llama_onnx_layout import write_layout

from llama_onnx.commands.command_line import main
from llama_onnx.commands.prompt_file import read_prompts
from llama_onnx.errors import RequestError
from llama_onnx.sampling import SamplingParams

LINES = [
    {"prompt": "the fox", "id": "a"},
    "bonjour le monde",
    {"prompt": "a bird", "max_tokens": 3, "temperature": 0, "id": 7},
    {"prompt": "the sun", "seed": 5, "top_k": 3, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.1},
    {"prompt": "the rain", "stop": "e"},
]


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write(tmp_path / "prompts.jsonl", LINES)


def generate(model: Path, prompts: Path | str, *options: str | Path) -> int:
    options = ("--seed", "1", "-n", "9", "--temp", "0.9", "--prompt-lookup", "0", *options)
    return main(["generate", "-m", str(model), "--prompts", str(prompts), *map(str, options)])


def results(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_each_line_is_answered_like_a_single_prompt(
    model: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(model, prompts, "--template", "alpaca", "--batch", "3") == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = results(out)
    assert [result["index"] for result in found] == [0, 1, 2, 3, 4]
    assert [result.get("id") for result in found] == ["a", None, 7, None, None]
    assert [result["prompt"] for result in found] == [
        line if isinstance(line, str) else line["prompt"] for line in LINES
    ]
    for i, (line, result) in enumerate(zip(LINES, found, strict=True)):
        fields = {"temperature": 0.9, "max_tokens": 9, "seed": 1 + i, **(line if isinstance(line, dict) else {})}
        names = {"top_k": "top-k", "top_p": "top-p", "min_p": "min-p", "repetition_penalty": "repetition-penalty"}
        names |= {name: name.replace("_", "-") for name in ("temperature", "max_tokens", "seed", "stop")}
        options = [f"--{names[name]}={value}" for name, value in fields.items() if name in names]
        alone = ["generate", "-m", str(model), "-p", result["prompt"], "--template", "alpaca", "--prompt-lookup", "0"]
        assert main([*alone, *options]) == 0
        assert capsys.readouterr().out == result["text"] + "\n"
        assert result["finish_reason"] in ("stop", "length")
        assert 1 <= result["completion_tokens"] <= fields["max_tokens"] < result["prompt_tokens"]


def test_prompts_may_come_from_standard_input(model: Path, prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(model, prompts) == 0
    expected = capsys.readouterr().out
    command = [sys.executable, "-m", "llama_onnx", "generate", "-m", str(model), "--prompts", "-", "--seed", "1"]
    options = ["-n", "9", "--temp", "0.9"]
    done = subprocess.run([*command, *options], input=prompts.read_bytes(), capture_output=True, cwd=ROOT, check=True)
    assert done.stdout.decode() == expected


@pytest.mark.parametrize("cut", [0, 30, 1 / 2, -1])
def test_interrupted_run_continues_where_it_stopped(
    model: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], cut: float
) -> None:
    out = tmp_path / "out.jsonl"
    assert generate(model, prompts, "--output", out) == 0
    whole = out.read_bytes()
    place = cut if isinstance(cut, int) else int(cut * len(whole))
    out.write_bytes(whole[:place])
    done = whole[:place].count(b"\n")
    capsys.readouterr()
    assert generate(model, prompts, "--output", out, "--batch", "2", "-v") == 0
    assert out.read_bytes() == whole
    err = capsys.readouterr().err
    assert f"[ {len(LINES) - done} prompts," in err
    assert (f"{done} of 5 prompts are already done" in err) == (done > 0)


def test_prompts_may_be_added_at_the_end(model: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert generate(model, prompts, "--output", out) == 0
    before = out.read_bytes()
    write(prompts, [*LINES, "one more"])
    assert generate(model, prompts, "--output", out) == 0
    assert out.read_bytes().startswith(before)
    assert results(out.read_text())[5]["prompt"] == "one more"


def test_output_of_another_run_is_refused_and_left_unchanged(
    model: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    assert generate(model, prompts, "--output", out) == 0
    good = out.read_bytes()
    lines = good.splitlines(keepends=True)
    for content, options, line in (
        (good, ["-n", "8"], 1),  # other options
        (good, ["--seed", "2"], 1),
        (good, ["--template", "alpaca"], 1),
        (good, ["-c", "200"], 1),
        (good, ["--cache-type", "int8"], 1),
        (lines[1] + lines[0], [], 1),  # another order
        (good + b"more\n", [], 6),
        (good + b"more", [], 6),
        (lines[0] + b"{broken}\n", [], 2),
        (lines[0] + lines[1].replace(b"}", b""), [], 2),
        (b"notes without a newline", [], 1),
        (prompts.read_bytes(), [], 1),
        (b"\x00\xff\n", [], 1),
    ):
        out.write_bytes(content)
        capsys.readouterr()
        assert generate(model, prompts, "--output", out, *options) == 1
        err = capsys.readouterr().err
        assert f"out.jsonl:{line}: not the result of this prompt" in err
        assert err.count("\n") == 1
        assert out.read_bytes() == content


def test_results_of_another_model_are_refused(
    checkpoint: Path, model: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    same = shutil.copytree(model, tmp_path / "same")
    assert generate(model, prompts, "--output", out) == 0
    good = out.read_bytes()
    assert generate(same, prompts, "--output", out) == 0
    manifest = json.loads((same / "manifest.json").read_text())
    manifest["model"]["eos_token_ids"] = [7]
    (same / "manifest.json").write_text(json.dumps(manifest))
    assert generate(same, prompts, "--output", out) == 1
    assert "out.jsonl:1: not the result of this prompt" in capsys.readouterr().err
    original = write_layout(checkpoint, tmp_path / "original")
    assert generate(original, prompts, "--output", tmp_path / "other.jsonl") == 0
    again = shutil.copytree(original, tmp_path / "again")
    os.utime(again / "head.onnx")
    assert generate(again, prompts, "--output", tmp_path / "other.jsonl") == 1
    assert out.read_bytes() == good


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_two_runs_do_not_write_one_file(
    model: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import fcntl

    out = tmp_path / "out.jsonl"
    with out.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b"half a li")
        other.flush()
        assert generate(model, prompts, "--output", out) == 1
        assert "out.jsonl: another run is writing this file" in capsys.readouterr().err
        assert out.read_bytes() == b"half a li"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "options", [["--prompts", "FILE", "--output", "/dev/full"], ["--prompts", "FILE"], ["-p", "a"]]
)
def test_full_disk_is_one_line(model: Path, prompts: Path, options: list[str]) -> None:
    options = [str(prompts) if option == "FILE" else option for option in options]
    command = [sys.executable, "-m", "llama_onnx", "generate", "-m", str(model), "-n", "3", *options]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_other_prompts_are_refused_as_well(
    model: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    assert generate(model, prompts, "--output", out) == 0
    write(prompts, [LINES[0], "something else"])
    assert generate(model, prompts, "--output", out) == 1
    assert "out.jsonl:2: not the result of this prompt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"not json", "not valid JSON: Expecting value at character 1"),
        (b'{"prompt": "a"', "not valid JSON"),
        (b"\xff\xfe", "not valid Unicode"),
        (b'"\\ud800"', "not valid Unicode"),
        (b'{"prompt": "a", "id": "\\ud800"}', "not valid Unicode"),
        (b"[" * 100_000, "JSON that cannot be read"),
        (b"17", 'a prompt is {"prompt": "…"} or "…", not 17'),
        (b"null", "not null"),
        (b"{}", "the prompt is empty"),
        (b'""', "the prompt is empty"),
        (b'{"prompt": 5}', "prompt must be a string, not 5"),
        (b'{"prompt": ["a"]}', "prompt must be a string"),
        (b'{"prompt": "a", "temprature": 1}', "a prompt has no field 'temprature' (the fields are prompt, id,"),
        (b'{"prompt": "a", "temperature": -1}', "temperature must be 0 to 1000000, not -1"),
        (b'{"prompt": "a", "temperature": 1' + b"0" * 400 + b"}", "temperature must be 0 to 1000000, not 1000"),
        (b'{"prompt": "a", "repetition_penalty": 1e-50}', "repetition_penalty must be 0.000001 to 1000000"),
        (b'{"prompt": "a", "temperature": NaN}', "temperature must be 0 to 1000000"),
        (b'{"prompt": "a", "temperature": "1"}', "temperature must be a number, not '1'"),
        (b'{"prompt": "a", "temperature": true}', "temperature must be a number, not True"),
        (b'{"prompt": "a", "max_tokens": 2.5}', "max_tokens must be a whole number, not 2.5"),
        (b'{"prompt": "a", "max_tokens": 0}', "max_tokens must be at least 1"),
        (b'{"prompt": "a", "max_tokens": null}', "max_tokens must be a whole number, not None"),
        (b'{"prompt": "a", "seed": -1}', "seed must be 0 or more"),
        (b'{"prompt": "a", "stop": [""]}', "stop must be a list of texts, none of them empty"),
        (b'{"prompt": "a", "stop": 5}', "stop must be a string or a list of strings, not 5"),
        (b'{"prompt": "a", "id": [1]}', "id must be a string or a whole number"),
        (b'{"prompt": "a", "id": true}', "id must be a string or a whole number"),
    ],
)
def test_invalid_line_is_reported_with_its_line_number(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'"fine"\n\n' + line + b"\n")
    with pytest.raises(RequestError) as error:
        read_prompts(str(path), SamplingParams())
    assert str(error.value).startswith(f"{path}:3: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_files_from_other_systems_are_read(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes('\ufeff"é"\r\n\r\n{"prompt": "b", "stop": ["x", "y"]}'.encode())
    first, second = read_prompts(str(path), SamplingParams(seed=3))
    assert (first.text, first.params.seed, second.text, second.params.seed) == ("é", 3, "b", 4)
    assert (first.place, second.place) == (f"{path}:1", f"{path}:3")
    assert list(second.params.stop) == ["x", "y"]


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["fox", "fox " * 300], [], "prompts.jsonl:2: the prompt has"),
        ([], [], "contains no prompt"),
        (["fox"], ["--batch", "0"], "batch must be at least 1"),
        (["fox"], ["--template", "chat"], "no chat template"),
        (["fox"], ["--output", "missing/out.jsonl"], "missing/out.jsonl: cannot be written"),
        (["fox"], ["--output", "/"], "/: cannot be written"),
    ],
)
def test_invalid_runs_are_one_line_and_nothing_is_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list[str], options: list[str], message: str
) -> None:
    out = tmp_path / "out.jsonl"
    assert generate(model, write(tmp_path / "prompts.jsonl", lines), "--output", out, *options) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")
    assert not out.exists()


def test_missing_file_and_options_of_the_other_mode_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(model, tmp_path / "none.jsonl") == 1
    assert "none.jsonl: cannot be read" in capsys.readouterr().err
    assert main(["generate", "-m", str(model), "-p", "fox", "--output", str(tmp_path / "out")]) == 1
    assert "need --prompts" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        generate(model, tmp_path / "none.jsonl", "-p", "fox")


def test_lowered_batch_size_is_reported(
    model: Path, prompts: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama_onnx import model as models
    from llama_onnx.kv_cache import KVCache
    from llama_onnx.pool import MemoryPool

    def small_pool(config: Any, *_: Any) -> MemoryPool:
        room = 260 * KVCache(config, 1).bytes_per_token
        return MemoryPool(config.shards, MemoryPool(config.shards, None).budget + room)

    assert generate(model, prompts) == 0
    expected = capsys.readouterr().out
    monkeypatch.setattr(models, "open_pool", small_pool)
    assert generate(model, prompts) == 0
    out, err = capsys.readouterr()
    assert out == expected
    assert err.startswith("batch lowered from 8 to ")


def test_interrupt_keeps_finished_results_and_exits_130(model: Path, tmp_path: Path) -> None:
    prompts, out = write(tmp_path / "prompts.jsonl", ["the fox"] * 3000), tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "llama_onnx", "generate", "-m", str(model), "--prompts", str(prompts)]
    process = subprocess.Popen(
        [*command, "--output", str(out), "-n", "4", "--seed", "1"],
        stderr=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    while not (out.exists() and out.stat().st_size):
        assert process.poll() is None
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert [result["index"] for result in results(out.read_text())] == list(range(out.read_bytes().count(b"\n")))


@pytest.mark.parametrize(
    ("name", "value", "said", "code"),
    [
        ("top_k", 2.5, "top_k must be a whole number, not 2.5", 2),
        ("top_k", True, "top_k must be a whole number, not True", 2),
        ("top_k", "x", "top_k must be a whole number, not 'x'", 2),
        ("top_k", None, "top_k must be a whole number, not None", 2),
        ("top_k", -1, r"top_k must be 0 \(all\) or more, not -1", 1),
        ("max_tokens", [5], r"max_tokens must be a whole number, not \[5\]", 2),
        ("temperature", "x", "temperature must be a number, not 'x'", 2),
        ("temperature", float("nan"), "temperature must be 0 to 1000000, not nan", 1),
        ("top_p", 0.0, "top_p must be above 0 and at most 1, not 0.0", 1),
        ("seed", 1.0, "seed must be a whole number, not 1.0", 2),
        ("stop", [5], "stop must be a list of texts, none of them empty", 0),  # a text there
        ("stop", [""], "stop must be a list of texts, none of them empty", 1),
    ],
)
def test_values_are_refused_in_the_words_of_the_api(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, value: Any, said: str, code: int
) -> None:
    with pytest.raises(RequestError, match=f"^{said}$"):
        SamplingParams(**{name: value})
    file = write(tmp_path / "prompts.jsonl", [{"prompt": "a", name: value}])
    with pytest.raises(RequestError, match=f"^{file}:1: {said}$"):
        read_prompts(str(file), SamplingParams())
    text = value[0] if name == "stop" else value
    command = ["generate", "-m", str(model), "-p", "fox", f"--{name.replace('_', '-')}={text}"]
    if code == 2:  # argparse reads numbers, and says so itself
        with pytest.raises(SystemExit, match=r"^2$"):
            main(command)
        assert re.search(r"invalid (int|float) value", capsys.readouterr().err)
    else:
        assert main(command) == code
        assert code == 0 or re.fullmatch(f"error: {said}\n", capsys.readouterr().err)
