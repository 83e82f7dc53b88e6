#!/usr/bin/env python3
"""Record what llama.cpp makes of the nasty texts, with control tokens read as text and as tokens.

    pip install xllamacpp
    python tests/real/record_tokens.py FOLDER_OF_GGUF_FILES tests/real/tokens.json

For every text of a model the file has two digests of the ids, as `digest` makes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nasty_texts import nasty_texts

_servers: list[Any] = []  # they end when they are forgotten


def digest(ids: Sequence[int]) -> str:
    """Return eight hexadecimal digits that identify a list of token ids."""
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()[:8]


def serve(path: Path) -> str:
    """Start llama.cpp's server with a model, and return its address."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup = 512, 1, False
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    _servers.append(server)
    address = server.listening_address
    return address if address.startswith("http") else f"http://{address}"


def ask(address: str, what: str, content: dict[str, Any]) -> dict[str, Any]:
    """Return what the server answers."""
    request = urllib.request.Request(
        f"{address}/{what}", json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return dict(json.load(answer))


def end() -> None:
    """End the process: the server does not end by itself."""
    os._exit(0)


def record(path: Path) -> list[list[str]]:
    """Ask for the tokens of every text."""
    address = serve(path)

    def tokens(text: str, special: bool) -> list[int]:
        return list(
            ask(address, "tokenize", {"content": text, "add_special": False, "parse_special": special})["tokens"]
        )

    return [[digest(tokens(text, special)) for special in (False, True)] for text in nasty_texts()]


def main() -> None:
    """Record each model in a process of its own."""
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    if source.is_file():
        out.write_text(json.dumps(record(source)))
        end()
    found = {}
    for path in sorted(source.glob("*.gguf")):
        subprocess.run([sys.executable, __file__, str(path), str(out)], check=True)
        found[path.stem] = json.loads(out.read_text())
    rows = {name: [" ".join(pair) for pair in pairs] for name, pairs in found.items()}
    out.write_text(json.dumps(rows, indent=0) + "\n")


if __name__ == "__main__":
    main()
