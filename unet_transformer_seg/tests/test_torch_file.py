"""The reader and the writer of torch's files, without torch: what goes through unchanged, and what is refused."""

import pickle
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from seg.errors import UserError
from seg.published.torch_file import read_torch_file
from seg.published.torch_writer import write_torch_file

WRITTEN_BY_TORCH = Path(__file__).parent / "recorded" / "torch_written.pth"
GRID = np.arange(12, dtype=np.float32).reshape(3, 4)
TENSORS = {
    "float32": GRID,
    "float16": np.array([0.5, 65504], np.float16),
    "bfloat16": np.array([[1, -3]], ml_dtypes.bfloat16),
    "int64": np.array([-(2**40), 7]),
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
    "transposed": GRID.T,
    "backwards": GRID[::-1, ::2],
}


# ---- pickles by hand -------------------------------------------------------------------------------------------


def call(module, name, arguments):
    """Return the opcodes of a call: a global, its arguments, REDUCE."""
    return f"c{module}\n{name}\n".encode() + b"(" + arguments + b"tR"


def text(value):
    return f"V{value}\n".encode()


def tensor(key="0", size=12, offset=0, shape=(3, 4), strides=(4, 1), storage="torch\nFloatStorage"):
    reference = b"(" + text("storage") + f"c{storage}\n".encode() + text(key) + text("cpu") + f"I{size}\nt".encode()
    shape, strides = (b"(" + b"".join(f"I{n}\n".encode() for n in numbers) + b"t" for numbers in (shape, strides))
    hooks = call("collections", "OrderedDict", b"")
    arguments = reference + f"QI{offset}\n".encode() + shape + strides + b"I00\n" + hooks
    return call("torch._utils", "_rebuild_tensor_v2", arguments)


def dictionary(**values):
    return b"(" + b"".join(text(key) + value for key, value in values.items()) + b"d"


@pytest.fixture
def archive(tmp_path):
    """Return a function that writes a file with a given pickle and one storage, of the numbers 0 to 11."""

    def write(program, *, compression=zipfile.ZIP_STORED, left_out=(), **more):
        entries = {"data.pkl": b"\x80\x02" + program + b".", "byteorder": b"little", "data/0": GRID.tobytes(), **more}
        with zipfile.ZipFile(tmp_path / "hand.pth", "w", compression) as file:
            for name, content in entries.items():
                if name not in left_out:
                    file.writestr(f"hand/{name}", content)
        return tmp_path / "hand.pth"

    return write


def refusal(path):
    with pytest.raises(UserError) as error:
        read_torch_file(path)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


def assert_same(found, expected):
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)


# ---- round trip ------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path):
    extras = {"mask_values": [[0, 0, 0], [255, 128, 0]], "epoch": 3, "note": "ä", "rate": 0.5, "more": {"none": None}}
    write_torch_file(tmp_path / "w.pth", TENSORS, extras)
    found = read_torch_file(tmp_path / "w.pth")
    assert list(found.tensors) == list(TENSORS)
    for name, array in TENSORS.items():
        assert_same(found.tensors[name], array)
    assert found.extras == extras


def test_equal_contents_give_equal_bytes(tmp_path):
    for name, order in (("a.pth", "C"), ("b.pth", "F")):
        write_torch_file(tmp_path / name, {"grid": np.array(GRID, order=order)}, {"mask_values": [0, 255]})
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
    assert read_torch_file(tmp_path / "a.pth").extras == {"mask_values": [0, 255]}


def test_storages_are_not_copied_and_cannot_be_changed(tmp_path):
    write_torch_file(tmp_path / "w.pth", {"grid": GRID})
    found = read_torch_file(tmp_path / "w.pth").tensors["grid"]
    assert found.ctypes.data % 64 == 0 and not found.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def test_a_file_that_torch_wrote():
    """Several of its tensors are views of one storage, which stands in the file once."""
    tensors, extras = read_torch_file(WRITTEN_BY_TORCH)
    expected = {
        "plain": GRID,
        "transposed": GRID.T,
        "row": GRID[1],
        "every_other": GRID[:, ::2],
        "parameter": np.array([1.5, -2], np.float32),
        "half": TENSORS["float16"],
        "brain": TENSORS["bfloat16"][0],
        "count": TENSORS["scalar"],
        "none": TENSORS["empty"],
        "flags": np.array([True, False]),
    }
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        assert_same(tensors[name], array)
    assert np.shares_memory(tensors["plain"], tensors["transposed"])
    assert extras == {"mask_values": [[0, 0, 0], [255, 128, 0]]}


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_state_dict_among_other_things_is_found(archive, key):
    found = read_torch_file(archive(dictionary(epoch=b"I3\n", **{key: dictionary(grid=tensor())})))
    assert_same(found.tensors["grid"], GRID)


