"""The reader of ONNX files: every form of a tensor, and files that are damaged or reach out of their folder."""

import ml_dtypes  # noqa: F401 (numpy knows bfloat16 by it)
import numpy as np
import pytest

from asr.errors import UserError
from asr.published import onnx_file
from asr.published.onnx_file import read_onnx
from onnx_writer import field, model, node, tensor, varint

VALUES = np.array([[0, 1, -2], [3.5, -0.25, 100]], np.float32)
NODE = node("MatMul", ["x", "w"], ["y"], "/encoder/MatMul")


def saved(folder, content, name="model.onnx"):
    path = folder / name
    path.write_bytes(content)
    return path


def refusal(path):
    with pytest.raises(UserError) as error:
        read_onnx(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


FORMS = [(name, form) for name in ("float32", "float64", "float16", "bfloat16") for form in ("raw", "typed")]
FORMS += [(name, form) for name in ("int8", "uint8", "int32", "int64") for form in ("raw", "typed")]
FORMS += [("float32", "single"), ("int32", "single")]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_a_tensor_is_read_in_every_form(tmp_path, name, form):
    dtype = np.dtype(name)
    values = (np.abs(VALUES) if dtype.kind == "u" else VALUES).astype(dtype)
    read = read_onnx(saved(tmp_path, model([NODE], [tensor("w", values, form)]))).tensors["w"]
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, values)


def test_packed_sizes_scalars_empty_tensors_and_texts(tmp_path):
    packed = field(1, varint(2) + varint(3)) + field(2, 1) + field(9, VALUES.tobytes()) + field(8, "packed")
    texts = field(1, 1) + field(2, 8) + field(6, "a text") + field(8, "texts")
    tensors = [packed, texts, tensor("scalar", np.float32(3)), tensor("empty", np.zeros((0, 3), np.float32))]
    read = read_onnx(saved(tmp_path, model([NODE], tensors))).tensors
    assert read.keys() == {"packed", "scalar", "empty"}
    np.testing.assert_array_equal(read["packed"], VALUES)
    assert (read["scalar"].shape, read["empty"].shape) == ((), (0, 3))


def test_operations_constants_metadata_and_ends(tmp_path):
    nodes = [NODE, node("Constant", [], ["c"], constant=np.int64(4)), node("Shape", ["x"], ["s"])]
    content = model(nodes, [tensor("w", VALUES)], {"neg_mean": "-1,-2"}, inputs=("x", "w"), outputs=("y",))
    read = read_onnx(saved(tmp_path, content))
    assert [(n.op, n.name, n.inputs, n.outputs) for n in read.nodes][0] == (
        "MatMul", "/encoder/MatMul", ("x", "w"), ("y",)
    )  # fmt: skip
    assert read.tensors["c"] == 4
    assert (read.metadata, read.inputs, read.outputs) == ({"neg_mean": "-1,-2"}, ("x",), ("y",))


def test_weights_in_another_file_of_the_folder(tmp_path):
    saved(tmp_path, b"head" + VALUES.tobytes(), "weights.bin")
    outside = tensor("w", VALUES, "outside", location="weights.bin", offset=4, length=VALUES.nbytes)
    np.testing.assert_array_equal(read_onnx(saved(tmp_path, model([NODE], [outside]))).tensors["w"], VALUES)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"location": "../weights.bin"}, "is in the file '../weights.bin', outside of the folder"),
        ({"location": "/etc/passwd"}, "outside of the folder"),
        ({"location": "link/weights.bin"}, "leads out of it"),
        ({"location": "gone.bin"}, "'gone.bin', which cannot be read (No such file or directory)"),
        ({"location": "inside.bin", "offset": 4}, "holds 20 instead of 24"),
        ({"location": "inside.bin", "offset": 0, "length": 99}, "extends past the end"),
        ({"location": "inside.bin", "offset": -4, "length": 24}, "extends past the end"),
        ({"location": "inside.bin", "offset": "x"}, "the place of w is no number"),
    ],
    ids=str,
)
def test_weights_outside_of_the_folder_or_the_file_are_refused(tmp_path, entries, said):
    folder = tmp_path / "model"
    folder.mkdir()
    saved(tmp_path, VALUES.tobytes(), "weights.bin")
    saved(folder, VALUES.tobytes(), "inside.bin")
    (folder / "link").symlink_to(tmp_path)
    path = saved(folder, model([NODE], [tensor("w", VALUES, "outside", **entries)]))
    with pytest.raises(UserError, match="model") as error:
        read_onnx(path)
    assert said in str(error.value)


