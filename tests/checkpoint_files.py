"""Writers of the formats that `llama_onnx/export/readers` reads, each from tensors with their Hugging Face names."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import pickle
import re
import struct
import threading
import time
import urllib.parse
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

Tensors = dict[str, np.ndarray]

# -- torch ------------------------------------------------------------------------------------------------------------

STORAGE_OF = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
}


def write_torch_zip(path: Path, tensors: Tensors, name: str = "archive") -> None:
    """Write a file like that of `torch.save(state_dict)`; the pickle is assembled opcode by opcode."""
    out = io.BytesIO(b"")
    out.write(b"\x80\x02ccollections\nOrderedDict\n)R(")
    with zipfile.ZipFile(path, "w") as archive:
        for key, (tensor, array) in enumerate(tensors.items()):
            strides = [stride // array.itemsize for stride in array.strides]
            out.write(_pickled(tensor) + b"ctorch._utils\n_rebuild_tensor_v2\n(")
            out.write(b"(" + _pickled("storage") + f"ctorch\n{STORAGE_OF[array.dtype.name]}\n".encode())
            out.write(_pickled(str(key)) + _pickled("cpu") + _pickled(array.size) + b"tQ")
            out.write(_pickled(0) + _pickled(array.shape) + _pickled(tuple(strides)) + b"\x89")
            out.write(b"ccollections\nOrderedDict\n)RtR")
            archive.writestr(f"{name}/data/{key}", np.ascontiguousarray(array).tobytes())
        archive.writestr(f"{name}/data.pkl", out.getvalue() + b"u.")
        archive.writestr(f"{name}/byteorder", b"little")


def _pickled(value: Any) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]  # without the protocol and the stop


# -- Meta and llama2.c ------------------------------------------------------------------------------------------------

META_NAMES = {
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
}


def interleaved(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """Return the tensors with the rows of queries and keys in Meta's order, computed row by row."""
    result = dict(tensors)
    for short, heads in (("q_proj", config["num_attention_heads"]), ("k_proj", config["num_key_value_heads"])):
        for name in [name for name in tensors if f".{short}." in name]:
            array = tensors[name]
            size = len(array) // heads
            order = [h * size + i // 2 + (i % 2) * (size // 2) for h in range(heads) for i in range(size)]
            result[name] = array[order]
    return result


def meta_tensors(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """Return the tensors with Meta's names and in its row order."""
    result = {}
    for name, array in interleaved(tensors, config).items():
        stem = name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            _, _, i, rest = stem.split(".", 3)
            result[f"layers.{i}.{META_NAMES[rest]}.weight"] = array
        else:
            result[f"{META_NAMES[stem]}.weight"] = array
    return result


def write_meta(folder: Path, tensors: Tensors, config: dict[str, Any], shards: int, split_vocabulary: bool) -> None:
    """Write `consolidated.*.pth`, split like Meta's model-parallel layers, and `params.json`."""
    folder.mkdir(parents=True)
    for i in range(shards):
        part = {}
        for name, array in meta_tensors(tensors, config).items():
            if array.ndim == 1:
                part[name] = array
                continue
            by_columns = "wo" in name or "w2" in name or ("tok_emb" in name and not split_vocabulary)
            part[name] = np.ascontiguousarray(np.split(array, shards, axis=1 if by_columns else 0)[i])
        part["rope.freqs"] = np.zeros(8, np.float32)
        write_torch_zip(folder / f"consolidated.{i:02d}.pth", part, "consolidated")
    params = {
        "dim": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "norm_eps": config["rms_norm_eps"],
        "multiple_of": 32,
        "vocab_size": -1,
    }
    (folder / "params.json").write_text(json.dumps(params))


LLAMA2C_LAYERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
LLAMA2C_MLP = ("mlp.gate_proj", "mlp.down_proj", "mlp.up_proj")


def write_llama2c(path: Path, tensors: Tensors, config: dict[str, Any], version: int, group: int = 32) -> Tensors:
    """Write a llama2.c file and return the values that it represents (rounded to int8 in version 2)."""
    turned = interleaved(tensors, config)
    layers = range(config["num_hidden_layers"])
    tied = "lm_head.weight" not in tensors
    sizes = [
        config[name]
        for name in (
            "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads vocab_size "
            "max_position_embeddings"
        ).split()
    ]

    def all_layers(*names: str) -> list[str]:
        return [f"model.layers.{i}.{name}.weight" for name in names for i in layers]

    norms = [*all_layers("input_layernorm"), *all_layers("post_attention_layernorm"), "model.norm.weight"]
    matrices = all_layers(*LLAMA2C_LAYERS, *LLAMA2C_MLP)
    head = [] if tied else ["lm_head.weight"]
    values = {name: array.astype(np.float32) for name, array in tensors.items()}
    with path.open("wb") as file:
        if version == 0:
            sizes[5] *= 1 if tied else -1
            file.write(struct.pack("<7i", *sizes))
            order = ["model.embed_tokens.weight", *all_layers("input_layernorm"), *all_layers(*LLAMA2C_LAYERS)]
            order += [*all_layers("post_attention_layernorm"), *all_layers(*LLAMA2C_MLP), "model.norm.weight"]
            for name in order:
                file.write(turned[name].astype("<f4").tobytes())
            head_dim = config["hidden_size"] // config["num_attention_heads"]
            file.write(bytes(4 * config["max_position_embeddings"] * head_dim))  # cosines and sines
            for name in head:
                file.write(turned[name].astype("<f4").tobytes())
            return values
        header = struct.pack("<Ii7iB", 0x616B3432, version, *sizes, tied) + (struct.pack("<i", group) * (version == 2))
        file.write(header.ljust(256, b"\0"))
        for name in norms:
            file.write(turned[name].astype("<f4").tobytes())
        for name in ["model.embed_tokens.weight", *matrices, *head]:
            array = turned[name].astype("<f4")
            if version == 1:
                file.write(array.tobytes())
                continue
            blocks = array.reshape(-1, group)
            scales = np.abs(blocks).max(1) / np.float32(127)
            rounded = np.rint(blocks / scales[:, None]).astype(np.int8)
            file.write(rounded.tobytes() + scales.astype("<f4").tobytes())
            turned[name] = (rounded * scales[:, None]).reshape(array.shape)
    # back to the order of halves, row by row
    names = {name: np.arange(len(array))[:, None] for name, array in tensors.items() if array.ndim == 2}
    order_of = interleaved(names, config)
    for name, rows in order_of.items():
        values[name] = np.empty_like(turned[name])
        values[name][rows[:, 0]] = turned[name]
    return values


def write_tokenizer_bin(path: Path, pieces: list[tuple[bytes, float]]) -> None:
    """Write llama2.c's `tokenizer.bin`."""
    data = struct.pack("<i", max(len(text) for text, _ in pieces))
    path.write_bytes(data + b"".join(struct.pack("<fi", score, len(text)) + text for text, score in pieces))


# -- GGUF -------------------------------------------------------------------------------------------------------------

GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.down_proj": "ffn_down",
    "mlp.up_proj": "ffn_up",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def write_gguf(path: Path, tensors: Tensors, config: dict[str, Any], kind: str, **extra: Any) -> Tensors:
    """Write a llama GGUF file with matrices of a type, and return the values that it represents.

    `extra` may hold `family`, `names`, `tokens`, `scores`, `types`, `tokenizer`, `merges`, `pre`, `freqs`, `theta` and
    other `keys` of the metadata with their values.
    """
    import gguf

    family = extra.get("family", "llama")
    writer = gguf.GGUFWriter(path, family)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(extra.get("theta", 10000.0))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if "tokens" in extra:
        writer.add_tokenizer_model(extra.get("tokenizer", "llama"))
        writer.add_token_list(extra["tokens"])
        writer.add_token_types(extra["types"])
        if "scores" in extra:
            writer.add_token_scores(extra["scores"])
        if "merges" in extra:
            writer.add_token_merges(extra["merges"])
            writer.add_tokenizer_pre(extra["pre"])
    for key, value in extra.get("keys", {}).items():
        {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)](key, value)
    if "freqs" in extra:
        writer.add_tensor("rope_freqs.weight", extra["freqs"].astype(np.float32))
    values = {}
    names = {**GGUF_NAMES, **extra.get("names", {})}
    type_of = getattr(gguf.GGMLQuantizationType, kind)
    turned = interleaved(tensors, config) if family == "llama" else tensors
    for name, array in turned.items():
        stem, _, end = name.rpartition(".")
        if stem.startswith("model.layers."):
            _, _, i, rest = stem.split(".", 3)
            short = f"blk.{i}.{names[rest]}.{end}"
        else:
            short = f"{names[stem]}.{end}"
        values[name] = np.ascontiguousarray(tensors[name], np.float32)
        array = np.ascontiguousarray(array, np.float32)
        if array.ndim == 1:
            writer.add_tensor(short, array)
            continue
        packed = gguf.quants.quantize(array, type_of)
        writer.add_tensor(short, packed, raw_dtype=type_of)
        # Rows stay whole, so reordering the rows of the file reorders the values in the same way.
        values[name] = gguf.quants.dequantize(gguf.quants.quantize(values[name], type_of), type_of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


def write_gguf_model(path: Path, folder: Path) -> None:
    """Write a Hugging Face directory as a float32 GGUF file, using the gguf package's own table of names."""
    import gguf

    config = json.loads((folder / "config.json").read_text())
    tensors = {name: array.astype(np.float32) for name, array in load_file(folder / "model.safetensors").items()}
    family = {"mistral": "llama", "gemma3_text": "gemma3"}.get(config["model_type"], config["model_type"])
    (architecture,) = (number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer = gguf.GGUFWriter(path, family)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if "head_dim" in config:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    rope = config.get("rope_parameters") or {**config, **(config.get("rope_scaling") or {})}
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1)))
    kind = rope.get("rope_type") or rope.get("type")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
    if config.get("original_max_position_embeddings") or kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(
            config.get("original_max_position_embeddings") or rope["original_max_position_embeddings"]
        )
    for length in ("short", "long") if kind == "longrope" else ():
        writer.add_tensor(f"rope_factors_{length}.weight", np.array(rope[f"{length}_factor"], np.float32))
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if "sliding_window_pattern" in config:
        writer.add_sliding_window_pattern(config["sliding_window_pattern"])
    short_name = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"]).get_name
    for name, array in (interleaved(tensors, config) if family == "llama" else tensors).items():
        short = short_name(name, (".weight", ".bias"))
        assert short is not None
        added = 1 if family.startswith("gemma") and name.endswith("norm.weight") else 0
        writer.add_tensor(short, array + np.float32(added))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def split_gguf(folder: Path, tensors: Tensors, config: dict[str, Any], count: int = 3) -> list[Path]:
    """Write a GGUF file in parts as llama-gguf-split does; the first has the metadata and no tensor."""
    import gguf

    write_gguf(folder / "whole.gguf", tensors, config, "F16")
    whole = gguf.GGUFReader(folder / "whole.gguf")
    paths = [folder / f"m-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1)]
    for number, path in enumerate(paths):
        writer = gguf.GGUFWriter(path, "llama")
        for key, field in whole.fields.items() if number == 0 else ():
            if not key.startswith(("GGUF.", "general.architecture")):
                writer.add_key_value(key, field.contents(), field.types[0], field.types[1] if field.types[1:] else None)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(whole.tensors))
        for tensor in whole.tensors[number - 1 :: count - 1] if number else ():
            writer.add_tensor(tensor.name, np.array(tensor.data))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    (folder / "whole.gguf").unlink()
    return paths


