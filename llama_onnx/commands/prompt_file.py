"""Files of prompts and files of their results: one line of JSON for each, in the same order.

A prompt is `{"prompt": "…"}`, which may have an "id" and its own sampling options, or a bare JSON string. Every line is
checked before anything runs. A result starts with its index and a hash of everything it depends on. So an interrupted
run can be continued, and a file of other results is refused and left unchanged.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ..errors import RequestError
from ..files.file_lock import lock
from ..model import LanguageModel
from ..model_directory import MANIFEST
from ..sampling import SamplingParams
from ..text.prompts import check_prompt
from ..tokens import Completion
from .terminal import STANDARD

NUMBERS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_tokens", "seed")
FIELDS = ("prompt", "id", *NUMBERS, "stop")


@dataclass(frozen=True)
class Prompt:
    """One line of a file of prompts. `place` is FILE:LINE; `id` is copied to the result, or None if there is none."""

    place: str
    text: str
    id: str | int | None
    params: SamplingParams

    def encode(self, lm: LanguageModel, template: str, special: bool = False) -> list[int]:
        """Return its token ids.

        Raises:
            RequestError: it does not fit the context, or the template rejects it.
        """
        try:
            ids = lm.format(self.text, template, special)
            check_prompt(ids, lm.config.vocab_size, lm.context)
        except RequestError as error:
            raise RequestError(f"{self.place}: {error}") from None
        return ids


def read_prompts(file: str, defaults: SamplingParams) -> list[Prompt]:
    """Read a file of prompts, or standard input for '-'; empty lines are skipped.

    Args:
        file: UTF-8, one JSON object or string per line.
        defaults: used for options that a line does not give. Their seed is that of the first prompt; each further
            prompt has a seed one higher.

    Raises:
        RequestError: the file cannot be read or contains no prompt, or a line is not a valid prompt.
    """
    name = "stdin" if file == STANDARD else file
    try:
        data = sys.stdin.buffer.read() if file == STANDARD else Path(file).read_bytes()
    except OSError as error:
        raise RequestError(f"{file}: cannot be read ({error.strerror}); give a file with a prompt per line") from None
    prompts: list[Prompt] = []
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        if line.strip():
            prompts.append(_read_line(f"{name}:{number}", line, defaults.of_prompt(len(prompts))))
    if not prompts:
        raise RequestError(f'{name}: contains no prompt; write one per line, as {{"prompt": "…"}}')
    return prompts


def _read_line(place: str, line: bytes, defaults: SamplingParams) -> Prompt:
    try:
        fields = json.loads(line.decode("utf-8-sig"))
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeError:  # raised for an escaped half of a surrogate pair as well
        raise RequestError(f"{place}: not valid Unicode; use UTF-8") from None
    except json.JSONDecodeError as error:
        raise RequestError(f"{place}: not valid JSON: {error.msg} at character {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{place}: JSON that cannot be read: {error}") from None
    if isinstance(fields, str):
        fields = {"prompt": fields}
    if not isinstance(fields, dict):
        raise RequestError(f'{place}: a prompt is {{"prompt": "…"}} or "…", not {line.decode()[:40]}')
    for field, value in fields.items():
        if not _is_right(field, value):
            raise RequestError(f"{place}: {_wanted(field)}, not {json.dumps(value, ensure_ascii=False)[:40]}")
    if not fields.get("prompt"):
        raise RequestError(f"{place}: the prompt is empty; give some text")
    options = {field: fields[field] for field in (*NUMBERS, "stop") if field in fields}
    if isinstance(options.get("stop"), str):
        options["stop"] = [options["stop"]]
    try:
        return Prompt(place, fields["prompt"], fields.get("id"), replace(defaults, **options))
    except RequestError as error:
        raise RequestError(f"{place}: {error}") from None


def _is_right(field: str, value: Any) -> bool:
    """Return whether a field is known and its value has the right type; SamplingParams checks the numbers."""
    if field == "prompt":
        return isinstance(value, str)
    if field == "id":
        return isinstance(value, (str, int)) and not isinstance(value, bool)
    if field == "stop":
        return isinstance(value, (str, list))
    return field in NUMBERS


def _wanted(field: str) -> str:
    if field not in FIELDS:
        return f"a prompt has no field {field[:40]!r} (the fields are {', '.join(FIELDS)})"
    return f"{field} must be a string{ {'id': ' or a whole number', 'stop': ' or a list of strings'}.get(field, '') }"


class Results:
    """The destination of results: a file, which is continued if it exists, or standard output."""

    def __init__(self, file: str, prompts: Sequence[Prompt], lm: LanguageModel, template: str) -> None:
        """Open a file of results and count the prompts that are already done; an incomplete last line is removed.

        Raises:
            RequestError: the file cannot be written, or it does not hold results of these prompts from the first on.
        """
        self.done = 0
        self._prompts = prompts
        self._file_name = file
        model = _identity(lm)
        self._starts = [_start(i, prompt, lm, template, model) for i, prompt in enumerate(prompts)]
        self._out: IO[bytes] = sys.stdout.buffer
        if file != STANDARD:
            try:
                self._out = open(file, "ab", buffering=0)  # noqa: SIM115  closed by __exit__
                if Path(file).is_file():
                    self._continue(Path(file))
            except OSError as error:
                raise self._cannot_write(error) from None

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file_name != STANDARD:
            self._out.close()

    def write(self, completion: Completion) -> None:
        """Write the result of the next prompt."""
        prompt = self._prompts[self.done]
        fields = {
            **({} if prompt.id is None else {"id": prompt.id}),
            "prompt": prompt.text,
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
        }
        line = (self._starts[self.done] + json.dumps(fields, ensure_ascii=False)[1:] + "\n").encode()
        try:
            while line:  # a nearly full disk may take only a part of it
                line = line[self._out.write(line) :]
            self._out.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._cannot_write(error) from None
        self.done += 1

    def _continue(self, path: Path) -> None:
        """Lock the file, count its results and remove an incomplete last line."""
        try:
            if not lock(self._out):
                raise RequestError(f"{path}: another run is writing this file; wait for it to end, or give another")
            self._out.truncate(self._find_end(path))
        except RequestError:
            self._out.close()
            raise

    def _find_end(self, path: Path) -> int:
        """Count the results in the file and return the offset of the next one."""
        end = 0
        with path.open("rb") as lines:
            for line in lines:
                start = self._starts[self.done].encode() if self.done < len(self._starts) else b"\n"
                whole = line.endswith(b"\n")
                if line[: len(start)] != (start if whole else start[: len(line)]) or (whole and not _is_json(line)):
                    raise RequestError(
                        f"{path}:{self.done + 1}: not the result of this prompt with these options and this model; "
                        "give another --output, or the same prompts, options and model as before"
                    )
                if whole:
                    end += len(line)
                    self.done += 1
        return end

    def _cannot_write(self, error: OSError) -> RequestError:
        name = "stdout" if self._file_name == STANDARD else self._file_name
        return RequestError(f"{name}: cannot be written ({error.strerror}); earlier results are kept")


def _identity(lm: LanguageModel) -> str:
    """Return a string that identifies model, tokenizer and cache type; a manifest has the hashes of all files."""
    folder = lm.config.directory
    manifest = folder / MANIFEST
    if manifest.is_file():
        model = hashlib.sha256(manifest.read_bytes()).hexdigest()
    else:  # the original llama.onnx has no manifest
        files = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file()]
        model = json.dumps([(name, status.st_size, status.st_mtime_ns) for name, status in files])
    return f"{model} {lm.decoder.cache_type}"


def _start(index: int, prompt: Prompt, lm: LanguageModel, template: str, model: str) -> str:
    """Return the beginning of a result's line: its index, and a hash of everything that the result depends on."""
    params = {name: value for name, value in asdict(prompt.params).items() if name != "prompt_lookup"}
    depends = json.dumps([prompt.text, prompt.id, params, template, lm.context, model])
    digest = hashlib.sha256(depends.encode()).hexdigest()[:16]
    return f'{{"index": {index}, "request": "{digest}", '


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