WHOLE = model([NODE], [tensor("w", VALUES)])
SIZES = field(2, 1) + field(9, VALUES.tobytes()) + field(8, "w")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"\x80" * 40, "an integer without an end"),
        (WHOLE[:-1], "bytes where"),
        (field(7, b"")[:1] + b"\xff", "an integer without an end"),
        (field(7, b"")[:1] + varint(1 << 62), "bytes where 0 are left"),
        (field(7, b"")[:1] + varint(-3) + b"abc", "a field of -3 bytes"),  # would lead back to itself for ever
        (varint(7 << 3 | 3), "a field of the unknown kind 3"),
        (field(7, 5), "a number where a message belongs"),
        (field(1, 7), "no graph"),
        (field(7, field(1, field(4, b"\xff\xfe"))), "a text that is not UTF-8"),
        (field(7, field(1, field(4, 3))), "a text that is too long"),
        (model([NODE], [field(1, 2) + field(1, 2) + SIZES]), "the tensor w of sizes [2, 2] holds 24 instead of 16"),
        (model([NODE], [field(1, 1 << 40) + field(1, 1 << 40) + SIZES]), "holds 24 instead of"),
        (model([NODE], [field(1, -6) + SIZES]), "the tensor w has impossible sizes"),
        (model([NODE], [field(1, 1) * 9 + SIZES]), "the tensor w has impossible sizes"),
        (model([NODE], [field(1, 0) + field(1, 1 << 62) + field(2, 1) + field(8, "w")]), "impossible sizes"),
        (model([NODE], [field(1, 6) + field(2, 1) + field(4, b"123") + field(8, "w")]), "numbers of a wrong length"),
        (model([NODE], [field(1, 1) + field(2, 7) + field(7, b"\xff") + field(8, "w")]), "an integer without an end"),
        (model([NODE], [field(1, 1) + field(2, 22) + field(8, "w")]), "of a kind that is not read here (data type 22)"),
        (
            model([NODE], [field(1, 1) + field(2, 7) + field(7, b"\xff" * 10 + b"\x01") + field(8, "w")]),
            "an integer without an end",
        ),
        (model([], []), "expected an ONNX model with operations and weights"),
        (b"version https://git-lfs.github.com/spec/v1\n", "copy it again"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)  # fmt: skip
def test_a_damaged_file_is_refused_in_one_line(tmp_path, content, said):
    assert said in refusal(saved(tmp_path, content))


def test_any_cut_or_changed_byte_ends_in_a_model_or_in_one_line(tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(200):
        content = bytearray(WHOLE)
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            content[place] = rng.integers(256)
        path = saved(tmp_path, bytes(content[: rng.integers(1, len(content) + 1)]))
        try:
            read_onnx(path)
        except UserError as error:
            assert "\n" not in str(error)


def test_a_text_and_the_number_of_operations_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("asr.protobuf.MAX_TEXT_BYTES", 20)
    assert "a text that is too long" in refusal(saved(tmp_path, model([NODE], [], {"k": "x" * 21})))
    monkeypatch.setattr(onnx_file, "MAX_NODES", 2)
    assert "more than 2 operations" in refusal(saved(tmp_path, model([NODE] * 3, [])))
