#!/usr/bin/env python3
"""Record how llama.cpp continues a few texts with real models: greedy tokens, and the likeliest ones at each place.

pip install xllamacpp
python tests/real/record_answers.py FOLDER_OF_GGUF_FILES tests/real/answers.json
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from record_tokens import ask, end, serve

TEXTS = (
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "Il était une fois, dans un petit village,",
    "春天来了，",
)
TOKENS, LIKELIEST = 12, 5


def record(path: Path) -> list[dict[str, object]]:
    """Return for each text its ids, and for each greedy token [[id, log probability], …] of the likeliest ones."""
    address = serve(path)
    found = []
    for text in TEXTS:
        ids = ask(address, "tokenize", {"content": text, "add_special": True})["tokens"]
        asked = {"prompt": ids, "n_predict": TOKENS, "temperature": 0, "n_probs": LIKELIEST, "ignore_eos": True}
        answer = ask(address, "completion", {**asked, "cache_prompt": False})
        places = [
            [[entry["id"], round(entry["logprob"], 4)] for entry in place["top_logprobs"]]
            for place in answer["completion_probabilities"]
        ]
        if len(places) == TOKENS:  # it leaves tokens out that are part of a character
            found.append({"ids": ids, "likeliest": places})
    return found


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
    out.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
