"""Downloads one large file, and continues where an earlier run stopped, even if the process was killed."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from ..errors import ModelDirectoryError
from ..files.file_lock import lock

AT_ONCE = 1 << 18  # bytes
TRIES = 5  # in a row that bring nothing
PAUSE = 1.0  # seconds before the second try; longer before each further one
STALLED = 30.0  # seconds without a byte
SHA256 = re.compile(r"[0-9a-f]{64}")

Progress = Callable[[str, int, int], object]  # called with the name of a file, the bytes that are there, and the total


def fetch(
    url: str, headers: Mapping[str, str], path: Path, size: int, digest: str, name: str, progress: Progress
) -> None:
    """Download a file to `path`; until it is complete, it is `path.part`.

    Args:
        url: where it is. It must answer requests for a range of bytes.
        headers: of the request.
        path: the file to make.
        size: its bytes.
        digest: its sha256, or anything else where that is not known.
        name: for messages.
        progress: see `Progress`.

    Raises:
        ModelDirectoryError: the file has another hash or size than promised.
        OSError: the network failed again and again; what has arrived is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("ab") as file:
        lock(file, wait=True)  # another process may be downloading the same file
        if path.exists():
            return
        if not os.fstat(file.fileno()).st_nlink:  # it was damaged, and that process has removed it
            raise OSError(f"{name}: another process had to start over; run the command again")
        file.seek(0, os.SEEK_END)
        tries = 0
        while (there := file.tell()) < size:
            try:
                _receive(url, headers, file, size, lambda done: progress(name, done, size))
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                    raise
                tries = 1 if file.tell() > there else tries + 1
                if tries >= TRIES:
                    raise
                time.sleep(PAUSE * tries)
        _check(part, size, digest, name)
        os.replace(part, path)


def _receive(
    url: str, headers: Mapping[str, str], file: IO[bytes], size: int, progress: Callable[[int], object]
) -> None:
    """Append what is missing to a file, until the connection ends."""
    there = file.tell()
    request = urllib.request.Request(url, headers={**headers, "Range": f"bytes={there}-"})
    with urllib.request.urlopen(request, timeout=STALLED) as answer:
        if there and answer.status != http.client.PARTIAL_CONTENT:  # the whole file comes again
            file.truncate(0)
            file.seek(there := 0)
        while data := answer.read1(AT_ONCE):
            file.write(data)
            file.flush()
            there += len(data)
            progress(there)
    if there < size:
        raise ConnectionError(f"the connection ended after {there} of {size} bytes")


def _check(part: Path, size: int, digest: str, name: str) -> None:
    """Raise ModelDirectoryError and remove the file unless it is what was promised."""
    wrong = f"it has {part.stat().st_size} bytes, not {size}" if part.stat().st_size != size else ""
    if not wrong and SHA256.fullmatch(digest):
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        wrong = f"its sha256 is {found[:16]}…, not {digest[:16]}…" if found != digest else ""
    if wrong:
        part.unlink()
        raise ModelDirectoryError(f"{name}: arrived damaged ({wrong}) and was removed; run the command again")
