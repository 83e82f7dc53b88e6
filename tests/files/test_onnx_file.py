"""The small ONNX reader agrees with the `onnx` package, and no file crashes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from llama_onnx.errors import ModelDirectoryError
from llama_onnx.files.onnx_file import DTYPES, read_graph, relocate


def save(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def model_of(*initializers: TensorProto) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["batch", None, 7])
    return helper.make_model(
        helper.make_graph([helper.make_node("Identity", ["x"], ["y"], "n")], "g", [value], [value], list(initializers))
    )


def test_every_shard_reads_the_same_as_with_onnx(model: Path) -> None:
    for path in model.glob("*.onnx"):
        expected, graph = onnx.load(str(path), load_external_data=False).graph, read_graph(path)
        assert [(n.op_type, n.name, n.domain, n.inputs, n.outputs) for n in graph.nodes] == [
            (n.op_type, n.name, n.domain, tuple(n.input), tuple(n.output)) for n in expected.node
        ]
        for node, other in zip(graph.nodes, expected.node, strict=True):
            assert node.numbers == {a.name: a.i for a in other.attribute if a.type == onnx.AttributeProto.INT}
        for tensor, other in zip(graph.initializers, expected.initializer, strict=True):
            assert (tensor.name, tensor.dtype, tensor.shape) == (other.name, other.data_type, tuple(other.dims))
            assert tensor.external_data == {entry.key: entry.value for entry in other.external_data}
            assert not tensor.external_data or tensor.location[2] == tensor.nbytes
        for values, others in ((graph.inputs, expected.input), (graph.outputs, expected.output)):
            for value, other in zip(values, others, strict=True):
                tensor_type = other.type.tensor_type
                assert (value.name, value.dtype) == (other.name, tensor_type.elem_type)
                assert value.shape == tuple(d.dim_param or d.dim_value for d in tensor_type.shape.dim)


def test_relocation_changes_only_the_location_of_initializers(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "layer.onnx"
    path.write_bytes((model / "decoder-00.onnx").read_bytes())
    relocate(path, {"cos_cache": ("elsewhere.bin", 4096, 123456789)})
    expected = onnx.load(str(model / "decoder-00.onnx"), load_external_data=False)
    moved = next(tensor for tensor in expected.graph.initializer if tensor.name == "cos_cache")
    del moved.external_data[:]
    for key, value in (("location", "elsewhere.bin"), ("offset", "4096"), ("length", "123456789")):
        moved.external_data.add(key=key, value=value)
    assert onnx.load(str(path), load_external_data=False) == expected


def test_relocation_can_change_the_shape(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "layer.onnx"
    path.write_bytes((model / "decoder-00.onnx").read_bytes())
    relocate(path, {"cos_cache": ("elsewhere.bin", 4096, 64 * 8 * 4)}, {"cos_cache": (64, 8)})
    found = {tensor.name: tensor for tensor in read_graph(path).initializers}
    assert (found["cos_cache"].shape, found["cos_cache"].location) == ((64, 8), ("elsewhere.bin", 4096, 2048))
    others = {tensor.name: tensor for tensor in read_graph(model / "decoder-00.onnx").initializers}
    assert {name: found[name] for name in found if name != "cos_cache"} == {
        name: others[name] for name in others if name != "cos_cache"
    }


def test_weights_inside_the_file_are_skipped_and_counted(tmp_path: Path) -> None:
    array = numpy_helper.from_array(np.zeros((3, 5), np.float32), "w")
    graph = read_graph(save(tmp_path / "x.onnx", model_of(array)))
    assert [(t.name, t.shape, t.nbytes, t.location) for t in graph.initializers] == [("w", (3, 5), 60, ("", 0, 0))]
    assert graph.inputs[0].shape == ("batch", "", 7)


def test_types_and_their_sizes_equal_those_of_onnx() -> None:
    for kind in DTYPES:
        if kind not in TensorProto.DataType.values():
            continue  # later than this version of onnx
        name = TensorProto.DataType.Name(kind)
        assert DTYPES[kind][0] == {"FLOAT": "float32", "DOUBLE": "float64"}.get(name, name.lower())
        if DTYPES[kind][2] is not None:
            assert helper.tensor_dtype_to_np_dtype(kind) == np.dtype(DTYPES[kind][2])


def test_every_truncation_is_one_clear_error(model: Path, tmp_path: Path) -> None:
    data = (model / "decoder-00.onnx").read_bytes()
    last_opset = data.rindex(b"com.microsoft") - 4  # the bytes before it are a complete message
    for size in {*range(0, len(data), 7)} - {last_opset}:
        (tmp_path / "cut.onnx").write_bytes(data[:size])
        with pytest.raises(ModelDirectoryError, match=r"cut\.onnx: ") as caught:
            read_graph(tmp_path / "cut.onnx")
        assert "\n" not in str(caught.value)


def test_any_changed_bytes_give_a_graph_or_one_clear_error(model: Path, tmp_path: Path) -> None:
    data = bytearray((model / "decoder-00.onnx").read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(300):
        spoiled = bytearray(data)
        for place in rng.integers(len(data), size=rng.integers(1, 20)):
            spoiled[place] = rng.integers(256)
        (tmp_path / "spoiled.onnx").write_bytes(spoiled)
        try:
            graph = read_graph(tmp_path / "spoiled.onnx")
            [tensor.location for tensor in graph.initializers]
        except ModelDirectoryError:
            pass


HOSTILE = {
    "empty": b"",
    "text": b"version https://git-lfs.github.com/spec/v1\n",
    "endless number": b"\xff" * 64,
    "length beyond the file": b"\x3a\xff\xff\xff\xff\x0f",
    "field zero": b"\x00\x00",
    "groups": b"\x3b\x3c" * 8,
    "no graph": b"\x08\x0a",
    "two graphs": b"\x3a\x00\x3a\x00",
    "name that is no text": b"\x3a\x06\x0a\x04\x22\x02\xff\xfe",
    "name that is a number": b"\x3a\x04\x2a\x02\x40\x01",
    "negative size": b"\x3a\x0d\x2a\x0b\x08" + b"\xff" * 9 + b"\x01",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_one_clear_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(HOSTILE[name])
    with pytest.raises(ModelDirectoryError, match=r"bad\.onnx: (not a valid ONNX file|is empty)"):
        read_graph(tmp_path / "bad.onnx")


def test_missing_file_and_invalid_offsets_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ModelDirectoryError, match="cannot be read"):
        read_graph(tmp_path / "nowhere.onnx")
    tensor = TensorProto(name="w", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="offset", value="-1")
    graph = read_graph(save(tmp_path / "x.onnx", model_of(tensor)))
    with pytest.raises(ModelDirectoryError, match="w: offset is '-1'"):
        _ = graph.initializers[0].location
