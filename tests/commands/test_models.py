"""From a name to an answer: models on a hub and on this disk, made once, found again, listed, removed."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from checkpoint_files import Hub, split_gguf, write_gguf
from helpers import ROOT, make_checkpoint
from safetensors.numpy import load_file

from llama_onnx.commands import models
from llama_onnx.commands.models import default_precision, smaller_that_fits
from llama_onnx.errors import ModelDirectoryError
from llama_onnx.export.readers.hugging_face import AUXILIARY
from llama_onnx.export.readers.open import open_checkpoint
from llama_onnx.export.shards import is_quantized
from llama_onnx.model_directory import read_config
from llama_onnx.store import hub
from llama_onnx.store.hub import FILES, LARGE
from llama_onnx.store.names import parse_name

SAY = ("-p", "the fox", "-n", "5", "--temp", "0")


@dataclass
class User:
    """Someone with a home and a command line; `hub` is where models are downloaded from."""

    home: Path
    hub: Hub
    served: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        others = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        return {
            **others, "HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.home / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
            "LLAMA_ONNX_CACHE": str(self.home / "cache"), "PYTHONPATH": str(ROOT), **self.variables,
        }  # fmt: skip

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "llama_onnx", *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment, cwd=self.home, stdout=pipe, stderr=pipe, text=True)

    def run(self, *arguments: str | Path, fails: bool = False, **variables: str) -> tuple[str, str]:
        """Run llama-onnx and return what it wrote to stdout and stderr."""
        self.variables = variables
        process = self.start(*arguments)
        self.variables = {}
        out, err = process.communicate(timeout=120)
        assert process.returncode == (1 if fails else 0), err
        if fails:
            assert err.splitlines()[-1].startswith("error: ")
            assert (out, "Traceback" in err) == ("", False)
        return out, err

    def models(self) -> list[tuple[str, str]]:
        return [(one["name"], one["precision"]) for one in json.loads(self.run("list", "--json")[0])]

    def asked(self) -> str:
        """Return what the hub was asked for since the last call."""
        text = " ".join(self.hub.requests)
        self.hub.requests.clear()
        return text


@pytest.fixture
def user(tmp_path: Path, checkpoint: Path) -> Iterator[User]:
    pytest.importorskip("huggingface_hub", reason="models are downloaded by the huggingface_hub package")
    served = make_checkpoint(tmp_path / "served")
    for name in ("README.md", "pytorch_model.bin", "consolidated.safetensors"):
        (served / name).write_bytes(b"not needed")
    (tmp_path / "home").mkdir()
    (tmp_path / "gguf").mkdir()
    for name in ("tiny-F32.gguf", "tiny-Q8_0.gguf", "mmproj-tiny.gguf"):
        (tmp_path / "gguf" / name).touch()
    with Hub({"some/tiny": served, "some/empty": tmp_path / "home", "some/tiny-GGUF": tmp_path / "gguf"}) as hub:
        yield User(tmp_path / "home", hub, served)


# On the hub


def test_name_on_the_hub_becomes_an_answer_and_is_asked_for_once(user: User) -> None:
    first, told = user.run("generate", "some/tiny", *SAY)
    assert "downloading some/tiny: " in told
    assert "exporting some/tiny as int4" in told
    asked = user.asked()
    assert "model.safetensors" in asked
    assert not any(name in asked for name in ("README", "pytorch_model", "consolidated"))
    again, told = user.run("generate", "-m", "some/tiny", *SAY)
    assert (again, told) == (first, "")
    assert user.run("generate", "some/tiny:int4", *SAY, "--offline")[0] == first
    assert user.asked() == ""
    assert user.models() == [("some/tiny", "int4")]


def test_pull_prints_the_directory_and_other_verbs_take_the_name(user: User) -> None:
    out, told = user.run("pull", "some/tiny", "--dtype", "fp16")
    folder = Path(out.strip())
    assert folder == user.home / "cache" / "models" / "some--tiny" / "fp16"
    assert read_config(folder).weights == "fp16"
    assert " takes " in told
    assert "decoder-02" in user.run("inspect", "some/tiny")[0]
    (user.home / "text").write_text("the quick brown fox jumps over the lazy dog " * 5)
    assert "perplexity" in user.run("perplexity", "some/tiny", "--text", "text")[0]
    user.run("bench", "some/tiny", "-p", "3", "-n", "2", "-r", "1")
    assert user.models() == [("some/tiny", "fp16")]  # and not int4 as well


def test_pull_makes_the_model_anew_only_if_the_hub_has_another_commit(user: User) -> None:
    user.run("pull", "some/tiny")
    assert "already in the cache" in user.run("pull", "some/tiny")[1]
    make_checkpoint(user.served, seed=1)
    user.hub.commit = user.hub.commit[::-1]
    assert "exporting" in user.run("pull", "some/tiny")[1]
    (model,) = json.loads(user.run("list", "--json")[0])
    assert model["source"]["commit"] == user.hub.commit


def test_revisions_and_precisions_are_models_of_their_own(user: User) -> None:
    for name in ("some/tiny", "some/tiny@main", "some/tiny:int8"):
        user.run("pull", name)
    assert user.models() == [("some/tiny", "int4"), ("some/tiny", "int8"), ("some/tiny@main", "int4")]


def test_offline_never_connects_and_says_what_is_missing(user: User) -> None:
    for offline in ({}, {"HF_HUB_OFFLINE": "1"}):
        options = () if offline else ("--offline",)
        _, error = user.run("generate", "some/tiny", *SAY, *options, fails=True, **offline)
        assert "offline" in error
    assert user.asked() == ""
    user.run("export", "some/tiny", "out", "--dtype", "int8")  # this downloads
    user.asked()
    for name in ("some/tiny", "some/tiny:int8"):
        user.run("generate", name, *SAY, HF_HUB_OFFLINE="1")
    assert "already" in user.run("pull", "some/tiny", "--offline")[1]
    assert user.asked() == ""


def test_hub_out_of_reach_is_no_matter_for_what_was_downloaded(user: User) -> None:
    user.run("export", "some/tiny", "out")
    user.hub.__exit__()
    assert user.run("generate", "some/tiny", *SAY)[0]
    _, error = user.run("generate", "some/other", *SAY, fails=True)
    assert "some/other: " in error
    assert "out of reach" in error


def fill(user: User, kind: str, *files: str) -> None:
    """Put a GGUF file, with the tokenizer beside it, into the repository some/tiny-GGUF under some names."""
    pytest.importorskip("gguf", reason="the GGUF files are written with it")
    config = json.loads((user.served / "config.json").read_text())
    tensors = load_file(user.served / "model.safetensors")
    for file in files:
        path = user.served.with_name("gguf") / file
        path.parent.mkdir(exist_ok=True)
        write_gguf(path, tensors, config, kind)
        shutil.copy(user.served / "tokenizer.model", path.parent)


def test_gguf_file_of_a_repository_is_taken_by_its_name(user: User) -> None:
    fill(user, "Q8_0", "tiny-Q8_0.gguf", "more/tiny-Q8_0.gguf")
    answer, told = user.run("generate", "some/tiny-GGUF/tiny-Q8_0.gguf", *SAY)
    assert "exporting some/tiny-GGUF/tiny-Q8_0.gguf as auto" in told
    assert not any(name in user.asked() for name in ("F32", "mmproj", "more"))
    assert user.run("generate", "some/tiny-GGUF/more/tiny-Q8_0.gguf@main", *SAY)[0] == answer
    names = ["some/tiny-GGUF/more/tiny-Q8_0.gguf@main", "some/tiny-GGUF/tiny-Q8_0.gguf"]
    assert user.models() == [(name, "auto") for name in names]
    user.hub.requests.clear()
    user.run("export", names[1], "out", "--offline")
    user.run("export", names[0], "out-too", HF_HUB_OFFLINE="1")
    assert user.asked() == ""
    _, error = user.run("export", "some/tiny-GGUF/tiny-F32.gguf", "out", "--offline", fails=True)
    assert "have not been downloaded" in error
    user.hub.__exit__()
    user.run("export", names[1], "out")


def test_usual_gguf_file_of_a_repository_is_taken_without_a_name(user: User) -> None:
    fill(user, "Q8_0", "sub/tiny-Q4_K_M.gguf")
    _, told = user.run("generate", "some/tiny-GGUF", *SAY)
    assert "exporting some/tiny-GGUF as auto" in told
    assert "sub/tiny-Q4_K_M.gguf" in user.asked()
    user.run("export", "some/tiny-GGUF", "out", "--offline")


def test_gguf_file_that_was_downloaded_by_name_is_not_taken_for_the_repository(user: User) -> None:
    fill(user, "Q8_0", "tiny-Q8_0.gguf")
    user.run("export", "some/tiny-GGUF/tiny-Q8_0.gguf", "out")
    _, error = user.run("export", "some/tiny-GGUF", "out", "--offline", fails=True)
    assert "have not been downloaded" in error


def test_safetensors_come_before_gguf_files(user: User) -> None:
    (user.served / "tiny-Q4_K_M.gguf").write_bytes(b"GGUF")
    user.run("pull", "some/tiny")
    assert ".gguf" not in user.asked()


def test_hub_that_fails_for_a_moment_is_not_asked_for_every_gguf_file(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(user, "Q8_0", "tiny-Q8_0.gguf", "tiny-Q4_K_M.gguf")
    for name, value in user.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(hub, "_wanted", lambda *_: (None, None))
    with pytest.raises(ModelDirectoryError, match="not been downloaded"):
        hub.download(parse_name("some/tiny-GGUF/tiny-Q8_0.gguf", user.home))
    assert not list(user.home.rglob("*.gguf"))


def test_gguf_file_in_parts_is_downloaded_with_all_of_them(user: User) -> None:
    pytest.importorskip("gguf", reason="the GGUF files are written with it")
    config = json.loads((user.served / "config.json").read_text())
    shutil.copy(user.served / "tokenizer.model", user.served.with_name("gguf"))
    parts = split_gguf(user.served.with_name("gguf"), load_file(user.served / "model.safetensors"), config)
    answer = user.run("generate", f"some/tiny-GGUF/{parts[1].name}", *SAY)[0]  # any part stands for all of them
    assert user.run("generate", parts[0], *SAY)[0] == answer


@pytest.mark.parametrize(
    ("there", "asked", "taken"),
    [
        (["m.gguf", "m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], "m.gguf", ["m.gguf"]),
        (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "m-00001-of-00003.gguf"], "m-00002-of-00002.gguf",
         ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]),
        (["a/m-q4_k_m.gguf", "m-q8_0.gguf"], None, ["a/m-q4_k_m.gguf"]),
        (["m-q8_0.gguf", "mmproj-m-f16.gguf"], None, ["m-q8_0.gguf"]),
        (["model-x/y.safetensors", "m.gguf"], None, ["m.gguf"]),
        (["model-00001-of-00002.safetensors", "model.safetensors.index.json", "m.gguf"], None,
         ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]),
    ],
)  # fmt: skip
def test_weights_are_chosen_among_the_files(there: list[str], asked: str | None, taken: list[str]) -> None:
    text = "some/tiny" + (f"/{asked}" if asked else "")
    assert hub._weights(there, parse_name(text, Path("none"))) == taken


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("some/other", "no such model on the hub"),
        ("some/tiny@v9", "the hub has no revision v9"),
        ("some/empty", "no model.safetensors, no pytorch_model.bin and no GGUF file"),
        ("some/tiny-GGUF", "give one as some/tiny-GGUF/tiny-F32.gguf (there: tiny-F32.gguf, tiny-Q8_0.gguf)"),
        ("some/tiny-GGUF/tiny-Q4_0.gguf", "has no file tiny-Q4_0.gguf"),
        ("nothing", "no such directory or file"),
    ],
)
def test_model_that_the_hub_does_not_have_is_one_clear_line(user: User, name: str, reason: str) -> None:
    _, error = user.run("pull", name, fails=True)
    assert error.startswith(f"error: {name}: ")
    assert reason in error
    assert error.count("\n") == 1
    assert user.models() == []


def test_missing_packages_are_named_with_the_pip_command_before_anything_is_downloaded(user: User) -> None:
    for package, command in (("huggingface_hub", "pip install huggingface_hub"), ("onnx", "pip install")):
        folder = user.home / f"without-{package}"
        folder.mkdir()
        (folder / f"{package}.py").write_text(f"raise ImportError('no {package}')")
        code = f"import sys; sys.modules[{package!r}] = None\nfrom llama_onnx.commands.command_line import main\n"
        code += "sys.exit(main(['pull', 'some/tiny']))"
        done = subprocess.run(
            [sys.executable, "-c", code], env=user.environment, capture_output=True, text=True, check=False, cwd=folder
        )
        assert done.returncode == 1
        assert command in done.stderr
        assert done.stderr.count("\n") == 1
    assert user.asked() == ""


def test_disk_too_small_is_refused_with_figures_before_the_download(user: User) -> None:
    user.hub.sizes = {"model.safetensors": 1 << 60}
    _, error = user.run("pull", "some/tiny", fails=True)
    assert "needs 1073741824 GB to download and at least " in error
    assert " free; free some space" in error
    assert "/resolve/" not in user.asked()


def test_download_that_broke_off_continues_where_it_stopped(user: User) -> None:
    make_checkpoint(user.served, hidden_size=256, intermediate_size=512)
    size = (user.served / "model.safetensors").stat().st_size
    assert size > 4 * LARGE
    process = user.start("pull", "some/tiny")
    user.hub.cut, user.hub.wait = size // 2, True  # the connection hangs there, until the user gives up
    while sum(path.stat().st_size for path in user.home.glob("hf/hub/*/blobs/*.part")) < size // 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert user.models() == []
    user.hub.cut, user.hub.wait = 0, False
    user.hub.sent.clear()
    user.run("pull", "some/tiny")
    assert max(user.hub.sent) == size - size // 2
    assert user.models() == [("some/tiny", "int4")]


def test_connection_that_breaks_is_opened_again_and_damage_is_found(user: User) -> None:
    make_checkpoint(user.served, hidden_size=256, intermediate_size=512)
    size = (user.served / "model.safetensors").stat().st_size
    user.hub.cut = size // 3 + 1
    user.run("pull", "some/tiny")
    assert user.models() == [("some/tiny", "int4")]
    asked = [request for request in user.hub.requests if request.startswith("GET") and "model.safetensors" in request]
    assert len(asked) == 3
    user.hub.commit, user.hub.digest = user.hub.commit[::-1], "0" * 64
    _, error = user.run("pull", "some/tiny", fails=True)
    assert "model.safetensors: arrived damaged" in error
    assert not list(user.home.glob("hf/hub/models--some--tiny/blobs/*.part"))


def test_two_processes_make_a_model_once(user: User) -> None:
    both = [user.start("generate", "some/tiny", *SAY) for _ in range(2)]
    (one, told), (other, also) = (process.communicate(timeout=120) for process in both)
    assert one == other != ""
    assert (told + also).count("exporting ") == 1
    assert user.asked().count("GET /some/tiny/resolve/") == 3  # config, weights, tokenizer: once each


def test_hub_files_are_all_that_the_reader_takes() -> None:
    assert set(AUXILIARY) <= set(FILES)


# On this disk


def test_checkpoints_on_this_disk_become_answers_and_changed_ones_are_made_anew(user: User) -> None:
    pytest.importorskip("gguf", reason="the GGUF file is written with it")
    folder = user.served
    config, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    file = user.home / "tiny.gguf"
    write_gguf(file, tensors, config, "F32")
    (user.home / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    answer, told = user.run("generate", "tiny.gguf", *SAY)
    assert "exporting tiny.gguf as int4" in told
    assert user.run("generate", "tiny.gguf", *SAY) == (answer, "")
    user.run("generate", folder, *SAY)
    names = [name for name, _ in user.models()]
    assert [name.rpartition("-")[0] for name in names] == ["served", "tiny"]
    assert user.run("generate", names[1], *SAY) == (answer, "")  # by the name that `list` shows
    os.utime(file, (0, 0))
    assert "exporting" in user.run("generate", "tiny.gguf", *SAY)[1]
    assert len(user.models()) == 3


def test_model_directory_runs_as_it_is(user: User, model: Path) -> None:
    assert user.run("generate", model, *SAY)[0]
    assert "already" in user.run("pull", model, fails=True)[1]
    assert user.models() == []


def test_model_may_be_an_argument_or_an_option_but_not_both(user: User, model: Path) -> None:
    process = user.start("generate", model, "-m", model, *SAY)
    assert "not allowed with" in process.communicate()[1]
    assert process.returncode == 2


# Lists and removal


def test_rm_asks_on_a_terminal_and_needs_yes_elsewhere(user: User) -> None:
    user.run("pull", "some/tiny")
    user.run("pull", "some/tiny:int8")
    assert "give --yes" in user.run("rm", "some/tiny", fails=True)[1]
    assert len(user.models()) == 2
    assert answer_on_a_terminal(user, "n", "rm", "some/tiny") == 1
    assert len(user.models()) == 2
    assert answer_on_a_terminal(user, "y", "rm", "some/tiny:int8") == 0
    assert user.models() == [("some/tiny", "int4")]
    user.run("rm", "some/tiny", "--yes")
    assert user.models() == []
    assert "not in the cache" in user.run("rm", "some/tiny", "--yes", fails=True)[1]
    assert "exporting" in user.run("pull", "some/tiny", "--offline")[1]  # the download is still there


def answer_on_a_terminal(user: User, answer: str, *arguments: str) -> int:
    """Run llama-onnx on a terminal, answer its question, and return the exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(user.home)
        os.execve(sys.executable, [sys.executable, "-m", "llama_onnx", *arguments], user.environment)
    shown, end = b"", time.monotonic() + 60
    while b"[y/N]" not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 4096)
    os.write(terminal, f"{answer}\n".encode())
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status)


