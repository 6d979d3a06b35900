"""NIfTI volumes and DICOM images: values, slices, geometry, and what is refused."""

import gzip
import io
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from seg.classes import make_class_table
from seg.config import Config, DataConfig, ModelConfig
from seg.config.reader import override_config
from seg.data.image_file import read_image, read_mask
from seg.data.images import nifti_file
from seg.data.images.dicom_file import open_dicom
from seg.data.images.nifti_file import open_nifti, read_header, volume_bytes
from seg.errors import UserError
from seg.inference.done_record import DoneRecord
from seg.inference.output import plan_jobs
from seg.inference.predictor import Predictor
from seg.inference.segment_files import Options, Outcome, segment_files

nibabel = pytest.importorskip("nibabel", reason="the extra medical")
pydicom = pytest.importorskip("pydicom", reason="the extra medical")

OBLIQUE = np.array([[0.7, -0.2, 0.1, -30.0], [0.2, 0.8, -0.3, 12.0], [0.0, 0.3, 2.9, 7.5], [0, 0, 0, 1]])
PATIENT = "Doe^Jane"


def write_volume(path, values, *, slope=None, intercept=0.0, kind=nibabel.Nifti1Image, affine=OBLIQUE):
    image = kind(values, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = PATIENT.encode()
    if slope is not None:
        image.header.set_slope_inter(slope, intercept)
    content = bytearray(image.to_bytes())
    if slope is not None:  # nibabel writes the values that it would read: put the stored ones back
        content[-values.nbytes :] = values.tobytes(order="F")
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else content)
    return path


def read_pages(path, axis=2, max_pixels=10_000):
    with open(path, "rb") as file:
        volume = open_nifti(file, max_pixels, axis)
        return np.stack([volume.read(page) for page in range(len(volume.pages))]), volume.pages[0]


def draw(shape, dtype=np.int16):
    return np.random.default_rng(0).integers(-1000 if np.dtype(dtype).kind == "i" else 0, 200, shape).astype(dtype)


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_slices_of_a_volume_are_its_pages(tmp_path, name, axis):
    values = draw((5, 6, 7))
    pages_nhwc, page = read_pages(write_volume(tmp_path / name, values), axis)
    np.testing.assert_array_equal(pages_nhwc[..., 0], np.moveaxis(values, axis, 0))
    assert (page.height, page.width, page.channels, page.dtype) == (*pages_nhwc.shape[1:3], 1, np.int16)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_fourth_axis_holds_channels(tmp_path, kind):
    values = draw((5, 6, 7, 4), np.float32)
    pages_nhwc, page = read_pages(write_volume(tmp_path / "v.nii", values, kind=kind))
    np.testing.assert_array_equal(pages_nhwc, np.moveaxis(values, 2, 0))
    assert page.channels == 4 and page.dtype == np.float32


@pytest.mark.parametrize("slope, intercept, dtype", [(1.0, -1024.0, np.int32), (0.5, 3.0, np.float32)])
def test_values_are_scaled_as_nibabel_scales_them(tmp_path, slope, intercept, dtype):
    path = write_volume(tmp_path / "v.nii", draw((5, 6, 7)), slope=slope, intercept=intercept)
    pages_nhwc, page = read_pages(path)
    np.testing.assert_allclose(pages_nhwc[..., 0], np.moveaxis(nibabel.load(path).get_fdata(), 2, 0), rtol=1e-6)
    assert pages_nhwc.dtype == page.dtype == dtype


def test_a_window_of_a_slice_is_read(tmp_path):
    values = draw((9, 8, 3))
    with open(write_volume(tmp_path / "v.nii", values), "rb") as file:
        window = open_nifti(file, 10_000).read(1, np.s_[2:5, 4:8])
    np.testing.assert_array_equal(window[..., 0], values[2:5, 4:8, 1])


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("axis, shape", [(0, (5, 6, 7)), (2, (5, 6, 7, 4))])
def test_labels_have_the_geometry_of_their_volume_and_nothing_of_its_texts(tmp_path, name, kind, axis, shape):
    source = write_volume(tmp_path / name, draw(shape), kind=kind)
    labels_xyz = draw(shape[:3], np.uint8)
    with open(source, "rb") as file:
        header = read_header(file)
    content = volume_bytes(header, np.moveaxis(labels_xyz, axis, 0), axis, is_compressed=name[-1] == "z")
    (tmp_path / f"labels_{name}").write_bytes(content)
    one, other = nibabel.load(tmp_path / f"labels_{name}"), nibabel.load(source)
    assert type(one) is type(other) and one.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(one.dataobj), labels_xyz)
    np.testing.assert_array_equal(one.affine, other.affine)
    assert one.header.get_xyzt_units() == other.header.get_xyzt_units()
    assert one.header.get_zooms() == other.header.get_zooms()[:3]
    for field in ("qform_code", "sform_code"):
        assert one.header[field] == other.header[field]
    assert PATIENT.encode() not in one.to_bytes() and PATIENT.encode() in other.to_bytes()


