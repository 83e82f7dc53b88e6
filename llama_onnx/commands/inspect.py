"""Show the shards of a model directory and its figures. With --verify, check every file against the manifest first."""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..config import ModelConfig, Shard
from ..errors import ModelDirectoryError, RequestError
from ..files.onnx_file import DTYPES, Graph, Initializer, read_graph
from ..kv_cache import KVCache
from ..memory import format_size
from ..model_directory import MANIFEST, read_config, read_manifest
from .options import add_model, model_directory
from .terminal import progress_bar

EXAMPLES = "example: %(prog)s models/alpaca --verify"
TOP_OPERATORS = 3
READ_AT_ONCE = 1 << 22
QUANTIZED = {"MatMulNBits": 1, "GatherBlockQuantized": 0, "DequantizeLinear": 0}  # which input holds the integers
# Endings of the tensors of a quantised matrix; see export/graphs/compact.py.
PLANE, PARTS = (
    "low",
    ("high", "scales", "scale_base", "scale_factors", "minima", "minimum_base", "minimum_factors", "qzeros"),
)
TABLES = ("cos_cache", "sin_cache")  # of rotary embedding: computed, not learned

Place = tuple[str, int | str]  # file and offset, or shard and name of a tensor inside it


@dataclass(frozen=True)
class ShardFigures:
    """One row of the table; `weights` are the shard's parameters by tensor, so that shared ones count once."""

    shard: Shard
    operators: Counter[str]
    weights: dict[Place, int]
    precision: str

    @property
    def parameters(self) -> int:
        """The number of weights that the shard reads, including shared ones."""
        return sum(self.weights.values())


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_model(parser)
    parser.add_argument("--verify", action="store_true", help="compare the sha256 of every file with the manifest's")


def run(options: argparse.Namespace) -> None:
    """Print the figures of the model directory."""
    inspect(model_directory(options), options.verify)


def inspect(directory: Path, verify: bool = False) -> None:
    """Print the figures of a model directory; with `verify`, check its files first and print a line for each bad one.

    Raises:
        ModelDirectoryError: it is not a complete model, or files are bad.
        RequestError: there is no manifest to verify files against.
    """
    if verify:
        bad = 0
        for name, fault in bad_files(directory):
            bad += 1
            print(f"{directory / name}: {fault}")
        if bad:
            raise ModelDirectoryError(
                f"{directory}: {bad} of the files {'is' if bad == 1 else 'are'} bad; copy or export the model again"
            )
    config = read_config(directory)
    shards = [shard_figures(shard) for shard in config.shards]
    print("\n".join([*_table(shards), "", *_figures(config)]))
    if verify:
        print("files         all match the manifest")


def shard_figures(shard: Shard) -> ShardFigures:
    """Read the figures of a shard from its file.

    Raises:
        ModelDirectoryError: it is not a valid ONNX file.
    """
    graph = read_graph(shard.path)
    weights: dict[Place, int] = {}
    kinds: Counter[str] = Counter()
    for tensor, size, kind in _weights(graph):
        weights[tensor.location[:2] if tensor.external_data else (shard.name, tensor.name)] = size
        kinds[kind] += size
    precision = " + ".join(kind for kind, count in kinds.most_common() if 20 * count > kinds.total())
    return ShardFigures(shard, Counter(node.op_type for node in graph.nodes), weights, precision)