def test_interrupted_export_is_told_and_not_listed(user: User) -> None:
    user.run("pull", "some/tiny")
    made = user.home / "cache" / "models" / "some--tiny"
    (made / ".making").mkdir()
    (made / "int4").rename(made / ".making" / "int4.partial")
    (made / ".making" / "int4.partial" / "manifest.json").unlink()
    out, told = user.run("list")
    assert out == ""
    assert "unfinished, no model yet: some--tiny:int4" in told
    user.run("rm", "some--tiny:int4", "--yes")
    assert "unfinished" not in user.run("list")[1]


def test_table_shows_name_precision_size_and_origin(user: User) -> None:
    assert "no models in " in user.run("list")[1]
    user.run("pull", "some/tiny")
    header, row = user.run("list")[0].splitlines()
    assert header.split()[:3] == ["name", "precision", "size"]
    assert row.startswith("some/tiny  int4       ")
    assert row.endswith("hub, 01234567")


# Which precision


def test_default_precision_depends_on_the_source_alone(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf", reason="the GGUF files are written with it")
    config = json.loads((checkpoint / "config.json").read_text())
    tensors = load_file(checkpoint / "model.safetensors")
    assert not is_quantized(open_checkpoint(checkpoint))
    for kind, quantised in (("F16", False), ("BF16", False), ("Q8_0", True), ("Q4_0", True)):
        write_gguf(tmp_path / f"{kind}.gguf", tensors, config, kind)
        assert is_quantized(open_checkpoint(tmp_path / f"{kind}.gguf")) == quantised
    assert default_precision(False) == "int4"
    assert default_precision(True) == "auto"  # which does not round again


def test_disk_without_room_names_the_precision_that_would_fit(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.shutil, "disk_usage", lambda path: models.shutil._ntuple_diskusage(1 << 30, 0, 250_000))
    with pytest.raises(ModelDirectoryError, match=r"needs .* as fp32, but 244 KB are free there; int8 would fit"):
        models._check_room(checkpoint, tmp_path / "int4", "fp32")
    models._check_room(checkpoint, tmp_path / "int4", "int8")
    monkeypatch.setattr(models.shutil, "disk_usage", lambda path: models.shutil._ntuple_diskusage(1 << 30, 0, 99))
    with pytest.raises(ModelDirectoryError, match="no precision would fit"):
        models._check_room(checkpoint, tmp_path / "int4", "int8")


def test_memory_without_room_names_the_precision_that_would_fit(model: Path) -> None:
    config = read_config(model)
    large = [replace(shard, loaded_bytes=1 << 32) for shard in config.layers]
    config = replace(config, layers=tuple(large))
    assert [smaller_that_fits(config, size) for size in ("8GB", "4GB", "2GB", "1GB", "min")] == [
        "fp16", "int8", "int4", None, None
    ]  # fmt: skip
    assert smaller_that_fits(replace(config, weights="int4"), "1GB") is None
