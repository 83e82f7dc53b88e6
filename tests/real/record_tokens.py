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

from nasty_texts import nasty_texts


def digest(ids: Sequence[int]) -> str:
    """Return eight hexadecimal digits that identify a list of token ids."""
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()[:8]


def record(path: Path) -> list[list[str]]:
    """Ask llama.cpp's server for the tokens of every text."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup = 256, 1, False
    server = xllamacpp.Server(params)
    address = server.listening_address
    address = address if address.startswith("http") else f"http://{address}"

    def tokens(text: str, special: bool) -> list[int]:
        asked = json.dumps({"content": text, "add_special": False, "parse_special": special}).encode()
        request = urllib.request.Request(f"{address}/tokenize", asked, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return list(json.load(answer)["tokens"])

    return [[digest(tokens(text, special)) for special in (False, True)] for text in nasty_texts()]


def main() -> None:
    """Record each model in a process of its own."""
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    if source.is_file():
        out.write_text(json.dumps(record(source)))
        os._exit(0)  # the server does not end by itself
    found = {}
    for path in sorted(source.glob("*.gguf")):
        subprocess.run([sys.executable, __file__, str(path), str(out)], check=True)
        found[path.stem] = json.loads(out.read_text())
    rows = {name: [" ".join(pair) for pair in pairs] for name, pairs in found.items()}
    out.write_text(json.dumps(rows, indent=0) + "\n")


if __name__ == "__main__":
    main()
