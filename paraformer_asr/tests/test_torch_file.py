"""Files of `torch.save`: what is written is read back, and what is no list of tensors is refused and not run."""

import collections
import io
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest

from asr.errors import UserError
from asr.published import tensor_pickle
from asr.published.torch_file import read_torch_file
from asr.published.torch_writer import write_torch_file

RECORDED = Path(__file__).parent / "recorded" / "funasr_storages.pt"
DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "uint8", "bool")


def draw(shape, dtype, seed=0):
    values = np.random.default_rng(seed).integers(-9, 9, shape)
    return np.asarray(values).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def check_round_trip(path, tensors):
    write_torch_file(path, tensors)
    found, extras = read_torch_file(path)
    assert list(found) == list(tensors)
    assert extras == {}
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].tobytes() == tensor.tobytes()


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(st.lists(st.tuples(st.lists(st.integers(0, 4), max_size=4), st.sampled_from(DTYPES)), min_size=1))
def test_what_is_written_is_read_back(tmp_path_factory, kinds):
    tensors = {f"layer.{i}.weight": draw(shape, dtype, i) for i, (shape, dtype) in enumerate(kinds)}
    check_round_trip(tmp_path_factory.getbasetemp() / "weights.pt", tensors)


def test_views_of_any_strides_are_written_by_their_values(tmp_path):
    base = draw((4, 6, 5), "float32")
    check_round_trip(
        tmp_path / "weights.pt",
        {"t": base.T, "back": base[::-1], "step": base[:, ::2, 1:], "same": np.broadcast_to(base[0, 0], (3, 5))},
    )


def test_equal_contents_give_equal_bytes_and_storages_lie_aligned(tmp_path):
    tensors = {f"weight{i}": draw((i, 3), "float32", i) for i in range(12)}
    for name in ("a", "b"):
        write_torch_file(tmp_path / name, {k: v.copy() for k, v in tensors.items()}, {"epoch": 3})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    content = (tmp_path / "a").read_bytes()
    with zipfile.ZipFile(tmp_path / "a") as archive:
        for info in archive.infolist():
            name_length, extra_length = struct.unpack_from("<HH", content, info.header_offset + 26)
            assert (info.header_offset + 30 + name_length + extra_length) % 64 == 0


def test_what_stands_beside_the_tensors_is_kept(tmp_path):
    extras = {"mask_values": [0, 255], "note": "größer", "settings": {"rate": 2.5, "names": ["a", None, True]}}
    write_torch_file(tmp_path / "weights.pt", {"weight": draw(3, "float32")}, extras)
    found = read_torch_file(tmp_path / "weights.pt")
    assert found.extras == extras
    assert list(found.tensors) == ["weight"]