def bad_files(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield name and fault of each file that does not match the manifest; show progress on a terminal.

    Raises:
        ModelDirectoryError: the manifest cannot be read.
        RequestError: the directory is in the layout of the original llama.onnx, which has no manifest.
    """
    if not (directory / MANIFEST).exists() and read_config(directory).norm:
        raise RequestError(f"{directory}: an original llama.onnx directory has no sha256 to verify its files against")
    files = read_manifest(directory).get("files")
    if not isinstance(files, dict):
        raise ModelDirectoryError(f"{directory / MANIFEST}: 'files' is missing; export the model again")
    for number, (name, entry) in enumerate(files.items(), 1):
        path, entry = directory / name, entry if isinstance(entry, dict) else {}
        if Path(name).name != name:
            yield name, "points outside the directory"
        elif not path.is_file():
            yield name, "missing"
        elif path.stat().st_size != entry.get("bytes"):
            yield name, f"{path.stat().st_size} bytes, not {entry.get('bytes')}"
        elif (found := _sha256(path, f"{number}/{len(files)} {name}")) != entry.get("sha256"):
            yield name, f"sha256 is {found}, not {entry.get('sha256')}"


def _sha256(path: Path, title: str) -> str:
    """Return the hash of a file; show progress on a terminal."""
    digest, size, done = hashlib.sha256(), path.stat().st_size, 0
    try:
        with path.open("rb", buffering=0) as file, progress_bar(f"verifying {title}") as show:
            while data := file.read(READ_AT_ONCE):
                digest.update(data)
                done += len(data)
                show(done / size)
    except OSError as error:
        raise ModelDirectoryError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def _weights(graph: Graph) -> Iterator[tuple[Initializer, int, str]]:
    """Yield the learned tensors of a graph, with the number of weights in each and their precision.

    Scales and zero points are part of their matrix, and integer tensors are indices and shapes, not weights.
    """
    matrices: dict[str, dict[str, int]] = {}
    scales: set[str] = set()
    for node in graph.nodes:
        if node.op_type in QUANTIZED:
            first = QUANTIZED[node.op_type]
            matrices[node.inputs[first]] = node.numbers
            scales.update(node.inputs[first + 1 :])
    halved = any(node.op_type == "BitShift" for node in graph.nodes)
    shapes = {tensor.name: tensor.shape for tensor in graph.initializers}
    for tensor in graph.initializers:
        numbers = matrices.get(tensor.name)
        kind = DTYPES.get(tensor.dtype, (f"type {tensor.dtype}",))[0]
        stem, _, part = tensor.name.rpartition(".")
        if part in PARTS and kind != "int64":
            continue
        if part == PLANE:  # the other bits are beside it
            columns = 2 * tensor.shape[1]
            bits = 4 + 8 * shapes[f"{stem}.high"][1] // columns
            blocks = (shapes.get(f"{stem}.scales") or shapes[f"{stem}.scale_factors"])[1]
            yield tensor, tensor.shape[0] * columns, f"int{bits}/{columns // blocks}"
        elif part == "qweight" and numbers is None and kind == "uint8":  # of a lookup
            bits = 4 if halved else 8
            yield tensor, tensor.size * 8 // bits, f"int{bits}/{tensor.shape[-1] * 8 // bits}"
        elif numbers is None:
            if tensor.size > 1 and "float" in kind and tensor.name not in scales and not tensor.name.startswith(TABLES):
                yield tensor, tensor.size, kind
        elif "bits" in numbers and kind == "uint8":  # packed, several to a byte
            bits, block = numbers["bits"], numbers.get("block_size", 0)
            size = numbers.get("K", 0) * numbers.get("N", 0) or tensor.size * 8 // max(bits, 1)
            yield tensor, size, f"int{bits}/{block}"
        else:
            block = numbers.get("block_size", 0)
            yield tensor, tensor.size, f"{kind.removeprefix('u')}/{block}" if block else kind


def _table(shards: list[ShardFigures]) -> list[str]:
    rows = [("shard", "parameters", "on disk", "loaded", "precision", "operators")]
    for figures in shards:
        operators = figures.operators.most_common(TOP_OPERATORS)
        more = figures.operators.total() - sum(count for _, count in operators)
        texts = [f"{count} {name}" for name, count in operators] + ([f"{more} more"] if more else [])
        shard = figures.shard
        sizes = (f"{figures.parameters:,}", format_size(shard.file_bytes), format_size(shard.loaded_bytes))
        rows.append((shard.name, *sizes, figures.precision, ", ".join(texts)))
    every: dict[Place, int] = {}
    for figures in shards:
        every |= figures.weights
    disk, loaded = (sum(getattr(f.shard, name) for f in shards) for name in ("file_bytes", "loaded_bytes"))
    nodes = sum(figures.operators.total() for figures in shards)
    rows.append(("all", f"{sum(every.values()):,}", format_size(disk), format_size(loaded), "", f"{nodes} in all"))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return [
        "  ".join(
            text.rjust(width) if 1 <= column <= 3 else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, [*widths, 0], strict=True))
        ).rstrip()
        for row in rows
    ]


def _figures(config: ModelConfig) -> list[str]:
    heads = f"{config.num_heads}, {config.num_kv_heads} for keys and values, of {config.head_dim}"
    figures = {
        "architecture": config.architecture,
        "layers": f"{config.num_layers}, hidden size {config.hidden_size}",
        "heads": heads,
        "context": f"{config.context_length} tokens, {format_size(KVCache(config, 1).bytes_per_token)} of cache each",
        "vocabulary": f"{config.vocab_size}",
        "special ids": f"BOS {config.bos_token_id}{'' if config.add_bos else ' (not added)'}, "
        f"EOS {', '.join(map(str, config.eos_token_ids)) or 'none'}",
        "weights": config.weights,
        "template": config.template or "the model's own, if it has one",
    }
    return [f"{name:<12}  {text}" for name, text in figures.items()]
