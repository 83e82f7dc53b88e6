"""The models to compare, behind one interface: states after each layer for a group of windows, then logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...config import ModelConfig
from ...decoder import Decoder, Stretch
from ...errors import MissingDependencyError, ModelDirectoryError
from ...model_directory import read_config
from ...original.decoder import LegacyDecoder
from ...pool import MemoryPool
from ...session import start_runtime

SIZES = {"num_layers": "layers", "hidden_size": "hidden size", "vocab_size": "vocabulary"}


class Reference(Protocol):
    """The model that the others are compared with."""

    path: str
    kind: str
    bytes: int
    sizes: dict[str, int]
    context_length: int

    def walk(self, group: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
        """Yield the states float32 [1, S, hidden] of all windows int64 [S]: after embed, after layer 0, 1, …"""

    def norm(self, hidden: np.ndarray) -> np.ndarray:
        """Return the states after the last layer as `head` needs them: normalised, unless `head` does that itself."""

    def head(self, hidden: np.ndarray) -> np.ndarray:
        """Return logits float32 [S, vocab] for states [1, S, hidden] from `norm`."""


def open_models(
    paths: Sequence[str | Path], checkpoint: str | Path | None = None, threads: int | None = None
) -> tuple[Reference, list[OnnxModel]]:
    """Return the reference and the candidates of a comparison.

    Args:
        paths: model directories. The first is the reference if there is no `checkpoint`.
        checkpoint: a Hugging Face checkpoint that is the reference, run by transformers.
        threads: for ONNX Runtime; None for one per core.

    Raises:
        ModelDirectoryError: a directory is not a complete model.
        MissingDependencyError: a checkpoint needs torch and transformers.
    """
    start_runtime(threads)
    models = [OnnxModel(path) for path in paths]
    return (TorchModel(checkpoint), models) if checkpoint else (models[0], models[1:])


class OnnxModel:
    """A model directory in a memory pool with room for one shard."""

    def __init__(self, path: str | Path) -> None:
        """Read the directory.

        Raises:
            ModelDirectoryError: it is not a complete model.
        """
        self.path = str(path)
        self.config: ModelConfig = read_config(path)
        pool = MemoryPool(self.config.shards, None)
        self.decoder = LegacyDecoder(self.config, pool) if self.config.norm else Decoder(self.config, pool)
        self.kind = self.config.weights
        self.bytes = sum(shard.file_bytes for shard in self.config.shards)
        self.sizes = {name: getattr(self.config, name) for name in SIZES}
        self.context_length = self.config.context_length

    def embed(self, ids: np.ndarray) -> np.ndarray:
        """Return the states [1, S, hidden] of a window int64 [S] before layer 0."""
        stretch = self._window(ids[None])
        self.decoder.embed(stretch)
        return stretch.hidden

    def layer(self, i: int, hidden: np.ndarray) -> np.ndarray:
        """Return the states of a whole window after layer `i`."""
        stretch = self._window(np.zeros(hidden.shape[:2], np.int64))
        stretch.hidden[:] = hidden
        cache = self.decoder.new_cache(hidden.shape[1], one_layer=True)
        with self.decoder.pool.use(self.config.layers[i]) as session, cache.layer(i) as (key, value):
            self.decoder.run_layer(session, stretch, key, value)
        return stretch.hidden

    def _window(self, ids: np.ndarray) -> Stretch:
        offset = self.decoder.rope_offset(ids.shape[1])
        return Stretch(self.config, ids, self.decoder.chunk).start([0], [offset])

    def norm(self, hidden: np.ndarray) -> np.ndarray:
        """See `Reference`."""
        return self.decoder.norm(hidden)

    def head(self, hidden: np.ndarray) -> np.ndarray:
        """See `Reference`."""
        return self.decoder.head(hidden)[0]

    def walk(self, group: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
        """See `Reference`."""
        states = [self.embed(ids) for ids in group]
        yield states
        for i in range(self.config.num_layers):
            states = [self.layer(i, hidden) for hidden in states]
            yield states


class TorchModel:
    """A Hugging Face checkpoint that transformers runs in float32, with the whole model in memory."""

    kind = "torch"

    def __init__(self, path: str | Path) -> None:
        """Load the checkpoint.

        Raises:
            MissingDependencyError: torch or transformers is not installed.
            ModelDirectoryError: transformers cannot read the checkpoint.
        """
        try:
            import torch
            import transformers
        except ImportError:
            raise MissingDependencyError(
                "--torch needs torch and transformers: pip install torch transformers"
            ) from None
        if not (Path(path) / "config.json").is_file():
            raise ModelDirectoryError(f"{path}: not a Hugging Face checkpoint (no config.json)")
        transformers.utils.logging.disable_progress_bar()
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        except Exception as error:
            words = " ".join(str(error).split())[:200]
            raise ModelDirectoryError(f"{path}: transformers cannot load it: {words}") from None
        self.path = str(path)
        self._torch, self._model = torch, model.eval()
        config = model.config
        self.bytes = sum(parameter.nbytes for parameter in model.parameters())
        self.sizes = {
            "num_layers": config.num_hidden_layers,
            "hidden_size": config.hidden_size,
            "vocab_size": config.vocab_size,
        }
        self.context_length = config.max_position_embeddings

    def walk(self, group: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
        """See `Reference`. Each window runs through the whole model first, and the states after all layers are kept."""
        made = [self._states(ids) for ids in group]
        for place in range(self.sizes["num_layers"] + 1):
            yield [states[place] for states in made]

    def norm(self, hidden: np.ndarray) -> np.ndarray:
        """See `Reference`."""
        return hidden

    def head(self, hidden: np.ndarray) -> np.ndarray:
        """See `Reference`. Applies the final norm, the head, and the soft-cap of Gemma 2."""
        torch, model = self._torch, self._model
        with torch.no_grad():
            logits = model.lm_head(model.model.norm(torch.from_numpy(hidden)))
            cap = getattr(model.config, "final_logit_softcapping", None)
            if cap:
                logits = torch.tanh(logits / cap) * cap
        return np.asarray(logits[0].numpy())

    def _states(self, ids: np.ndarray) -> list[np.ndarray]:
        found: list[np.ndarray] = []

        def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append((args[0] if args else kwargs["hidden_states"]).numpy().copy())

        def after(_: Any, __: Any, output: Any) -> None:
            found.append((output[0] if isinstance(output, tuple) else output).numpy().copy())

        layers = self._model.model.layers
        hooks = [layers[0].register_forward_pre_hook(before, with_kwargs=True)]
        hooks += [layer.register_forward_hook(after) for layer in layers]
        try:
            with self._torch.no_grad():
                self._model.model(self._torch.from_numpy(ids[None].copy()), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return found


def check_match(reference: Reference, candidate: OnnxModel) -> None:
    """Check that two models have the same shape.

    Raises:
        ModelDirectoryError: they do not; the message names the first size that differs.
    """
    for name, words in SIZES.items():
        if reference.sizes[name] != candidate.sizes[name]:
            raise ModelDirectoryError(
                f"{candidate.path} does not match {reference.path}: {words} {candidate.sizes[name]} where the "
                f"reference has {reference.sizes[name]}; compare models made from the same checkpoint"
            )
