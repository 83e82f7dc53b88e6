"""The command line as a user runs it: text on stdout, everything else on stderr, the right exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, run

GENERATE = ("-m", "llama_onnx", "generate")


def test_demo_runs_the_trained_model(stories: Path, tmp_path: Path) -> None:
    assert run("tools/export_onnx.py", stories, tmp_path / "stories").returncode == 0
    done = run(
        "demo.py", tmp_path / "stories", "Once upon a time", "--temperature", "0", "--max", "30", "--poolsize", "1"
    )
    assert done.returncode == 0
    assert done.stdout.startswith(", there was a little girl named Lily.")
    assert done.stdout.endswith("\n")
    assert done.stderr.startswith("[ prompt 5 tokens,")
    assert done.stderr.count("\n") == 1


def test_generate_and_demo_print_the_same_text(model: Path) -> None:
    demo = run(
        "demo.py",
        model,
        "the fox",
        "--temperature",
        "0.9",
        "--topk",
        "20",
        "--topp",
        "0.9",
        "--max",
        "20",
        "--seed",
        "5",
    )
    options = ("--temp", "0.9", "--top-k", "20", "--top-p", "0.9", "-n", "20", "-s", "5")
    assert demo.returncode == 0
    assert run(*GENERATE, "-m", model, "-p", "the fox", *options).stdout == demo.stdout


def test_long_names_of_options_are_accepted(model: Path) -> None:
    options = [
        "--temperature=0.9",
        "--top-k=9",
        "--top-p=0.9",
        "--min-p=0.01",
        "--repetition-penalty=1.1",
        "--max-tokens=5",
    ]
    more = ["--seed=1", "--stop=zzz", "--poolsize=1GB", "--ctx-size=64", "--threads=2", "--verbose"]
    done = run(*GENERATE, f"--model={model}", "--prompt=the fox", *options, *more)
    assert done.returncode == 0, done.stderr
    assert "peak memory" in done.stderr


def test_prompt_may_come_from_standard_input(model: Path) -> None:
    options = ("-m", model, "--temp", "0", "-n", "5")
    given = run(*GENERATE, *options, "-p", "the fox")
    assert run(*GENERATE, *options, "-p", "-", input="the fox").stdout == given.stdout


def test_stderr_is_empty_unless_verbose(model: Path) -> None:
    assert run(*GENERATE, "-m", model, "-p", "fox", "-n", "3").stderr == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-p", ""], "the prompt is empty"),
        (["-p", "fox " * 300], "the context holds 256"),
        (["-p", "fox", "--poolsize", "lots"], "not a memory size"),
        (["-p", "fox", "--poolsize", "-1"], "not a memory size"),
        (["-p", "fox", "--poolsize", "1MB"], "too small for this model"),
        (["-p", "fox", "--temp", "-1"], "temperature must be"),
        (["-p", "fox", "--top-p", "2"], "top_p must be"),
        (["-p", "fox", "-c", "100000"], "context size must be 1 to 256"),
        (["-p", "fox", "-t", "0"], "threads must be 1 to"),
        (["-p", "fox", "-t", "1000000"], "threads must be 1 to"),
        (["-p", "fox", "-n", "0"], "max_tokens must be at least 1"),
    ],
)
def test_invalid_requests_are_one_line_and_exit_code_1(model: Path, options: list[str], message: str) -> None:
    done = run(*GENERATE, "-m", model, *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_error_for_a_small_pool_names_a_sufficient_poolsize(model: Path) -> None:
    error = run(*GENERATE, "-m", model, "-p", "fox", "-n", "2", "--poolsize", "10MB").stderr
    enough = error.split("give at least ")[1].strip()
    done = run(*GENERATE, "-m", model, "-p", "fox", "-n", "2", "--poolsize", f"{float(enough.split()[0]) + 1}MB")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "options", [[], ["nonsense"], ["generate"], ["generate", "-m", "x", "-p", "y", "--temp", "warm"]]
)
def test_wrong_usage_is_exit_code_2(options: list[str]) -> None:
    done = run("-m", "llama_onnx", *options)
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_help_shows_an_example() -> None:
    for command in (["demo.py"], [*GENERATE], ["tools/export_onnx.py"], ["tools/convert_fp16.py"]):
        done = run(*command, "--help")
        assert done.returncode == 0
        assert "example" in done.stdout


def test_interrupt_is_exit_code_130_without_traceback(model: Path) -> None:
    command = [sys.executable, *GENERATE, "-m", str(model), "-p", "fox", "--temp", "0", "--stop", "never said"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the answer was complete before the interrupt came")
    assert process.returncode == 130
    assert b"Traceback" not in errors


def test_reader_that_stops_early_is_not_an_error(model: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m llama_onnx generate -m {model} -p fox --temp 0 -n 200 | head -c 5",
        shell=True, capture_output=True, cwd=ROOT, check=False, timeout=60,
    )  # fmt: skip
    assert done.stderr == b""


def test_demo_has_the_exit_codes_of_the_verbs() -> None:
    wrong = run("demo.py", "nowhere", "bonjour")
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (1, "", 1)
    assert wrong.stderr.startswith("error: nowhere: no such directory")
    assert run("demo.py", "bonjour", "--topk", "many").returncode == 2
    piped = subprocess.run(
        f"{sys.executable} demo.py 'Write a story about a dog' --seed 1 | head -c 5",
        shell=True, capture_output=True, cwd=ROOT, check=False, timeout=60,
    )  # fmt: skip
    assert piped.stderr == b""


def test_demo_is_interrupted_with_exit_code_130() -> None:
    code = """
import llama_onnx, runpy, sys
def load(*_, **__):
    raise KeyboardInterrupt
llama_onnx.load = load
sys.argv = ["demo.py", "x"]
runpy.run_path("demo.py", run_name="__main__")
"""
    done = run("-c", code)
    assert (done.returncode, done.stderr) == (130, "\ninterrupted\n")


def test_runtime_needs_only_its_three_libraries(model: Path) -> None:
    code = f"""
import json, sys
import llama_onnx
llama_onnx.load({str(model)!r}).generate("fox", llama_onnx.SamplingParams(max_tokens=2))
print(json.dumps(sorted({{name.split(".")[0] for name in sys.modules}})))
"""
    done = run("-c", code)
    loaded = set(json.loads(done.stdout))
    assert {"onnxruntime", "numpy", "sentencepiece"} <= loaded
    assert not loaded & {
        "onnx",
        "torch",
        "transformers",
        "safetensors",
        "ml_dtypes",
        "tqdm",
        "tokenizers",
        "jinja2",
        "tools",
    }