# ---- what is refused -------------------------------------------------------------------------------------------

ATTACKS = {
    "os.system": lambda path: call("os", "system", text(f"mkdir '{path}'")),
    "os.mkdir": lambda path: call("os", "mkdir", text(path)),
    "builtins.eval": lambda path: call("builtins", "eval", text(f"__import__('os').mkdir('{path}')")),
    "builtins.exec": lambda path: b"(" + text(f"__import__('os').mkdir('{path}')") + b"ibuiltins\nexec\n",
    "os.makedirs": lambda path: text("os") + text("makedirs") + b"\x93(" + text(path) + b"tR",
}
PLACES = {
    "on top": lambda attack: attack,
    "in a list": lambda attack: dictionary(grid=tensor(), more=b"](" + dictionary(x=attack) + b"e"),
    "in place of a storage": lambda attack: dictionary(
        x=call("torch._utils", "_rebuild_tensor_v2", attack + b"I0\n)))N")
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("place", PLACES)
def test_a_pickle_that_would_run_something_is_refused_by_name(archive, tmp_path, name, place):
    marker = tmp_path / "it ran"
    path = archive(PLACES[place](ATTACKS[name](marker)))
    message = refusal(path)
    assert "refused without running any of it" in message and f"asks for {name}," in message
    assert not marker.exists()
    pickle.loads(b"\x80\x02" + ATTACKS[name](marker) + b".")  # the attack is one
    assert marker.exists()


@pytest.mark.parametrize("name", ["importlib.import_module", "pickle.loads", "collections.OrderedDict.fromkeys"])
def test_other_functions_of_pythons_library_are_refused(archive, name):
    module, attribute = name.rsplit(".", 1)
    path = archive(dictionary(grid=tensor(), x=f"c{module}\n{attribute}\n".encode()))
    assert f"asks for {name}, which weights do not need" in refusal(path)


@pytest.mark.parametrize(
    "name",
    ["torch.nn.modules.linear.Linear", "torch.load", "torch._utils._rebuild_qtensor", "numpy.dtype", "somebody.Options"]
    + ["argparse.Namespace", "seg.published.torch_file.read_torch_file"],
)
@pytest.mark.parametrize("state", [b"", b"}b", text("x") + b"b"])
def test_objects_beside_the_weights_count_for_nothing(archive, name, state):
    """Nothing of their packages is imported or run: the names need not even exist."""
    modules = set(sys.modules)
    more = call(*name.rsplit(".", 1), text("other.pt")) + state
    found = read_torch_file(archive(b"(" + text("a.weight") + tensor() + text("x") + more + b"d"))
    assert list(found.tensors) == ["a.weight"] and found.extras == {}
    assert set(sys.modules) == modules


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (call("somebody", "Net", b"") + b"}b", "found one object, perhaps a whole model (somebody.Net)"),
        (
            dictionary(model=call("somebody", "Net", b""), epoch=b"I3\n"),
            "found no tensors, only: model, epoch ('model' is an object, somebody.Net)",
        ),
        (b"(" + tensor() + b"l", "expected a state dict (names → tensors), found list"),
        (b"(" + text("a.w") + call("torch._utils", "_rebuild_qtensor", b"") + b"d", "a.w (torch._utils._rebuild_qt"),
        (b"(" + text("a.w") + tensor(storage="torch\nQInt8Storage") + b"d", "a.w (torch.QInt8Storage)"),
    ],
    ids=range(5),
)
def test_what_is_no_state_dict_says_what_to_save(archive, content, said):
    message = refusal(archive(content))
    assert said in message
    assert "load it with torch and save model.state_dict()" in message


