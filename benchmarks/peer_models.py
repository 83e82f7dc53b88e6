"""Convert a checkpoint for the peers: GGUF files for llama.cpp, a model folder for onnxruntime-genai."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sentencepiece import SentencePieceProcessor

from llama_onnx.export.checkpoint import Checkpoint
from llama_onnx.export.readers.open import open_checkpoint

# Numbers of llama.cpp's file types, from llama.h.
GGUF_TYPES = {"Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18}
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
HEAD_SIZE = 16  # ONNX Runtime's attention kernel needs heads of a multiple of this size


def installed(package: str, name: str = "") -> bool:
    """Return whether a peer's package can be imported. If not, and `name` is given, print that the peer is left out."""
    found = importlib.util.find_spec(package) is not None
    if name and not found:
        print(f"{name}: not installed, left out", file=sys.stderr)
    return found


def write_gguf(source: str | Path, out: Path, half: bool = True) -> None:
    """Write a Llama checkpoint as a GGUF file (matrices in float16, or float32), one tensor in memory at a time."""
    import gguf

    checkpoint = open_checkpoint(source)
    config = checkpoint.config
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config.get("rope_theta", 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(1 if half else 0)
    _add_tokens(writer, checkpoint)
    names = _gguf_tensors(checkpoint)

    def load(name: str) -> np.ndarray:
        array = checkpoint.tensor(name)
        for part, count in (("q_proj", heads), ("k_proj", kv_heads)):
            if part in name:
                array = interleaved_rotation(array, count)
        return np.ascontiguousarray(array, np.float16 if half and array.ndim > 1 else np.float32)

    for name, theirs in names.items():
        array = load(name)
        writer.add_tensor_info(theirs, array.shape, array.dtype, array.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name in names:
        writer.write_tensor_data(load(name))
    writer.close()


def dequantized_gguf(source: Path, out: Path) -> None:
    """Write a GGUF file again with all tensors in float32."""
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            array = field.types[0] == gguf.GGUFValueType.ARRAY
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if array else None)
    writer.add_file_type(0)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_safetensors(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint in float32 as a Hugging Face directory."""
    folder.mkdir()
    for name, content in checkpoint.files.items():
        (folder / name).write_bytes(content.read_bytes() if isinstance(content, Path) else content)
    config = dict(checkpoint.config, architectures=[ARCHITECTURES[checkpoint.config["model_type"]]])
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: np.array(checkpoint.tensor(name), np.float32) for name in checkpoint.names()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def quantize_gguf(source: Path, out: Path, kind: str) -> None:
    """Quantise a GGUF file to one of `GGUF_TYPES` with llama.cpp itself."""
    import llama_cpp

    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = GGUF_TYPES[kind]
    options.nthread = os.cpu_count() or 1
    if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(out), options):
        raise SystemExit(f"{source}: llama.cpp could not quantise it to {kind}")


def build_genai(checkpoint: Path, out: Path, threads: int, **options: str | int) -> None:
    """Build a 4-bit CPU model with onnxruntime-genai's own builder, and configure it to use `threads` threads.

    By default, it used only one thread on two cores.
    """
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", str(checkpoint), "-i", str(checkpoint)]
    command += ["-o", str(out), "-p", "int4", "-e", "cpu", "-c", str(out) + ".cache"]
    if options:
        command += ["--extra_options", *(f"{name}={value}" for name, value in options.items())]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(f"{out}.cache", ignore_errors=True)
    path = out / "genai_config.json"
    config = json.loads(path.read_text())
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    path.write_text(json.dumps(config, indent=1))


def interleaved_rotation(array: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of a query or key projection from halves (Hugging Face) to interleaved pairs (llama.cpp)."""
    pairs = array.reshape(heads, 2, -1, *array.shape[1:])
    return pairs.swapaxes(1, 2).reshape(array.shape)


def _gguf_tensors(checkpoint: Checkpoint) -> dict[str, str]:
    """Return llama.cpp's name of each tensor."""
    head = "lm_head.weight" if "lm_head.weight" in checkpoint.names() else "model.embed_tokens.weight"
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
    }
    if head == "lm_head.weight":
        names[head] = "output.weight"
    for i in range(checkpoint.config["num_hidden_layers"]):
        names.update(
            {f"model.layers.{i}.{ours}.weight": f"blk.{i}.{theirs}.weight" for ours, theirs in GGUF_NAMES.items()}
        )
    return names


def _add_tokens(writer, checkpoint: Checkpoint) -> None:  # type: ignore[no-untyped-def]
    content = checkpoint.files["tokenizer.model"]
    pieces = SentencePieceProcessor()
    pieces.LoadFromSerializedProto(content.read_bytes() if isinstance(content, Path) else content)
    count = checkpoint.config["vocab_size"]
    known = range(min(count, len(pieces)))
    kinds = [2 if pieces.IsUnknown(i) else 3 if pieces.IsControl(i) else 6 if pieces.IsByte(i) else 1 for i in known]
    more = count - len(known)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([pieces.IdToPiece(i) for i in known] + [f"<unused{i}>" for i in range(more)])
    writer.add_token_scores([pieces.GetScore(i) for i in known] + [0.0] * more)
    writer.add_token_types(kinds + [5] * more)
    writer.add_bos_token_id(checkpoint.config.get("bos_token_id", 1))
    writer.add_eos_token_id(checkpoint.config.get("eos_token_id", 2))


def write_hugging_face(checkpoint: Checkpoint, folder: Path) -> str:
    """Write the checkpoint in float32 for the builder, with heads padded to a size that the attention kernel supports.

    Returns:
        A note on what was changed.
    """
    config = dict(checkpoint.config)
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    wide = -(-size // HEAD_SIZE) * HEAD_SIZE
    folder.mkdir()
    tensors = {name: np.array(checkpoint.tensor(name), np.float32) for name in checkpoint.names()}
    if wide != size:
        config["head_dim"] = wide
        for name, array in tensors.items():
            if name.endswith("q_proj.weight"):  # attention divides the scores by the square root of the head size
                tensors[name] = widened(array, heads, size, wide, True) * np.float32((wide / size) ** 0.5)
            elif name.endswith("k_proj.weight"):
                tensors[name] = widened(array, keys, size, wide, True)
            elif name.endswith("v_proj.weight"):
                tensors[name] = widened(array, keys, size, wide, False)
            elif name.endswith("o_proj.weight"):
                tensors[name] = np.ascontiguousarray(widened(array.T, heads, size, wide, False).T)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    content = checkpoint.files["tokenizer.model"]
    (folder / "tokenizer.model").write_bytes(content.read_bytes() if isinstance(content, Path) else content)
    return f"heads of {size} padded to {wide} with zeros, which are not counted" if wide != size else ""


def widened(array: np.ndarray, heads: int, size: int, wide: int, rotary: bool) -> np.ndarray:
    """Pad the heads of [heads · size, …] with zeros to `wide`.

    With `rotary`, the heads are rotated by position: each pair moves to where the wider head has the same frequency,
    among wide / size times as many frequencies.
    """
    split = array.reshape(heads, size, *array.shape[1:])
    result = np.zeros((heads, wide, *array.shape[1:]), array.dtype)
    if rotary:
        result[:, :: wide // size] = split
    else:
        result[:, :size] = split
    return result.reshape(-1, *array.shape[1:])
