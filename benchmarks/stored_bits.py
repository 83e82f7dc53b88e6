"""Count all bits that a quantised model stores, ours or a peer's, including scales, zero points, norms and tables."""

from __future__ import annotations

from pathlib import Path

from peer_models import HEAD_SIZE

from llama_onnx.export.families.spec import DecoderSpec
from llama_onnx.export.quantize.bits import HEAD
from llama_onnx.export.quantize.settings import Settings
from llama_onnx.export.quantize.table import FILE, read_table

FLOAT_BITS = 32


def norm_weights(spec: DecoderSpec) -> int:
    """Return the number of weights in the norms."""
    return (2 * spec.num_layers + 1) * spec.hidden_size


def matrix_bits(rows: int, columns: int, bits: int, block_size: int, zero_point: bool, zeros: int = 0) -> int:
    """Return the bits of a matrix in blocks with float32 scales.

    `zeros` of its columns only pad heads: their values are not counted, but their scales are.
    """
    blocks = -(-columns // block_size)
    return rows * (blocks * (block_size * bits + 32 + (bits if zero_point else 0)) - zeros * bits)


def our_bits(spec: DecoderSpec, out: Path, settings: Settings) -> int:
    """Return the bits that a model directory stores, according to its quant table."""
    sizes = {name: (p.rows, p.columns) for name, p in spec.projections.items()}
    tied = spec.tied_embeddings
    total = FLOAT_BITS * norm_weights(spec)
    for row in read_table(out / FILE):
        if row.layer == "" and row.tensor == HEAD and tied:
            continue  # the embedding is counted already
        rows, columns = sizes[row.tensor] if row.layer else (spec.vocab_size, spec.hidden_size)
        zeros = 0
        if row.tensor.endswith("o_proj"):
            zeros = spec.num_heads * (spec.cache_head_dim - spec.head_dim)
        total += matrix_bits(rows, columns + zeros, row.bits, row.block_size, settings.zero_point, zeros)
    return total


def genai_bits(path: Path, spec: DecoderSpec) -> int:
    """Return the bits that a model of onnxruntime-genai's builder stores.

    Counted are its quantised matrices, the norms, and the embedding if it is not shared with lm_head.
    """
    import onnx

    size = -(-spec.head_dim // HEAD_SIZE) * HEAD_SIZE
    graph = onnx.load(str(path), load_external_data=False).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    total = FLOAT_BITS * norm_weights(spec)
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in tensors and "embed" in node.name:
            total += FLOAT_BITS * spec.vocab_size * spec.hidden_size
        if node.op_type != "MatMulNBits":
            continue
        sizes = {attribute.name: attribute.i for attribute in node.attribute}
        rows, columns, zeros = sizes["N"], sizes["K"], 0
        if any(f"/{x}_proj" in node.name for x in ("qkv", "q", "k", "v")):
            rows = rows * spec.head_dim // size
        if "/o_proj" in node.name:
            zeros = spec.num_heads * (size - spec.head_dim)
        points = len(node.input) > 3 and node.input[3] != ""
        total += matrix_bits(rows, columns, sizes["bits"], sizes["block_size"], points, zeros)
    return total


def gguf_bits(path: Path) -> tuple[int, str]:
    """Return the bits of all tensors of a GGUF file, and the number of matrices of each type."""
    import gguf

    total, kinds = 0, dict[str, int]()
    for tensor in gguf.GGUFReader(path).tensors:
        total += 8 * int(tensor.n_bytes)
        if len(tensor.shape) > 1:
            kinds[tensor.tensor_type.name] = kinds.get(tensor.tensor_type.name, 0) + 1
    return total, "matrices: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
