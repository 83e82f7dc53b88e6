"""GGUF files in several parts, `NAME-00001-of-00003.gguf` and so on, which are read as one.

The first part has the metadata; each has some of the tensors.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import ModelDirectoryError
from .gguf_file import GgufFile

PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
MOST = 1000  # parts, far above any real number


def is_later_part(path: Path) -> bool:
    """Return whether a file is a part other than the first of a GGUF file in several parts."""
    match = PART.fullmatch(path.name)
    return match is not None and int(match[2]) != 1


def open_gguf(path: Path) -> GgufFile:
    """Open a GGUF file; if it is a part of several, all of them, whichever one is given.

    Raises:
        ModelDirectoryError: a part is missing, damaged, or belongs to another file.
    """
    match = PART.fullmatch(path.name)
    count = int(match[3]) if match else 1
    if not match or count <= 1:
        file = GgufFile(path)
        if file.metadata.get("split.count", 1) not in (0, 1):
            raise ModelDirectoryError(
                f"{path}: one of {file.metadata['split.count']} parts; keep their names as they were downloaded "
                "(NAME-00001-of-00003.gguf)"
            )
        return file
    if count > MOST:
        raise ModelDirectoryError(f"{path}: one of {count} parts, which cannot be")
    paths = [path.with_name(f"{match[1]}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]
    missing = [part.name for part in paths if not part.is_file()]
    if missing:
        raise ModelDirectoryError(f"{path}: one of {count} parts; download {', '.join(missing[:3])} beside it")
    first, *others = map(GgufFile, paths)
    for number, part in enumerate(others, 1):
        if part.metadata.get("split.no") != number or part.metadata.get("split.count") != count:
            raise ModelDirectoryError(f"{part.path}: not part {number + 1} of {count}; download it again")
        twice = first.tensors.keys() & part.tensors.keys()
        if twice:
            raise ModelDirectoryError(f"{part.path}: {min(twice)} is in another part too; download it again")
        first.tensors |= part.tensors
        first.paths.append(part.path)
    total = first.metadata.get("split.tensors.count", len(first.tensors))
    if total != len(first.tensors):
        raise ModelDirectoryError(f"{path}: its parts have {len(first.tensors)} of {total} tensors; download them anew")
    return first