def test_a_checkpoint_with_everything_that_people_save_is_read():
    """Written by torch: counters, scalars and arrays of numpy, namespaces, settings of omegaconf, an optimizer, …"""
    tensors, extras = read_torch_file(WRITTEN_BY_TORCH.with_name("torch_beside.pth"))
    assert list(tensors) == ["module.layer.weight", "module.layer.bias"]
    np.testing.assert_array_equal(tensors["module.layer.weight"], GRID)
    assert extras == {"mask_values": [0, 255], "note": "größer", "rng": ("MT19937",)}


def test_what_is_allowed_cannot_be_called_otherwise(archive):
    assert "cannot be called" in refusal(archive(dictionary(x=call("torch", "FloatStorage", b"I9\n"))))
    assert "not a storage" in refusal(archive(dictionary(x=text("/etc/hosts") + b"Q")))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": (3, 5)}, "reaches value 12 of a storage with 12"),
        ({"offset": 1}, "reaches value 12"),
        ({"strides": (5, 1)}, "reaches value 13"),
        ({"offset": -1}, "expected a storage and integers"),
        ({"strides": (-4, 1)}, "expected a storage and integers"),
        ({"strides": (1,)}, "with strides"),
        ({"size": 13}, "storage 0 has 48 bytes, not 13 values of float32"),
        ({"storage": "torch\nLongStorage"}, "48 bytes, not 12 values of int64"),
        ({"key": "1"}, "the entry hand/data/1 is missing"),
    ],
    ids=str,
)
def test_a_tensor_that_is_not_within_its_storage_is_refused(archive, changes, said):
    assert said in refusal(archive(dictionary(grid=tensor(**changes))))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tensor(), "expected a state dict (names → tensors), found ndarray"),
        (dictionary(epoch=b"I3\n"), "found no tensors, only: epoch"),
        (b"}", "found no tensors, only: nothing"),
        (b"}I1\n" + tensor() + b"s", "found no tensors, only: 1"),
        (b"(", "its pickle is damaged"),
        (b"", "its pickle is damaged"),
    ],
    ids=["a tensor", "no tensor", "empty", "a number for a name", "a mark", "nothing"],
)
def test_what_is_no_state_dict_is_refused(archive, content, said):
    assert said in refusal(archive(content))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"compression": zipfile.ZIP_DEFLATED}, "is compressed"),
        ({"byteorder": b"big"}, "expected little-endian"),
        ({"left_out": ("data.pkl",)}, "this is a zip archive without weights"),
        ({"constants.pkl": b""}, "a TorchScript program"),
        ({"left_out": ("data/0",)}, "hand/data/0 is missing"),
    ],
    ids=str,
)
def test_another_archive_is_refused(archive, settings, said):
    assert said in refusal(archive(dictionary(grid=tensor()), **settings))


def test_what_is_no_archive_is_refused_and_it_says_what_it_is(archive, tmp_path):
    path = archive(dictionary(grid=tensor()))
    content = path.read_bytes()
    for size in (1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        assert "truncated or damaged" in refusal(path) if size > 1 else "found text" in refusal(path)
    assert "cannot be read (No such file or directory)" in refusal(tmp_path / "none.pth")
    assert f"this is a folder: name the weights file in it, such as {tmp_path / 'hand.pth'}" in refusal(tmp_path)


@pytest.mark.parametrize("writer", ["ours", "torch"])
def test_no_flipped_bit_goes_unnoticed(tmp_path, writer):
    """Either the file is refused, or the bit stood where nothing is read, as in a date, and all tensors are right."""
    path = tmp_path / "w.pth"
    write_torch_file(path, {"grid": GRID, "half": TENSORS["float16"]})
    content, refused = (path if writer == "ours" else WRITTEN_BY_TORCH).read_bytes(), 0
    path.write_bytes(content)
    expected, places = read_torch_file(path).tensors, range(0, len(content), 7)
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << (7 - place % 8)
        # Beside it, for the arrays that are expected are views of the other.
        changed_path = tmp_path / "changed.pth"
        changed_path.write_bytes(changed)
        try:
            found = read_torch_file(changed_path).tensors
        except UserError:
            refused += 1
        else:
            assert found.keys() == expected.keys()
            for name, array in expected.items():
                assert_same(found[name], array)
    assert refused > len(places) // 4


def test_a_length_without_content_takes_no_memory(archive):
    """BINUNICODE8 of 2⁶² bytes, which are not there."""
    assert "its pickle is damaged" in refusal(archive(b"\x8d" + (1 << 62).to_bytes(8, "little") + b"x"))
