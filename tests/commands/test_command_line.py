"""All verbs: only one is imported, names and defaults are the same everywhere, every help has an example."""

from __future__ import annotations

import argparse
import json
import re
import runpy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from demo_texts import BONJOUR_START
from helpers import ROOT, run

from llama_onnx.commands import options as shared
from llama_onnx.commands.command_line import VERBS, main
from llama_onnx.sampling import SamplingParams
from llama_onnx.text.templates import CHOICES

IMPORTED = """
import json, sys
from llama_onnx.commands.command_line import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(json.dumps([name for name in sys.modules if name.startswith("llama_onnx.")]))
"""


def parser_of(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    import_module(f"llama_onnx.commands.{verb}").add_options(parser)
    return parser


def demo_options(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    monkeypatch.setattr("sys.argv", ["demo.py", *arguments])
    return vars(runpy.run_path(str(ROOT / "demo.py"))["parse_arguments"]())


def test_only_the_module_of_the_given_verb_is_imported() -> None:
    verbs = {f"llama_onnx.commands.{verb}" for verb in VERBS}
    for arguments, expected in ((["--help"], set()), (["quantize", "--help"], {"llama_onnx.commands.quantize"})):
        modules = set(json.loads(run("-c", IMPORTED, *arguments).stdout.splitlines()[-1]))
        assert modules & verbs == expected
        assert not {name for name in modules if name.startswith("llama_onnx.export")}


def test_every_verb_is_a_module_that_is_listed() -> None:
    modules = {path.stem for path in (ROOT / "llama_onnx" / "commands").glob("*.py")}
    assert modules - {"__init__", "command_line", "options", "terminal", "prompt_file", "models", "prefill"} == set(
        VERBS
    )


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_shows_an_example_and_no_underscores(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    text = capsys.readouterr().out
    assert re.search(rf"example.*llama-onnx {verb} ", text + " ", re.DOTALL)
    assert not re.findall(r"--\w*_\w*", text)


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(re.search(rf"^ +{verb} +{re.escape(line)}$", text, re.MULTILINE) for verb, line in VERBS.items())
    assert "example" in text


def test_help_is_shown_if_no_verb_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "generate" in err
    assert "example" in err


@pytest.mark.parametrize("arguments", [["nonsense"], *([verb, "--nonsense", "x"] for verb in VERBS)])
def test_wrong_usage_of_every_verb_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage:" in capsys.readouterr().err


def test_options_of_one_name_have_one_meaning_in_every_verb() -> None:
    meanings: dict[str, set[tuple[str, Any, tuple[Any, ...]]]] = {}
    for verb in VERBS:
        for action in parser_of(verb)._actions:
            for name in action.option_strings:
                entry = (action.dest, action.type, tuple(action.choices or ()))
                meanings.setdefault(name, set()).add(entry)
    differing = {name for name, found in meanings.items() if len(found) > 1}
    assert differing <= {"-p", "-n", "--block-size"}  # in bench these are tokens; quantize has fixed choices of sizes
    for old, new in (("--ctx", "--ctx-size"), ("--block_size", "--block-size"), ("--temperature", "--temp")):
        assert {dest for dest, _, _ in meanings[old]} == {dest for dest, _, _ in meanings[new]}


def test_sampling_defaults_are_the_same_in_demo_command_line_and_api(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = SamplingParams()
    assert shared.sampling_params(parser_of("generate").parse_args(["-p", "x"])) == expected
    demo = demo_options(monkeypatch, "x")
    found = (demo["temperature"], demo["topk"], demo["topp"], demo["max"], demo["seed"], demo["poolsize"])
    assert found == (expected.temperature, expected.top_k, expected.top_p, expected.max_tokens, expected.seed, None)


def test_demo_accepts_the_option_names_of_the_original_and_of_the_verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    original = demo_options(monkeypatch, "DIR", "x", "--topk", "9", "--topp", "0.5", "--max", "7", "--poolsize", "4")
    ours = demo_options(monkeypatch, "DIR", "x", "--top-k=9", "--top-p=0.5", "--max-tokens=7", "--poolsize=4")
    assert original == ours
    assert (ours["onnx_dir"], ours["prompt"], ours["topk"], ours["topp"], ours["max"]) == ("DIR", "x", 9, 0.5, 7)
    for template in CHOICES:
        assert demo_options(monkeypatch, "x", "--template", template)["template"] == template


def test_demo_is_short_and_imports_the_public_names_only() -> None:
    lines = (ROOT / "demo.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 60
    assert [line for line in lines if re.search(r"import.*llama_onnx|from llama_onnx", line)] == ["import llama_onnx"]
    assert set(re.findall(r"llama_onnx\.(\w+)", "\n".join(lines))) <= set(import_module("llama_onnx").__all__)


def test_choices_and_defaults_of_the_verbs_match_the_library() -> None:
    from llama_onnx.commands import compare, export, quantize
    from llama_onnx.export.compare.comparison import DEFAULT_CTX
    from llama_onnx.export.graphs.styles import get_ops
    from llama_onnx.export.nbits import BITS, BLOCK_SIZES
    from llama_onnx.export.quantize.bits import FLOAT_BITS, RULES
    from llama_onnx.export.quantize.methods.registry import METHODS
    from llama_onnx.export.quantize.settings import FORMATS, ROUNDED, Options, Settings
    from llama_onnx.store.names import PRECISIONS

    assert (quantize.METHODS, quantize.BITS, quantize.BLOCK_SIZES) == (METHODS, BITS, BLOCK_SIZES)
    assert (FLOAT_BITS, tuple(FORMATS), RULES) == (quantize.FLOAT_BITS, quantize.FORMATS, quantize.RULES)
    settings, more = quantize.read_options(parser_of("quantize").parse_args(["a", "b"]))
    assert (settings, more) == (Settings(), Options())
    assert settings.algo == "k_quant"
    assert compare.WINDOW == DEFAULT_CTX
    assert {*PRECISIONS} == {"auto", "fp32", "fp16", *ROUNDED}
    for ops in export.OPS:
        get_ops(ops)


def test_older_spellings_with_underscores_are_accepted_and_not_shown() -> None:
    parser = parser_of("quantize")
    values = "--bits 8 --block_size 32 --lm_head_bits 4 --embedding_bits 8 --layers_8bit 0 --calib_size 3"
    values += " --calib_length 9 --awqlite_alpha_step .5 --awqclip_alpha_step .1 --awqclip_alpha_min .7 --gptq_damp .2"
    values += " --use_zero_point --gptq_in_order --per_matrix"
    old = parser.parse_args(["a", "b", *values.split()])
    new = parser.parse_args(["a", "b", *(word.replace("_", "-") for word in values.split())])
    assert old == new
    assert old != parser.parse_args(["a", "b"])
    assert (old.block_size, old.damp, old.per_matrix) == (32, 0.2, True)
    assert "_size" not in parser.format_help()


@pytest.mark.parametrize(
    ("arguments", "option"),
    [(["generate", "--prompts", "x", "--batch", "0"], "--batch"), (["eval", "--mmlu", "x", "--limit", "0"], "--limit")],
)
def test_error_about_a_count_names_the_option_that_was_typed(
    arguments: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    assert capsys.readouterr().err == f"error: {option} must be at least 1, not 0\n"


@pytest.mark.parametrize("verb", ["generate", "bench", "perplexity", "eval", "compare"])
def test_every_verb_sets_its_window_with_ctx_size(verb: str) -> None:
    needed = {
        "generate": ["-p", "x"], "perplexity": ["--text", "x"], "eval": ["--mmlu", "x"],
        "compare": ["a", "b", "--text", "x"],
    }.get(verb, [])  # fmt: skip
    parser = parser_of(verb)
    for name in ("-c", "--ctx-size", "--ctx"):
        assert parser.parse_args([*needed, name, "64"]).ctx_size == 64
    assert "--ctx-size" in parser.format_help()
    assert "--ctx " not in parser.format_help()


def test_verbs_use_the_embedded_model_when_none_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "story.txt"
    text.write_text("Once upon a time there was a dog named Max.\n")
    for arguments, shown in (
        (["generate", "-p", "bonjour", "--seed", "1", "-n", "3"], BONJOUR_START),
        (["perplexity", "--text", str(text), "--json"], '"perplexity"'),
        (["bench", "-p", "4", "-n", "2", "-r", "1"], "decode"),
        (["inspect"], "decoder-05"),
    ):
        assert main(arguments) == 0
        assert shown in capsys.readouterr().out
    assert parser_of("eval").parse_args(["--mmlu", "x"]).model is None
    assert shared.model_directory(parser_of("pack").parse_args([])) == ROOT / "models" / "demo"


@pytest.mark.parametrize("verb", ["generate", "bench", "perplexity", "eval", "inspect", "pack"])
def test_model_may_be_an_argument_or_an_option(verb: str, tmp_path: Path) -> None:
    parser, folder = parser_of(verb), str(tmp_path)
    needed = {"generate": ["-p", "x"], "perplexity": ["--text", "x"], "eval": ["--mmlu", "x"]}.get(verb, [])
    for arguments in ([folder], ["-m", folder], [f"--model={folder}"]):
        for given in ([*needed, *arguments], [*arguments, *needed]):
            assert shared.model_directory(parser.parse_args(given)) == tmp_path
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args([*needed, folder, "-m", "elsewhere"])
