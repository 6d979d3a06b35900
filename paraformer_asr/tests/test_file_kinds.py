"""What is said of a file that holds no weights of torch: one line, with what it is and what to do."""

import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest

from asr.errors import UserError
from asr.published.torch_file import read_torch_file


def zipped(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


def tarred():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("w.pth"))
    return buffer.getvalue()


def arrays():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


ONNX = b"\x08\x08\x12\x07pytorch\x1a\x052.0" + bytes(range(128, 256))
FILES = {
    "w.pth": [
        (b"", "the file is empty: copy or download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer: run git lfs pull"),
        (b"\n <!DOCTYPE html><html>", "a web page instead of the file: download the file through"),
        (b"<HTML><body>", "a web page"),
        (b"\xef\xbb\xbf<html>", "a web page"),
        (b"404: Not Found", "found text ('404: Not Found' …)"),
        (b"\x89HDF\r\n\x1a\n" + bytes(9), "an HDF5 file, as Keras writes: use the PyTorch weights"),
        (ONNX, "an ONNX model"),
        (gzip.compress(b"x"), "a gzip archive: unpack it"),
        (tarred(), "a tar archive: unpack it"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
        (b"\x80\x04\x95", "a pickle that torch.save did not write: load it with torch and save model.state_dict()"),
        (arrays(), "a numpy .npz"),
        (
            zipped("model/constants.pkl", "model/data.pkl", "model/code/x.py"),
            "a TorchScript program: load it",
        ),
        (zipped("metadata.json", "config.json", "model.weights.h5"), "a Keras model"),
        (zipped("weights/best.pth", "readme.txt"), "a zip archive that contains weights/best.pth: unpack it"),
        (zipped("a.txt"), "a zip archive without weights (a.txt …): unpack it"),
        (b"\xde\xad\xbe\xef" * 9, "found unknown content"),
    ],
    "w.onnx": [(b"\x0a\x01", "an ONNX model")],
    "w.pb": [(b"\x0a\x05input\x12\x80", "a TensorFlow graph")],
    "w.tflite": [(b"\x1c\0\0\0TFL3", "a TensorFlow Lite model")],
}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [pytest.param(name, *case, id=f"{name}: {case[1]}") for name, cases in FILES.items() for case in cases],
)
def test_a_file_of_another_kind_is_called_by_its_name(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_torch_file(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert said in message


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["saved_model.pb"], "a TensorFlow SavedModel"),
        ([".metadata", "__0_0.distcp"], "a sharded checkpoint"),
        (["model.ckpt-3.index"], "a TensorFlow checkpoint"),
        (["model.onnx"], "a folder with an ONNX model"),
        (["b.pth", "a.pth"], "a folder: name the weights file in it, such as {}/a.pth"),
        ([], "a folder without a weights file"),
    ],
    ids=str,
)
def test_a_folder_is_called_by_what_is_in_it(tmp_path, names, said):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(UserError) as error:
        read_torch_file(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}: this is {said.format(tmp_path)}")
