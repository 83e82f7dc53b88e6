"""Downloads models from the Hugging Face hub, with the optional `huggingface_hub` package and its cache.

The package reads HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE. Only the files an export reads are downloaded.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import MissingDependencyError, ModelDirectoryError
from .hugging_face import AUXILIARY

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(?:@[\w./-]+)?")
WEIGHTS = (  # the second kind is downloaded only if there is none of the first
    ["model.safetensors", "model-*.safetensors", "model.safetensors.index.json"],
    ["pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json"],
)


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form `organisation/name[@revision]`."""
    return HUB_ID.fullmatch(name) is not None and ".." not in name


def download(name: str) -> Path:
    """Return the directory of a model in the cache, after downloading missing files.

    Raises:
        MissingDependencyError: `huggingface_hub` is not installed.
        ModelDirectoryError: no such model or revision, no access, no network, or no weights in a supported format.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError:
        raise MissingDependencyError(
            f"{name}: no such directory; to download it from the Hugging Face hub: pip install huggingface_hub"
        ) from None
    repository, _, revision = name.partition("@")
    try:
        for weights in WEIGHTS:
            folder = Path(
                snapshot_download(
                    repository,
                    revision=revision or None,
                    allow_patterns=[*AUXILIARY, *weights],
                )
            )
            if any((folder / file).is_file() for file in (weights[0], weights[2])):
                return folder
    except GatedRepoError:
        reason = "access is restricted; accept its conditions on the hub and set HF_TOKEN"
    except RevisionNotFoundError:
        reason = f"the hub has no revision {revision or 'main'} of this model"
    except RepositoryNotFoundError:
        reason = "no such directory, and no such model on the hub (or it is private and HF_TOKEN is not set)"
    except LocalEntryNotFoundError:
        reason = (
            "no such directory, it is not in the cache, and the hub is out of reach (offline, or HF_HUB_OFFLINE is set)"
        )
    except Exception as error:  # networks fail in many ways
        first = (str(error).splitlines() or [""])[0]
        reason = f"no such directory, and downloading it failed ({type(error).__name__}: {first[:200]})"
    else:
        reason = "the model on the hub has neither model.safetensors nor pytorch_model.bin"
    raise ModelDirectoryError(f"{name}: {reason}")
