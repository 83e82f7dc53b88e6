"""README and docs: commands run or exist, links have targets, and numbers are those of the code and of the JSON files.

Each line of an indented block is run as a command, in the order of the page, unless it is a benchmark or its comment
says "takes long". Those commands, and commands inside a sentence, are only parsed, which checks that their script, verb
and options exist.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import write_gguf_model
from helpers import ROOT, make_checkpoint

from llama_onnx.commands.command_line import VERBS
from llama_onnx.export.exporter import export
from llama_onnx.export.families.registry import FAMILIES
from llama_onnx.pool import PATIENCE
from llama_onnx.streaming import promise

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
ALL_PAGES = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "tools" / "demo_model" / "README.md"]
LONGEST_README = 150
TAKES_LONG = "takes long"
WITHOUT_OPTIONS = {"-m pip", "-m pytest"}  # options of python, not of our commands

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
all_pages = pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_of(page: Path) -> str:
    """Return a page with each command on one line, and without the fenced blocks of Python and of output.

    A fenced block without a language holds commands, as an indented block does.
    """
    text = page.read_text(encoding="utf-8")
    for language, block in fences(page):
        lines = "" if language else "".join(f"    {line}\n" for line in block.splitlines())
        text = text.replace(f"```{language}\n{block}```\n", lines)
    return re.sub(r"\\\n\s+", "", text)


def fences(page: Path) -> list[tuple[str, str]]:
    """Return the language and the text of each fenced block."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def block_lines(page: Path) -> Iterator[str]:
    for line in text_of(page).splitlines():
        if line.startswith("    ") and line.strip():
            yield line.strip().removeprefix("$ ")


def arguments_of(command: str) -> list[str] | None:
    """Return the words after `python` in a command of ours: ['demo.py', …] or ['-m', 'llama_onnx', …]; else None."""
    words = shlex.split(command.split(" | ")[-1], comments=True)
    if words and words[0] == "llama-onnx":
        return ["-m", "llama_onnx", *words[1:]]
    if words and Path(words[0]).name in ("python", "python3") and " ".join(words[1:3]) not in WITHOUT_OPTIONS:
        return words[1:]
    return None


def runs(command: str) -> bool:
    return TAKES_LONG not in command.partition("#")[2] and "benchmarks/" not in command


def commands(page: Path) -> Iterator[str]:
    """Yield every command line of ours in the blocks of a page."""
    for line in block_lines(page):
        if arguments_of(line):
            yield line


def inline_commands(page: Path) -> Iterator[str]:
    """Yield every command of ours with arguments that is part of a sentence."""
    for text in re.findall(r"`((?:python|llama-onnx) [^`…]+)`", text_of(page)):
        if arguments_of(text) not in (None, ["-m", "llama_onnx"]) and "VERB" not in text:
            yield text