def test_a_file_that_torch_wrote():
    """Shared storages, views, a parameter, every dtype of published weights, and a state dict among other things."""
    tensors, extras = read_torch_file(RECORDED)
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = {
        "weight": base,
        "transposed": base.T,
        "tail": base[1:, 2:],
        "parameter": np.float32([1.5, -2]),
        "half": np.float16([0.5, 65504]),
        "brain": np.asarray([1, -3], ml_dtypes.bfloat16),
        "count": np.int64(7),
        "empty": np.zeros((0, 3), np.float32),
    }
    assert list(tensors) == list(expected)
    assert extras == {"epoch": 3}
    for name, array in expected.items():
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array)
    assert not tensors["weight"].flags.writeable


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_state_dict_under_the_usual_keys_is_found(tmp_path, key):
    write_archive(tmp_path / "weights.pt", reduced({key: {"weight": Tensor(), "step": 7}, "epoch": 3}))
    found = read_torch_file(tmp_path / "weights.pt")
    np.testing.assert_array_equal(found.tensors["weight"], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert found.extras == {"step": 7, "epoch": 3}


# Archives made by hand: a pickle of calls, and one storage with the values 0 … 5.

STORAGE = np.arange(6, dtype=np.float32).tobytes()


class Call:
    """Pickled as a call of a function that this process need not have."""

    def __init__(self, name, *arguments, state=None):
        self.name, self.arguments, self.state = name, arguments, state


class Tensor(Call):
    """A tensor as torch pickles it."""

    def __init__(self, shape=(2, 3), strides=(3, 1), offset=0, kind="FloatStorage", key="0", size=6):
        stored = Stored(("storage", Call(f"torch.{kind}"), key, "cpu", size))
        hooks = collections.OrderedDict()
        super().__init__("torch._utils._rebuild_tensor_v2", stored, offset, shape, strides, False, hooks)


class Stored:
    """A reference to a storage."""

    def __init__(self, reference):
        self.reference = reference


class Pickler(pickle._Pickler):
    dispatch = pickle._Pickler.dispatch.copy()

    def persistent_id(self, value):
        return value.reference if isinstance(value, Stored) else None

    def save_call(self, value):
        module, _, name = value.name.rpartition(".")
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        if value.arguments:
            self.save(value.arguments)
            self.write(pickle.REDUCE)
        if value.state is not None:
            self.save(value.state)
            self.write(pickle.BUILD)

    dispatch[Call] = dispatch[Tensor] = save_call


def reduced(content):
    """Return the pickle of what holds calls."""
    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue()


def write_archive(path, program, storage=STORAGE, compression=zipfile.ZIP_STORED, **entries):
    """Write an archive as torch does: the pickle, one storage, and further entries."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        for name, content in ({"data/0": storage, "version": "3\n"} | entries).items():
            archive.writestr(f"archive/{name}", content)
    return path


def refusal(path):
    with pytest.raises(UserError) as error:
        read_torch_file(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", ["os.system", "posix.system", "builtins.eval", "builtins.exec", "subprocess.Popen"])
@pytest.mark.parametrize("depth", [0, 1, 40])
def test_a_pickle_that_wants_to_run_something_is_refused_by_name(tmp_path, name, depth):
    marker = tmp_path / "marker"
    line = f"open({str(marker)!r}, 'w')" if name.startswith("builtins") else f"touch {marker}"
    content = {"weight": Tensor(), "more": Call(name, line)}
    for _ in range(depth):
        content = {"weight": Tensor(), "inside": [collections.OrderedDict(content)]}
    message = refusal(write_archive(tmp_path / "weights.pt", reduced(content)))
    assert message.startswith(f"refused without running any of it: its pickle asks for {name}, ")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["importlib.import_module", "collections.OrderedDict.fromkeys", "pickle.loads"])
def test_other_functions_of_pythons_library_are_refused(tmp_path, name):
    path = write_archive(tmp_path / "weights.pt", reduced({"weight": Tensor(), "more": Call(name, "ab")}))
    assert f"its pickle asks for {name}, which weights do not need" in refusal(path)


@pytest.mark.parametrize(
    "call",
    [
        Call("torch.nn.modules.linear.Linear", state={"in_features": 3}),
        Call("torch._utils._rebuild_qtensor", 1),
        Call("torch.load", "other.pt"),
        Call("torch._utils.os.system", "true"),
        Call("argparse.Namespace", state={"epoch": 3}),
        Call("collections.Counter", "ab"),
        Call("numpy.core.multiarray.scalar", Call("numpy.dtype", "f8"), b"12345678"),
        Call("asr.published.torch_file.read_torch_file", "other.pt"),
        Call("somebody.settings.Options", state={"__reduce__": 1}),
    ],
    ids=lambda call: call.name,
)
def test_objects_beside_the_weights_count_for_nothing(tmp_path, call):
    """Nothing of their packages is imported or run: the names need not even exist."""
    modules = set(sys.modules)
    path = write_archive(tmp_path / "weights.pt", reduced({"a.weight": Tensor(), "more": call, "list": [call]}))
    found = read_torch_file(path)
    assert list(found.tensors) == ["a.weight"] and not found.extras.get("more")
    assert set(sys.modules) == modules


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (Call("somebody.Net", state={"a": 1}), "found one object, perhaps a whole model (somebody.Net)"),
        (
            {"model": Call("somebody.Net"), "epoch": 3},
            "model, epoch ('model' is an object, somebody",
        ),
        ([Tensor()], "expected a state dict (names → tensors), found list"),
        ({"a.weight": Call("torch._utils._rebuild_qtensor", 1)}, "a.weight (torch._utils._rebuild_qtensor)"),
        ({"a.weight": Tensor(kind="QInt8Storage")}, "a.weight (torch.QInt8Storage)"),
    ],
    ids=range(5),
)
def test_what_is_no_state_dict_says_what_to_save(tmp_path, content, said):
    message = refusal(write_archive(tmp_path / "weights.pt", reduced(content)))
    assert said in message
    assert "load it with torch and save model.state_dict()" in message


def test_a_checkpoint_with_everything_that_people_save_is_read():
    """Written by torch: counters, scalars and arrays of numpy, namespaces, settings of omegaconf, an optimizer, …"""
    tensors, extras = read_torch_file(RECORDED.parent / "torch_beside.pth")
    assert list(tensors) == ["module.layer.weight", "module.layer.bias"]
    np.testing.assert_array_equal(tensors["module.layer.weight"], np.arange(12, dtype=np.float32).reshape(3, 4))
    assert extras == {"mask_values": [0, 255], "note": "größer", "rng": ("MT19937",)}


def test_a_state_changes_neither_a_dictionary_nor_a_function(tmp_path):
    """torch writes versions of modules as the state of the dictionary; a stranger might write more."""
    state = b"}X\x06\0\0\0values]sb"  # an attribute that hides the method
    program = reduced({"weight": Tensor()})
    expected = read_torch_file(write_archive(tmp_path / "plain.pt", program)).tensors
    found = read_torch_file(write_archive(tmp_path / "weights.pt", program[:-1] + state + b".")).tensors
    np.testing.assert_array_equal(found["weight"], expected["weight"])
    defaults = tensor_pickle._rebuild_tensor.__defaults__
    state = b"ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\0\0\0__defaults__X\x01\0\0\0x\x85s\x86b0"
    read_torch_file(write_archive(tmp_path / "weights.pt", program[:-1] + state + b"."))
    assert tensor_pickle._rebuild_tensor.__defaults__ == defaults


@pytest.mark.parametrize(
    "program",
    [
        reduced(Call("torch.FloatStorage", 3)),  # a name in place of a function
        reduced(Call("torch.FloatStorage", state={"__call__": 1}))[:-4],
        reduced({"weight": Stored(("storage", "torch.FloatStorage", "0", "cpu", 6))}),
        reduced({"weight": Stored("storage 0")}),
        reduced({"weight": Call("torch._utils._rebuild_tensor_v2", 1, 0, (1,), (1,))}),
        b"\x80\x02" + b"(" * 100 + b".",
        b"\x80\x02X\xff\xff\xff\x7fa.",  # a text of 2 GB that is not there
        b"\x80\x02]" + b"]a" * 3 + b"\x94.",
        b"",
        reduced({"weight": Tensor()})[:-5],
    ],
    ids=range(10),
)
def test_a_damaged_pickle_is_refused(tmp_path, program):
    assert refusal(write_archive(tmp_path / "weights.pt", program)).startswith(
        ("its pickle is damaged (", "expected a state dict")
    )


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (Tensor((2, 3), (3, 1), offset=1), "reaches value 6 of a storage with 6"),
        (Tensor((3, 3), (3, 1)), "reaches value 8 of"),
        (Tensor((1, 1, 2), (0, 0, 6)), "reaches value 6 of"),
        (Tensor((2, 3), (3, -1), offset=5), "expected a storage and integers"),
        (Tensor((-2, 3), (3, 1)), "expected a storage and integers"),
        (Tensor((2, 3), (3, 1), offset=-1), "expected a storage and integers"),
        (Tensor((2, 1.0), (3, 1)), "expected a storage and integers"),
        (Tensor((2, 3), (3,)), r"shape (2, 3) with strides (3,)"),
        (Tensor(size=7), "storage 0 has 24 bytes, not 7 values of float32"),
        (Tensor(kind="LongStorage"), "storage 0 has 24 bytes, not 6 values of int64"),
        (Tensor(key="1"), "the entry archive/data/1 is missing"),
        (Tensor((1 << 20, 1 << 20), (0, 0)), "repeats the values of a storage with 6"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_tensor_that_its_storage_does_not_hold_is_refused(tmp_path, tensor, said):
    assert said in refusal(write_archive(tmp_path / "weights.pt", reduced({"weight": tensor})))


def test_a_small_pickle_that_unfolds_to_a_huge_value_is_answered_at_once(tmp_path):
    huge = ["x"]
    for _ in range(30):
        huge = [huge] * 9
    for content in ({"weight": Tensor(), "more": Stored(huge)}, {"weight": Tensor(key=huge)}, huge):
        path = write_archive(tmp_path / "weights.pt", reduced(content))
        assert len(refusal(path)) < 200


def test_one_storage_under_two_dtypes_is_refused(tmp_path):
    program = reduced({"a": Tensor(), "b": Tensor(kind="IntStorage")})
    assert "storage 0 is both FloatStorage and IntStorage" in refusal(write_archive(tmp_path / "w.pt", program))


PLAIN = reduced({"weight": Tensor()})


def write_plain(path, **options):
    return write_archive(path, PLAIN, **options)


def test_a_plain_archive_made_by_hand_is_read(tmp_path):
    """Else the refusals above and below say little."""
    path = write_plain(tmp_path / "weights.pt", byteorder="little")
    np.testing.assert_array_equal(read_torch_file(path).tensors["weight"], np.arange(6).reshape(2, 3))


def test_a_cut_file_is_refused(tmp_path):
    content = write_plain(tmp_path / "whole.pt").read_bytes()
    for length in (2, 40, len(content) // 2, len(content) - 1):
        path = tmp_path / "weights.pt"
        path.write_bytes(content[:length])
        assert refusal(path).startswith("the file is truncated or damaged")


def test_a_name_that_is_no_text_is_refused(tmp_path):
    path = write_plain(tmp_path / "weights.pt", **{"é": b""})
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff"))
    assert refusal(path).startswith("the file is truncated or damaged")


def test_a_flipped_bit_in_a_storage_is_found(tmp_path):
    path = write_plain(tmp_path / "weights.pt")
    content = bytearray(path.read_bytes())
    content[content.find(STORAGE) + 9] ^= 4
    path.write_bytes(content)
    assert refusal(path) == "the entry archive/data/0 is damaged (its checksum differs)"


def test_other_formats_are_named(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps({"weight": 1}, protocol=2))
    assert "a pickle that torch.save did not write: load it with torch and save" in refusal(path)
    path.write_bytes(b"\x08\x00\x00\x00{}")
    assert "found unknown content" in refusal(path)
    path.write_bytes(b"")
    assert "the file is empty" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "")
    assert refusal(path).startswith("this is a zip archive without weights (word/document.xml …): unpack it")
    write_plain(path, **{"constants.pkl": b"", "code/__torch__.py": ""})
    assert refusal(path) == "this is a TorchScript program: load it with torch.jit and save model.state_dict()"
    write_plain(path, compression=zipfile.ZIP_DEFLATED)
    assert "is compressed; torch.save compresses nothing" in refusal(path)
    write_plain(path, byteorder="big")
    assert refusal(path) == "expected little-endian values, found byte order b'big'"
    assert "cannot be read (No such file" in refusal(tmp_path / "none.pt")
    assert "this is a folder: name the weights file in it" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([Tensor()], "found list"),
        (Tensor(), "found ndarray"),
        ({3: Tensor()}, "found no tensors, only: 3"),
        ({"epoch": 3, "optimizer": {}}, "found no tensors, only: epoch, optimizer"),
        ({}, "found no tensors, only: nothing"),
        ({"state_dict": {"epoch": 1}}, "found no tensors, only: state_dict"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_is_no_state_dict_is_refused(tmp_path, content, said):
    message = refusal(write_archive(tmp_path / "weights.pt", reduced(content)))
    remedy = "load it with torch and save model.state_dict()"
    assert message == f"expected a state dict (names → tensors), {said}: {remedy}"
