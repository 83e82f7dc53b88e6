"""`generate`: the form of the prompt, why the text ended, and progress while a long prompt is computed."""

from __future__ import annotations

import json
import shutil
import sys
from itertools import count
from pathlib import Path

import pytest
from test_terminal import new_screen

import llama_onnx
from llama_onnx.commands.command_line import main
from llama_onnx.commands.models import DownloadBar
from llama_onnx.commands.prefill import PrefillProgress
from llama_onnx.sampling import SamplingParams


def told(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run `generate -v` and return what it wrote to stderr."""
    capsys.readouterr()
    assert main(["generate", *map(str, arguments), "-v", "--temp", "0"]) == 0
    return capsys.readouterr().err


def test_end_of_the_text_is_explained(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm = llama_onnx.load(model)
    steps = [*lm.stream_generate("the fox", SamplingParams(temperature=0, max_tokens=30))]
    prompt = len(lm.tokenizer.encode("the fox"))
    lm.close()
    assert all(step.finish_reason is None for step in steps[:-1])
    assert "ended after --max-tokens 3 " in told(capsys, model, "-p", "the fox", "-n", "3")
    full = told(capsys, model, "-p", "the fox", "-c", str(prompt + 5))
    assert f"ended because the context of {prompt + 5} tokens is full" in full
    word = next(step.text for step in steps if step.text.isprintable() and step.text.strip())
    assert "ended at a stop text" in told(capsys, model, "-p", "the fox", "--stop", word)
    assert "ended with an end token" in told(capsys, "-p", "bonjour", "--seed", "1")  # the model in the box


def test_acceptance_of_prompt_lookup_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    text = "one two three four five six seven eight " * 6
    line = told(capsys, "-p", text, "-n", "40", "--template", "plain")
    accepted, _, drafted = line.partition("prompt lookup: ")[2].split()[:3]
    assert 0 <= int(accepted) <= int(drafted)
    assert "prompt lookup: 0 of 0 guesses" in told(capsys, "-p", text, "-n", "9", "--prompt-lookup", "0")


def test_template_of_the_model_is_the_default_and_is_told(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jinja2")
    assert "[ template plain | " in told(capsys, model, "-p", "the fox", "-n", "2")
    chat = shutil.copytree(model, tmp_path / "chat")
    (chat / "chat_template.jinja").write_text("{{ bos_token }} {{ messages[0].content }} and a dog")
    (chat / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}))
    with llama_onnx.load(chat) as lm:
        params = SamplingParams(temperature=0, max_tokens=5)
        expected = [lm.generate(lm.format("the fox", template), params) for template in ("chat", "plain")]
    assert expected[0] != expected[1]
    for options, text in zip(([], ["--template", "plain"]), expected, strict=True):
        assert main(["generate", str(chat), "-p", "the fox", "-n", "5", "--temp", "0", *options]) == 0
        assert capsys.readouterr().out == text + "\n"
    assert "[ template chat | " in told(capsys, chat, "-p", "the fox", "-n", "2")


def test_control_tokens_of_a_prompt_are_tokens_only_with_special(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, special = (told(capsys, model, "-p", "the</s>fox", "-n", "2", *more) for more in ([], ["--special"]))
    lm = llama_onnx.load(model)
    counts = [len(lm.tokenizer.encode("the</s>fox", special=one)) for one in (False, True)]
    lm.close()
    assert counts[1] < counts[0]
    assert [f"prompt {n} tokens" in text for n, text in zip(counts, (plain, special), strict=True)] == [True, True]


def test_file_of_prompts_tells_the_ends_and_keeps_special_results_apart(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "the fox", "max_tokens": 2}\n"the</s>fox"\n')
    run = (model, "--prompts", tmp_path / "p.jsonl", "--output", tmp_path / "out.jsonl", "-c", "20")
    line = told(capsys, *run)
    assert "by the greatest length: 1, by a full context: 1 ]" in line or "a stop text: 1, by the greatest" in line
    assert main(["generate", *map(str, run), "--temp", "0", "--special"]) == 1
    assert "not the result of this prompt" in capsys.readouterr().err


def test_long_prompt_shows_progress_after_two_seconds_until_the_first_token(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = new_screen(monkeypatch)
    params = SamplingParams(temperature=0, max_tokens=3)
    with llama_onnx.load(model) as lm:
        for speed, shown in ((0.1, False), (1.5, True)):
            clock = count(0, speed)
            progress = PrefillProgress(lambda clock=clock: next(clock))  # type: ignore[misc]
            ids = lm.tokenizer.encode("the fox " * 20)
            steps = progress.watch(lm, len(ids), lm.stream_generate(ids, params))
            next(steps)
            text = screen.new()
            assert (f"reading the prompt of {len(ids)} tokens, 100 %" in text) == shown
            assert not shown or text.endswith("\r\x1b[K")
            assert "through_layers" not in vars(lm.decoder)
            assert len(list(steps)) == 2
            assert screen.new() == ""
        progress.show_loading("loading", 1, 3)
        assert "loading, 1 of 3" in screen.new()


def test_bar_of_a_download_tells_the_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = new_screen(monkeypatch)
    clock = iter([0.0, 2.0, 4.0, 5.0])
    bar = DownloadBar(lambda: next(clock))
    bar.show("model.safetensors", 0, 100 << 20)
    assert screen.new().endswith("model.safetensors, 0 B of 100 MB")
    bar.show("model.safetensors", 20 << 20, 100 << 20)
    assert screen.new().endswith("model.safetensors, 20 MB of 100 MB, 10 MB/s, 8 s left")
    bar.show("model.safetensors", 100 << 20, 100 << 20)
    assert screen.new().endswith("\r\x1b[K")
    bar.show("other.safetensors", 5 << 20, 100 << 20)  # continued: what was there does not count as speed
    assert screen.new().endswith("other.safetensors, 5 MB of 100 MB")
    assert sys.stderr is screen