def start(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run `python ARGUMENTS` in this process, because starting a process for each would take most of the time."""
    module = arguments[0] == "-m"
    monkeypatch.setattr(promise, "_current", None)  # as in a separate process
    monkeypatch.setattr("sys.argv", arguments[module:])
    (runpy.run_module if module else runpy.run_path)(arguments[module], run_name="__main__")


def run_python(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code = None
    try:
        start(arguments, monkeypatch)
    except SystemExit as end:
        code = end.code
    assert code in (0, None), shlex.join(arguments)


class Parsed(BaseException):
    """Raised after the command line was parsed, so that nothing runs."""


def parse_only(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a script parse its command line, and stop it there."""

    def stop_after(parse):
        def parsed(*args, **options):
            parse(*args, **options)
            raise Parsed

        return parsed

    with monkeypatch.context() as patch:
        for name in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, name, stop_after(getattr(argparse.ArgumentParser, name)))
        with pytest.raises(Parsed):
            start(arguments, patch)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that the commands read but do not make."""
    folder = tmp_path_factory.mktemp("project")
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    make_checkpoint(folder / "HF_DIR", max_position_embeddings=1024, num_key_value_heads=1, **small)
    write_gguf_model(folder / "model.gguf", folder / "HF_DIR")
    for dtype in ("fp32", "fp16", "int8", "int4"):
        export(folder / "HF_DIR", folder / "models" / f"stories-{dtype}", dtype, 32)
    shutil.copytree(folder / "models" / "stories-fp32", folder / "models" / "mine")
    shutil.copytree(folder / "models" / "stories-fp32", folder / "DIR")
    (folder / "prompts.jsonl").write_text('{"prompt": "the fox", "max_tokens": 9}\n"bonjour"\n')
    for name in ("story.txt", "other.txt"):
        (folder / name).write_text("the quick brown fox jumps over the lazy dog and runs into the forest\n" * 20)
    for part, count in (("dev", 5), ("test", 2)):
        (folder / "data" / part).mkdir(parents=True)
        (folder / "data" / part / f"animals_{part}.csv").write_text("The fox?,jumps,sings,eats,sleeps,A\n" * count)
    return folder


@pytest.fixture
def project(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the scripts, and all files that the commands read."""
    folder = tmp_path / "project"
    shutil.copytree(models, folder)
    for name in ("demo.py", "tools", "models/demo", "benchmarks", "tests"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LLAMA_ONNX_CACHE", str(tmp_path / "cache"))
    return folder


@pages
def test_commands_run(page: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in filter(runs, commands(page)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"bonjour")))
        arguments = arguments_of(command)
        assert arguments
        run_python(arguments, monkeypatch)


@all_pages
def test_commands_that_are_not_run_exist(page: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [*sys.path, str(ROOT / "benchmarks")])
    for command in [*inline_commands(page), *(line for line in commands(page) if page not in PAGES or not runs(line))]:
        arguments = arguments_of(command)
        assert arguments
        if "tools/demo_model/" in command or len(arguments) == 1:  # it imports torch first, or has no arguments
            assert (ROOT / arguments[0]).is_file(), command
        elif arguments[:2] == ["-m", "llama_onnx"] and len(arguments) == 3:
            assert arguments[2] in VERBS, command
        else:
            parse_only(arguments, monkeypatch)


def test_every_verb_is_shown() -> None:
    shown = [arguments_of(command) or [] for page in PAGES for command in commands(page)]
    shown = {arguments[2] for arguments in shown if arguments[:2] == ["-m", "llama_onnx"]}
    assert shown == set(VERBS)
    readme = README.read_text()
    assert all(f"`{verb}`" in readme for verb in VERBS)