def refusal(content, max_pixels=10_000, opener=open_nifti, tmp_path=None):
    path = tmp_path / "file"
    path.write_bytes(content)
    with open(path, "rb") as file, pytest.raises(UserError) as error:
        opener(file, max_pixels).read(0)
    assert PATIENT not in str(error.value)
    return str(error.value)


def test_volumes_that_lie_or_are_damaged_are_refused_before_they_are_decoded(tmp_path):
    content = write_volume(tmp_path / "v.nii", draw((5, 6, 7))).read_bytes()
    for broken in (content, gzip.compress(content)):
        assert "5×6×7 voxels are more" in refusal(broken, 29, tmp_path=tmp_path)
    huge = content[:40] + np.array([3, 32000, 32000, 32000], "<i2").tobytes() + content[48:]
    assert "32000×32000×32000" in refusal(huge, tmp_path=tmp_path)
    assert "32000×32000×32000" in refusal(gzip.compress(huge), tmp_path=tmp_path)
    many = content[:40] + np.array([3, 1, 1, 32000], "<i2").tobytes() + content[48:]
    assert "shorter than the" in refusal(many, tmp_path=tmp_path)
    for short in (content[:-1], gzip.compress(content[:-1])):
        assert "shorter than the 420 bytes" in refusal(short, tmp_path=tmp_path)
    assert "[x, y, z]" in refusal(
        content[:40] + np.array([3, 5, 0, 7], "<i2").tobytes() + content[48:], tmp_path=tmp_path
    )
    assert "NIfTI pair" in refusal(content[:344] + b"ni1\0" + content[348:], tmp_path=tmp_path)
    assert "not a NIfTI" in refusal(b"nothing of the kind", tmp_path=tmp_path)
    complex_values = content[:70] + np.array([32, 64], "<i2").tobytes() + content[74:]
    assert "complex64" in refusal(complex_values, tmp_path=tmp_path)


