"""Uploads of several images, and of the kinds of files that science uses: answered as `seg infer` writes them."""

import gzip
import io

import numpy as np
import pytest
import tifffile

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from seg.config import DataConfig
from seg.inference.done_record import DoneRecord
from seg.inference.output import plan_jobs
from seg.inference.segment_files import Options, Outcome, segment_files
from seg.serve.refusal import RefusedError
from seg.serve.worker import Reading, decode

nibabel = pytest.importorskip("nibabel", reason="the extra `medical` is not installed")
pydicom = pytest.importorskip("pydicom", reason="the extra `medical` is not installed")

READING = Reading(DataConfig(), 0.01, 5)
SCIENCE = Reading(DataConfig(channels=1, precision="float32", value_range=(0, 255)), 0.01, 5)


def grey(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def volume_of(values, compress=False):
    content = nibabel.Nifti1Image(values, np.diag([0.5, 0.5, 2, 1])).to_bytes()
    return gzip.compress(content) if compress else content


def tiff_of(values, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def npy_of(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def dicom_of(values):
    dataset = pydicom.Dataset()
    dataset.Rows, dataset.Columns = values.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.NumberOfFrames = len(values) if values.ndim == 3 else 1
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelData = 7, values.tobytes() + bytes(values.size % 2)
    dataset.SOPClassUID, dataset.SOPInstanceUID = pydicom.uid.CTImageStorage, pydicom.uid.generate_uid()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return file.getvalue()


@pytest.mark.parametrize(
    "content, suffix",
    [
        (volume_of(np.moveaxis(grey(3, 9, 13), 0, 2)), ".nii"),
        (volume_of(np.moveaxis(grey(3, 9, 13), 0, 2), compress=True), ".nii.gz"),
        (tiff_of(grey(3, 9, 13), photometric="minisblack"), ".tif"),
        (dicom_of(grey(3, 9, 13)), ".tif"),
        (dicom_of(grey(3, 9, 13)[0]), ""),
        (npy_of(grey(3, 9, 13)[0]), ""),
        (npy_of(grey(3, 9, 13)[0].astype(np.uint16)), ""),
    ],
)
def test_each_kind_is_read_by_its_bytes(content, suffix):
    decoded = decode(content, SCIENCE)
    assert decoded.suffix == suffix and len(decoded.images) == (3 if suffix else 1)
    expected = grey(3, 9, 13)[: len(decoded.images), :, :, None] / np.float32(255)
    np.testing.assert_allclose(decoded.images, expected, atol=1e-6)


@pytest.mark.parametrize(
    "content, status, words",
    [
        (volume_of(grey(9, 13, 6)), 422, "6 images; this server takes up to 5"),
        (tiff_of(grey(6, 9, 13), photometric="minisblack"), 422, "6 images; this server takes up to 5"),
        (volume_of(grey(60, 60, 3)), 422, "3 images of 0.0108 megapixels together; this server takes up to 0.01"),
        (volume_of(grey(60, 60, 3), compress=True), 422, "this server takes up to 0.01 megapixels"),
        (volume_of(grey(9, 13, 3))[:-1], 422, "damaged"),
        (volume_of(grey(9, 13, 3), compress=True)[:-200], 422, "damaged"),
        (dicom_of(grey(3, 9, 13))[:-30], 422, "damaged"),
        (dicom_of(grey(3, 9, 13))[:200], 422, "image"),
        (npy_of(grey(9, 13))[:-1], 422, "damaged"),
        (npy_of(np.zeros((200, 200), np.uint8)), 422, "megapixels"),
        (gzip.compress(b"hello", mtime=0), 415, "gzip"),
        (gzip.compress(bytes(10 << 20)), 415, "gzip"),
    ],
)
def test_hostile_and_oversized_files_are_refused(content, status, words):
    with pytest.raises(RefusedError) as error:
        decode(content, READING)
    assert error.value.status == status and words in str(error.value)


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "s.tif"])
def test_the_answer_is_the_file_of_infer(client, predictor, tmp_path, name):
    values = grey(5, 40, 30)
    content = tiff_of(values, photometric="minisblack") if name[0] == "s" else volume_of(np.moveaxis(values, 0, 2))
    (tmp_path / name).write_bytes(gzip.compress(content) if name[-1] == "z" else content)
    (job,) = plan_jobs([tmp_path / name], tmp_path / "out")
    segment_files(predictor, [job], Options(), DoneRecord(tmp_path / "out", "model"), Outcome())
    answer = client.post("/v1/segment", files={"file": (tmp_path / name).read_bytes()})
    assert answer.status_code == 200, answer.text
    assert answer.content == job.mask.read_bytes() and answer.headers["x-images"] == "5"
    assert answer.headers["content-disposition"].endswith(f'mask{name[1:]}"')
    overlay = client.post("/v1/segment", content=(tmp_path / name).read_bytes(), params={"format": "overlay"})
    assert overlay.content == job.overlay.read_bytes() and overlay.headers["content-type"] == "image/tiff"
    arrays = client.post("/v1/segment?format=npz&probabilities=true", content=(tmp_path / name).read_bytes())
    arrays = np.load(io.BytesIO(arrays.content))
    assert arrays["labels"].shape == (5, 40, 30) and arrays["probabilities"].shape == (5, 40, 30, 3)
    refusal = client.post("/v1/segment?format=coco", content=(tmp_path / name).read_bytes())
    assert refusal.status_code == 400 and "5 images; expected one of png" in refusal.text