def test_every_benchmark_is_shown() -> None:
    shown = "\n".join(text_of(page) for page in PAGES)
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py") if "ArgumentParser(" in path.read_text()}
    assert {name for name in scripts if f"python benchmarks/{name}" not in shown} == set()


def test_readme_shows_the_way_from_a_clone_to_a_model_of_your_own() -> None:
    lines = "\n".join(block_lines(README))
    steps = ("make demo", "make test", "pip install .", "generate -p", "python demo.py", "export HF_DIR", "generate -m")
    assert [step for step in steps if step not in lines] == []


@all_pages
def test_fenced_blocks_hold_python_output_or_commands(page: Path) -> None:
    """Python and commands are checked elsewhere; any other block would hide what it holds from these tests."""
    assert {language for language, _ in fences(page)} <= {"python", "text", ""}
    assert len(re.findall(r"^ *(?:```|~~~)", page.read_text(encoding="utf-8"), re.MULTILINE)) == 2 * len(fences(page))
    if page in PAGES:
        assert "" not in dict(fences(page)), "indent the commands"


def test_readme_names_the_families_that_the_export_knows() -> None:
    (sentence,) = re.findall(r"^Families \(`model_type`\): (.*?);", README.read_text(), re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", sentence)) == set(FAMILIES)


def test_targets_of_make_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in ALL_PAGES:
        named = {words[1] for line in block_lines(page) if (words := line.split())[0] == "make"}
        named |= set(re.findall(r"`make ([a-z]+)`", page.read_text()))
        assert named <= set(targets), f"{page.name} names targets that the Makefile does not have"


@pages
def test_python_runs(page: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(code, {})
        assert capsys.readouterr().out


def test_readme_shows_python() -> None:
    assert "```python" in README.read_text()


def test_shown_answer_is_the_real_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ((command, answer),) = re.findall(r"    \$ python (demo\.py .*)\n    ([^$\s].*)", README.read_text())
    monkeypatch.chdir(ROOT)
    run_python(shlex.split(command), monkeypatch)
    assert capsys.readouterr().out == answer + "\n"


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= LONGEST_README


def test_line_counts_are_right() -> None:
    """The README's table of the core lists every file with its number of lines, and the total."""
    rows = dict(re.findall(r"^\| `(\w+\.py)` \| (\d+) \|", README.read_text(), re.MULTILINE))
    core = {path.name: str(len(path.read_text().splitlines())) for path in (ROOT / "llama_onnx").glob("*.py")}
    del core["__main__.py"]
    (total,) = re.findall(r"^\| in all \| ([\d,]+) \|", README.read_text(), re.MULTILINE)
    assert rows == core
    assert total == f"{sum(map(int, core.values())):,}"


def test_every_wing_is_named() -> None:
    wings = {path.parent.name for path in (ROOT / "llama_onnx").glob("*/__init__.py")}
    readme, architecture = README.read_text(), (ROOT / "docs" / "architecture.md").read_text()
    picture = (ROOT / "docs" / "data-flow.svg").read_text()
    for wing in wings:
        assert f"`{wing}/`" in readme
        assert f"`{wing}`" in architecture
        assert f"{wing}/" in picture


def slug(heading: str) -> str:
    """Return the anchor of a heading, as usual renderers generate it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@all_pages
def test_links_have_targets(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = page.parent / file if file else page
        assert path.is_file(), f"{name_of(page)}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{name_of(page)}: {target}"


def test_every_file_of_docs_is_linked() -> None:
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in ALL_PAGES
        for target in re.findall(r"\]\(([^)\s:]+)\)", page.read_text(encoding="utf-8"))
    }
    assert {path for path in (ROOT / "docs").iterdir() if path.is_file()} <= linked


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z](?:[\w-]*\w)?(?![\w-])", text))


def sections_of(name: str) -> dict[str, str]:
    """Return the sections of a page of docs/ by their headings."""
    return dict(
        re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", (ROOT / "docs" / name).read_text(), re.DOTALL | re.MULTILINE)
    )


def rows_of(section: str) -> list[list[str]]:
    """Return the cells of the tables of a section, without the header and the line below it."""
    rows = [[cell.strip() for cell in row.split("|")] for row in re.findall(r"^\|(.*)\|$", section, re.MULTILINE)]
    lines = [i for i, row in enumerate(rows) if set("".join(row)) <= set("-: ")]
    return [row for i, row in enumerate(rows) if i not in lines and i + 1 not in lines]


# Where the options of a verb are: section and column. Others are in a section of the verb's name, in the first column.
TABLES = {"demo.py": ("generate", 0), "generate": ("generate", 1)}


@pytest.mark.parametrize("verb", ["demo.py", *VERBS])
def test_options_page_lists_the_options_of_a_verb(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The section of a verb lists every option that `--help` shows, under one of its names, and no other options."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "200")
    with redirect_stdout(io.StringIO()) as shown:
        run_python([verb, "--help"] if verb == "demo.py" else ["-m", "llama_onnx", verb, "--help"], monkeypatch)
    entries = [options_in(entry) for entry in re.findall(r"^  (-.*?)(?:  |$)", shown.getvalue(), re.MULTILINE)]
    entries = [names for names in entries if "--help" not in names]

    def listed(section: str, column: int) -> set[str]:
        return {option for row in rows_of(sections_of("options.md")[section]) for option in options_in(row[column])}

    documented = listed(*TABLES.get(verb, (verb, 0)))
    assert documented <= set().union(*entries), "documented, but not there"
    shared = set() if verb == "demo.py" else listed("Memory and speed", 0)
    assert all(names & (documented | shared) for names in entries), "there, but not documented"


def parser_of(verb: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """Return the parser of a verb or of `demo.py`."""
    parser = argparse.ArgumentParser()
    if verb == "demo.py":
        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_intermixed_args", lambda self: self)
            return runpy.run_path(str(ROOT / "demo.py"))["parse_arguments"]()
    import_module(f"llama_onnx.commands.{verb}").add_options(parser)
    return parser


def default_of(action: argparse.Action) -> Any:
    """Return the default of an option: its value, or the number that its help text names."""
    if action.default is not None and not isinstance(action.default, bool) and action.default != []:
        return action.default
    named = re.search(r"\(default: (\d[\d.]*)", action.help or "")
    return float(named[1]) if named else None


@pytest.mark.parametrize("verb", ["demo.py", *VERBS])
def test_options_page_gives_the_defaults_of_a_verb(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    actions = {name: one for one in parser_of(verb, monkeypatch)._actions for name in one.option_strings}
    section, column = TABLES.get(verb, (verb, 0))
    places = [(section, column, column + 1 if verb != "demo.py" else 2)]
    places += [("Memory and speed", 0, 1)] if verb in ("generate", "bench", "perplexity", "eval") else []
    for section, column, default in places:
        for row in rows_of(sections_of("options.md")[section]):
            known = [actions[option] for option in options_in(row[column]) if option in actions]
            if not known or "](#memory-and-speed)" in "".join(row) or len(row) <= default + 1:
                continue
            expected = default_of(known[0])
            found = re.search(r"`([^`]+)`|(\d[\d.]*)", row[default])
            if isinstance(expected, int | float):
                assert found, row
                assert float(found[2]) == expected, row
            elif expected is not None:
                assert found, row
                assert found[1] == expected, row
            else:
                assert not re.search(r"\d", row[default]), row


# Figures


def test_memory_page_has_the_measured_passes() -> None:
    def line(case: dict[str, Any]) -> list[str]:
        what = f"{case['tokens']:,} tokens"
        if case["tokens"] == 1:
            what = f"1 token of each of {case['rows']} rows, after {case['past']:,}"
        what += f", chunks of {case['chunk']}" if case["chunk"] else ""
        what += ", all logits" if case["every_position"] else ""
        sizes = [f"{case[name] / 2**20:.1f} MB" for name in ("measured", "formula")]
        return [case["attention"], what, f"{case['capacity']:,}", *sizes]

    cases = json.loads((ROOT / "docs" / "pass_memory.json").read_text())["cases"]
    section = sections_of("memory.md")["What a pass takes"]
    assert rows_of(section) == [line(case) for case in cases]
    beyond = max(case["measured"] - case["formula"] for case in cases)
    assert f"exceed the formula by up to {beyond / 2**20:.1f} MB" in section


def test_memory_page_has_the_measured_pool_sizes() -> None:
    rows = json.loads((ROOT / "docs" / "low_memory_sizes.json").read_text())["rows"]
    assert rows_of(sections_of("memory.md")["Speed over memory, and why plain LRU is not the default"]) == [
        [
            row["policy"], f"{row['memory']:g} GB", f"{1 / row['seconds_per_token']:.2f}",
            f"{100 * row['hit_rate']:.0f} %",
            f"{row['bytes_per_token'] / 1e9:.2f} GB", f"{row['first_token_seconds']:.1f} s",
            f"{row['peak_memory'] / 2**30:.2f} GB",
        ]
        for row in rows
    ]  # fmt: skip


def test_speed_page_has_the_measured_overhead() -> None:
    models = json.loads((ROOT / "docs" / "overhead.json").read_text())["models"]
    assert rows_of(sections_of("speed.md")["Where the time goes"]) == [
        [
            one["model"], str(one["layers"]), f"{one['step_seconds'] * 1e3:.3g} ms",
            f"{one['products_seconds'] * 1e3:.3g} ms",
            f"{one['loop_seconds'] * 1e6:.0f} µs, {100 * one['share']:.1f} %",
            f"{one['per_layer'] * 1e6:.0f} µs",
        ]
        for one in models
    ]  # fmt: skip


def test_pages_give_the_number_of_passes_after_which_reserved_memory_is_released() -> None:
    for name in ("memory.md", "architecture.md"):
        found = re.findall(r"(\d+) passes", (ROOT / "docs" / name).read_text())
        assert found == [str(PATIENCE)], name
