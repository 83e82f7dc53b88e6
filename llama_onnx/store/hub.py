"""Downloads checkpoints from the Hugging Face hub, with the optional `huggingface_hub` package and its cache.

The package reads HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE. Only the files that an export reads are downloaded;
an interrupted download continues where it stopped.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import urllib.error
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ..errors import MissingDependencyError, ModelDirectoryError
from ..memory import format_size
from .names import TOKENIZERS, Name
from .transfer import Progress, fetch

FILES = (  # beside the weights
    "config.json",
    "generation_config.json",
    "quantize_config.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)
WEIGHTS = (  # the second kind is downloaded only if there is none of the first
    ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json"),
)
PROJECTOR = "mmproj"  # the images' part of a model, in a GGUF file of its own
USUAL = "q4_k_m"  # the precision that other programs take of a repository with several GGUF files
SHOWN = 12  # of them in a message
LEAST_KEPT = 0.14  # of the bytes downloaded, in the exported model: float32 rounded to 4 bits
LARGE = 1 << 20  # bytes of a file that is worth continuing
OFF = ("", "0", "no", "off", "false")


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE asks for no connections."""
    return any(
        os.environ.get(name, "").strip().lower() not in OFF for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def download(
    name: Name,
    offline: bool = False,
    room: Path | None = None,
    report: Callable[[str], object] = lambda line: None,
    progress: Progress = lambda name, done, total: None,
) -> tuple[Path, str]:
    """Return a checkpoint, a directory or a GGUF file, and its commit, after downloading the files that are missing.

    Of a repository with safetensors or torch files and GGUF files, the latter are taken only by name.

    Args:
        name: of the kind HUB.
        offline: use only what has been downloaded before.
        room: the folder where the exported model will be; its disk must have room for it as well.
        report: called with a line that tells what is being downloaded, and how much.
        progress: called while a large file arrives; see `Progress`.

    Raises:
        MissingDependencyError: `huggingface_hub` is not installed.
        ModelDirectoryError: no such model or revision, no access, no network, no room on the disk, or no weights in a
            supported format.
    """
    hub = _import_hub(name)
    errors = hub.errors
    offline = offline or is_offline()
    try:
        commit, files = (None, None) if offline else _wanted(hub, name)
        if files is not None:
            missing = {file: size for file, size in files.items() if not _is_cached(hub, name, file, commit)}
            _check_room(name, sum(missing.values()), sum(files.values()), room, report)
            for file, size in missing.items():
                if size >= LARGE:
                    _fetch(hub, name, str(commit), file, size, progress)
        if files is None:
            folder, weights = _downloaded(hub, name)
        else:
            folder, weights = _snapshot(hub, name, list(files)), _weights(list(files), name)
        if weights:
            return folder / weights[0] if weights[0].endswith(".gguf") else folder, folder.name
        reason = "its weights have not been downloaded, and cannot be now: offline, or the hub is out of reach"
    except ModelDirectoryError:
        raise
    except urllib.error.HTTPError as error:
        reason = f"the hub refused to send its files (HTTP status {error.code})"
    except errors.GatedRepoError:
        reason = "access is restricted; accept its conditions on the hub, then run: hf auth login (or set HF_TOKEN)"
    except errors.RevisionNotFoundError:
        reason = f"the hub has no revision {name.revision or 'main'} of this model"
    except errors.RepositoryNotFoundError:
        reason = (
            "no such file or directory, and no such model on the hub (or it is private; then run: hf auth login, or "
            "set HF_TOKEN)"
        )
    except errors.LocalEntryNotFoundError:
        if offline:
            reason = "no such file or directory, and it has not been downloaded (completely); it cannot be now: offline"
        else:
            reason = "no such file or directory, it has not been downloaded, and the hub is out of reach"
    except Exception as error:  # networks fail in many ways
        first = (str(error).splitlines() or [""])[0]
        reason = f"downloading failed ({type(error).__name__}: {first[:200]}); run the command again to continue"
    raise ModelDirectoryError(f"{name.text}: {reason}")


def _import_hub(name: Name) -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        from huggingface_hub.utils import disable_progress_bars, logging
    except ImportError:
        raise MissingDependencyError(
            f"{name.text}: no such file or directory; to download it from the Hugging Face hub: "
            "pip install huggingface_hub"
        ) from None
    if not sys.stderr.isatty():
        disable_progress_bars()
    logging.set_verbosity_error()  # errors are raised as well; the rest is advice about accounts
    return huggingface_hub


def _wanted(hub: Any, name: Name) -> tuple[str | None, dict[str, int] | None]:
    """Return the commit, and the files to download with their sizes in bytes; None if the hub is out of reach.

    Raises:
        ModelDirectoryError: the model has no weights in a supported format.
        huggingface_hub.errors.HfHubHTTPError: no such model or revision, or no access.
    """
    api = hub.HfApi()
    try:
        commit = api.model_info(name.repository, revision=name.revision or "main").sha
        entries = list(api.list_repo_tree(name.repository, revision=commit, recursive=True))
    except hub.errors.HfHubHTTPError as error:
        if error.response is None or error.response.status_code >= 500:
            return None, None
        raise
    except Exception:  # the classes of network errors differ from version to version
        return None, None
    sizes = {entry.path: int(entry.size) for entry in entries if hasattr(entry, "size")}
    weights = _weights(list(sizes), name)
    if not weights:
        what = "no model.safetensors, no pytorch_model.bin and no GGUF file"
        raise ModelDirectoryError(f"{name.text}: this model on the hub has {what}")
    place = PurePosixPath(weights[0])
    beside = FILES if place.suffix != ".gguf" else [str(place.with_name(file)) for file in TOKENIZERS]
    return commit, {file: size for file, size in sizes.items() if file in beside or file in weights}


def _downloaded(hub: Any, name: Name) -> tuple[Path, list[str]]:
    """Return the folder of what has been downloaded before, and the weights in it; none if they are not there.

    The other files of the repository are not known, so a GGUF file is taken only by name, or if it is the usual one.
    """
    folder = _snapshot(hub, name, [], local=True)
    there = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    if name.file and _whole(name.file) not in map(_whole, there):
        return folder, []
    weights = _weights(there, name)
    if weights and weights[0].endswith(".gguf"):
        return folder, weights if name.file or USUAL in weights[0].lower() else []
    for patterns in WEIGHTS if weights else ():
        if set(patterns) & set(weights):
            _snapshot(hub, name, [*FILES, *patterns], local=True)  # raises an error if some are missing
            return folder, weights
    return folder, []


def _weights(there: list[str], name: Name) -> list[str]:
    """Return the files with the weights among those of a repository; none if there are none.

    Raises:
        ModelDirectoryError: there are several GGUF files and none is the usual one, or the one that is asked for is
            not there.
    """
    for first, parts, index in WEIGHTS if not name.file else ():
        found = [file for file in there if file in (first, index) or ("/" not in file and fnmatch(file, parts))]
        if first in found or index in found:
            return found
    models: dict[str, list[str]] = {}  # the files of each model: one, or all its parts
    for file in sorted(there):
        if file.endswith(".gguf") and PROJECTOR not in file.lower():
            models.setdefault(_whole(file), []).append(file)
    usual = [model for model in models if USUAL in model.lower()]
    chosen = [_whole(name.file)] if name.file else usual if len(models) > 1 else list(models)
    if len(chosen) == 1 and chosen[0] in models:
        return models[chosen[0]]
    if not models and not name.file:
        return []
    listed = [files[0] for files in models.values()]
    what = f"has no file {name.file}" if name.file else "has several GGUF files"
    example = f"; give one as {name.repository}/{listed[0]}" if listed else ""
    shown = f" (there: {', '.join(listed[:SHOWN])}{', …' * (len(listed) > SHOWN)})" if listed else ""
    raise ModelDirectoryError(f"{name.text}: this model on the hub {what}{example}{shown}")


def _whole(file: str) -> str:
    """Return the name that all parts of a GGUF file share, `model-of-00003.gguf`; another file's name is its own."""
    return re.sub(r"-\d{5}(-of-\d{5}\.gguf)$", r"\1", file)


def _check_room(name: Name, missing: int, whole: int, room: Path | None, report: Callable[[str], object]) -> None:
    """Report the size of the download: `missing` bytes of `whole`.

    Raises:
        ModelDirectoryError: there is no room for it, or none for the smallest model that can be made of it.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    store = Path(HF_HUB_CACHE)
    if not missing:
        return
    kept = int(LEAST_KEPT * whole) if room is not None else 0
    free = _free(store)
    together = room is None or _device(store) == _device(room)
    needs = f"needs {format_size(missing)} to download" + f" and at least {format_size(kept)} for the model" * bool(
        kept
    )
    advice = "free some space, or name other folders with HF_HOME and LLAMA_ONNX_CACHE"
    if missing + kept * together > free:
        raise ModelDirectoryError(f"{name.text}: {needs}, but {store} has {format_size(free)} free; {advice}")
    if room is not None and kept > _free(room):
        raise ModelDirectoryError(f"{name.text}: {needs}, but {room} has {format_size(_free(room))} free; {advice}")
    report(f"downloading {name.text}: {format_size(missing)} to {store}, which has {format_size(free)} free")


def _fetch(hub: Any, name: Name, commit: str, file: str, size: int, progress: Progress) -> None:
    """Download a file to its place among the blobs of the hub's cache, where `snapshot_download` finds it.

    The package itself starts a file again when the process was interrupted; this continues it.
    """
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.utils import build_hf_headers

    url = hub.hf_hub_url(name.repository, file, revision=commit)
    about = hub.get_hf_file_metadata(url)
    if about.etag is None or not re.fullmatch(r"[\w-]+", about.etag, re.ASCII) or about.size not in (None, size):
        return  # not as expected: it is left to the package
    location = about.location or url
    own = urlsplit(location).netloc == urlsplit(url).netloc  # others must not get the token
    blobs = Path(HF_HUB_CACHE) / f"models--{name.repository.replace('/', '--')}" / "blobs"
    fetch(location, build_hf_headers() if own else {}, blobs / about.etag, size, about.etag, file, progress)


def _is_cached(hub: Any, name: Name, file: str, commit: str | None) -> bool:
    return isinstance(hub.try_to_load_from_cache(name.repository, file, revision=commit), str)


def _snapshot(hub: Any, name: Name, files: list[str], local: bool = False) -> Path:
    folder = hub.snapshot_download(
        name.repository, revision=name.revision, allow_patterns=files, local_files_only=local
    )  # fmt: skip
    return Path(folder)


def _there(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def _free(folder: Path) -> int:
    return shutil.disk_usage(_there(folder)).free


def _device(folder: Path) -> int:
    return _there(folder).stat().st_dev
