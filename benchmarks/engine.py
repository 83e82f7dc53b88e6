#!/usr/bin/env python3
"""Run one engine with one model in its own process, so that several can take turns on the same machine.

    python benchmarks/engine.py '{"engine": "ours", "path": "models/demo"}'

The process reads requests from stdin, one line of JSON each, and answers each with one line of JSON: the answer to
`{"prompt": [1, 5, 9], "new": 33}` has the seconds of the prompt's pass and of the tokens after it. `Engine` is the
client: it starts such a process, sends requests, and suspends the process while other engines run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

Run = Callable[[list[int], int, dict[str, Any]], dict[str, Any]]


class Engine:
    """A running engine. Its process is suspended except while it answers a request."""

    def __init__(self, prefix: Sequence[str] = (), **description: Any) -> None:
        """Start the process and wait until its model is loaded.

        Args:
            prefix: words to put before the command, such as a program that limits its memory.
            description: `engine`, one of `ENGINES`, `path`, `threads`, and the options of that engine.

        Raises:
            RuntimeError: the process ended.
        """
        command = [*prefix, sys.executable, __file__, json.dumps(description)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.started = self._answer()
        self._pause()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Return the answer to one request.

        Raises:
            RuntimeError: the process ended, perhaps because it was killed for its memory use.
        """
        assert self._process.stdin is not None
        os.kill(self.pid, signal.SIGCONT)
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._answer()
        self._pause()
        return answer

    @property
    def pid(self) -> int:
        """The process id that the engine itself reported; a prefix may be a process around it."""
        return int(self.started["pid"])

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            os.kill(self.pid, signal.SIGCONT)
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        code = self._process.wait()
        raise RuntimeError(f"ended with exit code {code}")


def random_prompt(count: int, vocab_size: int) -> list[int]:
    """Return `count` random token ids, the same for every engine."""
    return np.random.default_rng(0).integers(3, min(vocab_size, 30000), count).tolist()


def ours(path: str, threads: int, poolsize: str | None = None, policy: str = "resident", ctx: int = 512) -> Run:
    """Load a model directory of this project."""
    from llama_onnx import load
    from llama_onnx.generate import generate_tokens
    from llama_onnx.sampling import SamplingParams
    from llama_onnx.tokens import Timing

    lm = load(path, poolsize=poolsize, ctx_size=ctx, threads=threads, pool_policy=policy)

    def run(prompt: list[int], new: int, options: dict[str, Any]) -> dict[str, Any]:
        timing, before = Timing(), lm.stats()["pool"]
        params = SamplingParams(temperature=0, max_tokens=new, prompt_lookup=options.get("lookup", 0))
        marks = [time.perf_counter()]
        tokens = []
        limit = min(ctx, len(prompt) + new)
        cache = lm.decoder.new_cache(limit)
        for token in generate_tokens(lm.decoder, cache, prompt, params, limit, timing):
            tokens.append(token.token)
            marks.append(time.perf_counter())
        cache.close()
        after = lm.stats()
        moved = {key: after["pool"][key] - before[key] for key in ("hits", "misses", "loaded_bytes")}
        return {
            **_figures(marks),
            "tokens": tokens,
            "peak_memory": after["peak_memory"],
            "pool": after["pool"],
            **moved,
        }

    return run


def llama_cpp(path: str, threads: int, repack: bool = True, ctx: int = 512) -> Run:
    """Load a GGUF file. Without `repack`, weights stay in the mapped file, which is necessary if memory is short."""
    import llama_cpp as package
    from llama_cpp import llama_cpp as library

    if not repack:
        default = library.llama_model_default_params

        def params() -> Any:
            changed = default()
            changed.use_extra_bufts = False
            return changed

        library.llama_model_default_params = params
    model = package.Llama(path, n_ctx=ctx, n_threads=threads, n_threads_batch=threads, n_batch=512, verbose=False)

    def run(prompt: list[int], new: int, options: dict[str, Any]) -> dict[str, Any]:
        model.reset()
        marks, tokens, ids = [time.perf_counter()], [], prompt
        for _ in range(new):
            model.eval(ids)
            ids = [model.sample(temp=0.0)]
            tokens += ids
            marks.append(time.perf_counter())
        return {**_figures(marks), "tokens": tokens}

    return run


def genai(path: str, threads: int, ctx: int = 512) -> Run:
    """Load a model folder of onnxruntime-genai. Its configuration file sets the number of threads."""
    import onnxruntime_genai as package

    model = package.Model(path)

    def run(prompt: list[int], new: int, options: dict[str, Any]) -> dict[str, Any]:
        params = package.GeneratorParams(model)
        params.set_search_options(max_length=len(prompt) + new, min_length=len(prompt) + new, do_sample=False)
        generator = package.Generator(model, params)
        marks = [time.perf_counter()]
        generator.append_tokens(np.array([prompt], np.int32))
        tokens = []
        for _ in range(new):
            generator.generate_next_token()
            tokens.append(int(generator.get_next_tokens()[0]))
            marks.append(time.perf_counter())
        return {**_figures(marks), "tokens": tokens}

    return run


def xllamacpp(path: str, threads: int, ctx: int = 512) -> Run:
    """Load a GGUF file with the server of the package xllamacpp, which has llama.cpp built for many processors."""
    import urllib.request

    import xllamacpp as package

    params = package.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = path, ctx, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = package.Server(params)
    address = server.listening_address
    address = address if address.startswith("http") else f"http://{address}"

    def run(prompt: list[int], new: int, options: dict[str, Any]) -> dict[str, Any]:
        asked = {"prompt": prompt, "n_predict": new, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        body = json.dumps({**asked, "return_tokens": True}).encode()
        request = urllib.request.Request(f"{server and address}/completion", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            answer = json.load(response)
        spent, count = answer["timings"], answer["timings"]["predicted_n"]
        return {
            "prompt_seconds": spent["prompt_ms"] / 1000,
            "new_seconds": spent["predicted_ms"] / 1000 * (count - 1) / count,
            "new": count,
            "tokens": answer["tokens"],
        }

    return run


ENGINES: dict[str, Callable[..., Run]] = {
    "ours": ours, "llama.cpp": llama_cpp, "xllamacpp": xllamacpp, "genai": genai,
}  # fmt: skip


def _figures(marks: list[float]) -> dict[str, float]:
    return {"prompt_seconds": marks[1] - marks[0], "new_seconds": marks[-1] - marks[1], "new": len(marks) - 1}


def main() -> None:
    """Answer requests until stdin ends."""
    description = json.loads(sys.argv[1])
    began = time.perf_counter()
    run = ENGINES[description.pop("engine")](**description)
    print(json.dumps({"pid": os.getpid(), "load_seconds": time.perf_counter() - began}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(run(request["prompt"], request["new"], request)), flush=True)


if __name__ == "__main__":
    main()