# -- GPTQ and AWQ -----------------------------------------------------------------------------------------------------


def quantise_like_gptq(
    matrix: np.ndarray, bits: int, groups: np.ndarray, rng: np.random.Generator, symmetric: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return integers [in, out], zero points [groups, out] and float16 scales [groups, out] near `matrix` [out, in]."""
    count, top = int(groups.max()) + 1, (1 << bits) - 1
    values = np.empty(matrix.T.shape, np.int64)
    zeros = np.empty((count, len(matrix)), np.int64)
    scales = np.empty((count, len(matrix)), np.float16)
    for g in range(count):
        part = matrix.T[groups == g]
        scales[g] = (part.max(0) - part.min(0)) / top * 1.1
        zeros[g] = (1 << (bits - 1)) if symmetric else rng.integers(0, top + 1, len(matrix))
        values[groups == g] = np.clip(np.rint(part / scales[g].astype(np.float32)) + zeros[g], 0, top)
    return values, zeros, scales


def pack_words(values: np.ndarray, bits: int, axis: int, order: tuple[int, ...] | None = None) -> np.ndarray:
    """Pack integers along an axis into int32 words, one by one; position i of a word gets value order[i]."""
    values = np.moveaxis(values, axis, -1)
    per_word = 32 // bits
    words = np.zeros((*values.shape[:-1], values.shape[-1] // per_word), np.uint32)
    for place, column in enumerate(order or range(per_word)):
        words |= values[..., column::per_word].astype(np.uint32) << np.uint32(bits * place)
    return np.ascontiguousarray(np.moveaxis(words.view(np.int32), -1, axis))


# -- Hugging Face hub -------------------------------------------------------------------------------------------------


class Hub:
    """A hub on loopback that serves directories: `with Hub({"org/name": folder}) as hub: … hub.url, hub.requests`.

    Attributes:
        requests: what was asked for, such as "GET /org/name/resolve/main/config.json".
        sent: the bytes of bodies that were sent for each of these.
        commit: of every model.
        sizes: sizes that the listing gives for files, in place of the true ones.
        cut: after how many bytes the body of a file breaks off; 0 for never.
        wait: whether it stops there with the connection open.
        digest: the hash that is told for files, in place of the true one.
    """

    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self, models: dict[str, Path]) -> None:
        hub = self
        self.requests: list[str] = []
        self.sent: list[int] = []
        self.commit = self.COMMIT
        self.sizes: dict[str, int] = {}
        self.cut = 0
        self.wait = False
        self.digest = ""

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub._answer(self, models, body=True)

            def do_HEAD(self) -> None:
                hub._answer(self, models, body=False)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: http.server.BaseHTTPRequestHandler, models: dict[str, Path], body: bool) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(request.path).path)
        self.requests.append(f"{request.command} {path}")
        match = re.fullmatch(r"(?:/api/models)?/([^/]+/[^/]+)/(revision|tree|resolve)/([^/]+)(?:/(.+))?", path)
        folder = models.get(match[1]) if match else None
        if match is None or folder is None:
            return self._reply(request, 404, b"", {"X-Error-Code": "RepoNotFound"}, body)
        if match[3] not in ("main", self.commit):
            return self._reply(request, 404, b"", {"X-Error-Code": "RevisionNotFound"}, body)
        if match[2] != "resolve":
            files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
            names = [{"rfilename": name} for name in files]
            if "recursive=true" not in request.path.lower():
                files = {name: file for name, file in files.items() if "/" not in name}
            sizes = {name: self.sizes.get(name, file.stat().st_size) for name, file in files.items()}
            tree = [{"type": "file", "path": name, "size": sizes[name], "oid": _oid(files[name])} for name in files]
            model = {"_id": "1", "id": match[1], "modelId": match[1], "sha": self.commit, "siblings": names, "tags": []}
            answer = json.dumps(model if match[2] == "revision" else tree).encode()
            return self._reply(request, 200, answer, {"Content-Type": "application/json"}, body)
        file = folder / str(match[4])
        if not file.is_file():
            return self._reply(request, 404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        headers = {"ETag": f'"{self.digest or _oid(file)}"', "X-Repo-Commit": self.commit, "Accept-Ranges": "bytes"}
        content, first = file.read_bytes(), 0
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")):
            first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content = content[first : last + 1]
        self._reply(request, 206 if wanted else 200, content, headers, body)

    def _reply(
        self,
        request: http.server.BaseHTTPRequestHandler,
        status: int,
        content: bytes,
        headers: dict[str, str],
        body: bool,
    ) -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            request.send_header(name, value)
        request.end_headers()
        if body:
            cut = bool(self.cut) and len(content) > self.cut
            self.sent.append(self.cut if cut else len(content))
            request.wfile.write(content[: self.sent[-1]])
            request.wfile.flush()
            while cut and self.wait:
                time.sleep(0.05)
            request.close_connection = request.close_connection or cut


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