def dicom_bytes(values, *, syntax=pydicom.uid.ExplicitVRLittleEndian, photometric="MONOCHROME2", bits=12, **elements):
    dataset = pydicom.Dataset()
    dataset.PatientName, dataset.PatientID = PATIENT, "4711-Q"
    dataset.SOPClassUID, dataset.SOPInstanceUID = pydicom.uid.CTImageStorage, pydicom.uid.generate_uid()
    frames = values if values.ndim == 3 else values[None]
    dataset.Rows, dataset.Columns = frames.shape[1:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = values.dtype.itemsize * 8, bits, bits - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    if len(frames) > 1:
        dataset.NumberOfFrames = len(frames)
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.PixelData = values.tobytes()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return file.getvalue()


def read_dicom(tmp_path, content, page=0):
    (tmp_path / "x.dcm").write_bytes(content)
    with open(tmp_path / "x.dcm", "rb") as file:
        image = open_dicom(file, 10_000)
        return image.read(page), image.pages


def test_the_values_of_a_slice_are_rescaled(tmp_path):
    values = draw((6, 7), np.uint16)
    raw_hwc, (page,) = read_dicom(tmp_path, dicom_bytes(values))
    np.testing.assert_array_equal(raw_hwc[..., 0], values)
    assert (page.dtype, page.stated_bits, page.is_inverted) == (np.uint16, 12, False)
    content = dicom_bytes(values.astype(np.int16), RescaleSlope="1", RescaleIntercept="-1024")
    hounsfield_hwc, (page,) = read_dicom(tmp_path, content)
    np.testing.assert_array_equal(hounsfield_hwc[..., 0], values.astype(np.int32) - 1024)
    assert page.dtype == hounsfield_hwc.dtype == np.int32 and page.stated_bits == 0
    content = dicom_bytes(values, RescaleSlope="0.25", RescaleIntercept="1", photometric="MONOCHROME1")
    scaled_hwc, (page,) = read_dicom(tmp_path, content)
    np.testing.assert_array_equal(scaled_hwc[..., 0], values / 4 + 1)
    assert page.is_inverted and scaled_hwc.dtype == np.float32


def test_the_frames_of_a_file_are_its_pages(tmp_path):
    values = draw((3, 6, 7), np.uint16)
    content = dicom_bytes(values)
    for number in range(3):
        frame_hwc, pages = read_dicom(tmp_path, content, number)
        np.testing.assert_array_equal(frame_hwc[..., 0], values[number])
    assert len(pages) == 3


def test_dicom_files_that_lie_or_are_damaged_are_refused_without_naming_the_patient(tmp_path):
    content = dicom_bytes(draw((6, 7), np.uint16))
    assert "6×7 pixels are more" in refusal(content, 41, open_dicom, tmp_path)
    assert "damaged" in refusal(content[:-20], opener=open_dicom, tmp_path=tmp_path)
    assert "cut off" in refusal(content[:300], opener=open_dicom, tmp_path=tmp_path)
    assert "damaged" in refusal(b"nothing", opener=open_dicom, tmp_path=tmp_path)
    deflated = dicom_bytes(draw((6, 7), np.uint16)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    assert "deflated" in refusal(deflated, opener=open_dicom, tmp_path=tmp_path)
    lossless = dicom_bytes(draw((6, 7), np.uint16)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.57"[:20])
    refusal(lossless, opener=open_dicom, tmp_path=tmp_path)
    for field, value in (("Rows", 0), ("NumberOfFrames", 10**9), ("RescaleSlope", "1e400"), ("SamplesPerPixel", 2)):
        refusal(dicom_bytes(draw((6, 7), np.uint16), **{field: value}), opener=open_dicom, tmp_path=tmp_path)
    report = dicom_bytes(draw((6, 7), np.uint16))
    dataset = pydicom.dcmread(io.BytesIO(report))
    del dataset.Rows, dataset.PixelData
    file = io.BytesIO()
    dataset.save_as(file)
    assert "without pixels" in refusal(file.getvalue(), opener=open_dicom, tmp_path=tmp_path)


CLASSES = make_class_table(("dark", "light", "bright"))
CONFIG = Config(
    model=ModelConfig(num_classes=3),
    data=DataConfig(
        size=(16, 16), fit="crop", channels=1, precision="float32", value_range=(-1000.0, 200.0), max_pixels=20_000
    ),
)


def windows_forward(windows_bhwc):
    """Return probabilities that are highest for class 0, 1 or 2 by the value of the pixel."""
    distances = np.abs(windows_bhwc[..., :1] - np.array([0.1004, 0.5007, 0.9], np.float32))
    return (1 - distances) / (1 - distances).sum(-1, keepdims=True)


def infer(tmp_path, source, *settings, **options):
    predictor = Predictor(override_config(CONFIG, settings), CLASSES, None, windows_forward)
    jobs, outcome = plan_jobs([source], tmp_path / "out", predictor.config.data), Outcome()
    segment_files(predictor, jobs, Options(**options), DoneRecord(tmp_path / "out", str(options)), outcome)
    assert (
        DoneRecord(tmp_path / "out", str(options)).is_done(source, Options(**options).results(jobs[0]))
        == outcome.num_done
    )
    return outcome, jobs[0]


def expected_labels(values):
    return windows_forward(np.clip((values.astype(np.float32) + 1000) / 1200, 0, 1)[..., None]).argmax(-1)


@pytest.mark.parametrize("name, axis", [("a.b.nii", 2), ("v.nii.gz", 0)])
def test_a_volume_gives_a_volume_of_labels(tmp_path, name, axis):
    values = draw((20, 17, 30))
    source = write_volume(tmp_path / name, values)
    _, job = infer(tmp_path, source, f"data.slice_axis={axis}", probabilities=True)
    assert job.mask == tmp_path / "out" / name
    volume = nibabel.load(job.mask)
    np.testing.assert_array_equal(np.asarray(volume.dataobj), expected_labels(values))
    np.testing.assert_array_equal(volume.affine, nibabel.load(source).affine)
    slices = np.moveaxis(expected_labels(values), axis, 0)
    assert np.load(job.probabilities)["probabilities"].shape == (*slices.shape, 3)
    with tifffile.TiffFile(job.overlay) as file:
        assert [page.shape for page in file.pages] == [(*slices.shape[1:], 3)] * len(slices)


def test_values_of_classes_are_written_into_a_volume_and_colours_are_refused(tmp_path, capsys):
    values = draw((20, 17, 3))
    source = write_volume(tmp_path / "v.nii", values)
    _, job = infer(tmp_path, source, values=(0, 128, 300))
    volume = nibabel.load(job.mask)
    assert volume.get_data_dtype() == np.uint16
    np.testing.assert_array_equal(np.asarray(volume.dataobj), np.array([0, 128, 300])[expected_labels(values)])
    for options, words in (({"values": ((1, 2, 3),) * 3}, "--values"), ({"objects": True}, "--instances")):
        outcome, _ = infer(tmp_path, source, **options)
        assert outcome.num_bad == 1 and words in capsys.readouterr().err


def test_a_dicom_slice_gives_an_image_and_several_frames_a_stack(tmp_path):
    values = draw((3, 20, 17), np.uint16)
    elements = {"RescaleIntercept": "-1000"}
    for name, stored in (("one.dcm", values[0]), ("0017", values[0]), ("many.dcm", values)):
        (tmp_path / name).write_bytes(dicom_bytes(stored, **elements))
    for name, suffix in (("one.dcm", "one.png"), ("0017", "0017.png"), ("many.dcm", "many.tif")):
        _, job = infer(tmp_path, tmp_path / name)
        assert job.mask.name == suffix
        labels = tifffile.imread(job.mask) if suffix.endswith("tif") else np.array(Image.open(job.mask))
        stored = values if name == "many.dcm" else values[0]
        np.testing.assert_array_equal(labels, expected_labels(stored.astype(int) - 1000))


def test_a_stack_with_an_image_that_cannot_be_read_gives_nothing(tmp_path, capsys):
    content = dicom_bytes(draw((3, 20, 17), np.uint16))
    (tmp_path / "many.dcm").write_bytes(content[:-700])
    outcome, job = infer(tmp_path, tmp_path / "many.dcm")
    assert outcome.num_bad == 1 and not list((tmp_path / "out").glob("*[!l]"))
    message = capsys.readouterr().err
    assert f"{tmp_path / 'many.dcm'}: " in message.split("error: ")[1] and PATIENT not in message
    assert message.split("error: ")[1].count("many.dcm") == 1


def test_pages_of_different_sizes_give_masks_but_no_array_of_probabilities(tmp_path, capsys):
    source = tmp_path / "mixed.tif"
    pages = [draw(shape) for shape in ((20, 17), (9, 30), (33, 5))]
    with tifffile.TiffWriter(source) as file:
        for page in pages:
            file.write(page, metadata=None)
    _, job = infer(tmp_path, source)
    with tifffile.TiffFile(job.mask) as file:
        for page, mask in zip(pages, file.pages, strict=True):
            np.testing.assert_array_equal(mask.asarray(), expected_labels(page))
    outcome, _ = infer(tmp_path, source, probabilities=True)
    assert outcome.num_bad == 1 and "mixed.tif: its pages differ in size" in capsys.readouterr().err


def test_images_and_masks_of_one_slice_are_read(tmp_path):
    values = draw((9, 8, 1))
    path = write_volume(tmp_path / "v.nii", values)
    image_hwc = read_image(path, CONFIG.data)
    np.testing.assert_allclose(image_hwc[..., 0], np.clip((values[..., 0] + 1000) / 1200, 0, 1), atol=1e-6)
    labels = draw((9, 8, 4), np.uint8) % 3
    masks = write_volume(tmp_path / "m.nii.gz", labels)
    np.testing.assert_array_equal(read_mask(masks, CONFIG.data, page=3).values, labels[..., 3])
    with pytest.raises(UserError, match="m.nii.gz: 4 pages .* where one image was expected"):
        read_mask(masks, CONFIG.data)


def test_a_missing_package_is_named_with_the_line_to_type(tmp_path, monkeypatch):
    path = write_volume(tmp_path / "v.nii", draw((9, 8, 1)))
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(UserError, match=r'v.nii: .* pip install "unet-transformer-seg\[medical\]"'):
        read_image(path, CONFIG.data)


def test_a_compressed_volume_is_unpacked_once_for_its_slices(tmp_path, monkeypatch):
    path = write_volume(tmp_path / "v.nii.gz", draw((9, 8, 5)))
    unpacked = []
    decompressed = nifti_file._decompressed
    monkeypatch.setattr(nifti_file, "_decompressed", lambda file: unpacked.append(1) or decompressed(file))
    first = [read_image(path, CONFIG.data, page=page) for page in range(5)]
    assert len(unpacked) == 5 + 1  # each reads the header
    write_volume(path, draw((9, 8, 5)) + 100)
    assert not np.array_equal(read_image(path, CONFIG.data, page=0), first[0])
