"""An upload of several images, and its answer: a stack of masks, or a volume of labels.

Letters: n images, h w rows and columns, c channels, k classes.
"""

import io
from typing import NamedTuple

import numpy as np

from seg.classes import ClassTable
from seg.data.images.nifti_file import read_header, volume_bytes
from seg.inference.mask_content import describe_bands, shown_labels
from seg.inference.mask_tiff import tiff_pages
from seg.pictures import as_picture, draw_overlay
from seg.serve.refusal import RefusedError

FORMATS = ("png", "tiff", "overlay", "npz")  # png and tiff are the masks as `seg infer` writes them

MEDIA_TYPES = {".nii": "application/octet-stream", ".nii.gz": "application/gzip", ".tif": "image/tiff"}
MEDIA_TYPES |= {".npz": "application/octet-stream"}


class StackDrawing(NamedTuple):
    """An answer to write.

    Attributes:
        format: one of `FORMATS`.
        suffix: of the masks: .tif, .nii or .nii.gz.
        labels: uint8[h, w] of each image; of overlapping classes uint8[h, w, k].
        images: [h, w, c] each as `Sample.image`, for an overlay.
        probabilities: float32[h, w, k] each, for arrays, if they were asked for.
        opacity: of the colours of an overlay, 0 to 1.
        shown_channels: of the images, as of `seg.pictures.as_picture`.
        volume: bytes of the NIfTI volume whose geometry the labels keep.
        slice_axis: of the volume.
    """

    format: str
    suffix: str
    labels: list[np.ndarray]
    images: list[np.ndarray]
    probabilities: list[np.ndarray]
    opacity: float
    shown_channels: tuple[int, ...]
    volume: bytes
    slice_axis: int

    @property
    def file_suffix(self) -> str:
        """The suffix of the answer."""
        return {"overlay": ".tif", "npz": ".npz"}.get(self.format, self.suffix)


def draw_stack(drawing: StackDrawing, classes: ClassTable) -> bytes:
    """Return the bytes of an answer; masks are, byte for byte, the file that `seg infer` writes."""
    file = io.BytesIO()
    shown, palette, dtype = shown_labels(classes, ())
    shape = len(drawing.labels), *drawing.labels[0].shape[:2]
    if drawing.format == "npz":
        if len({labels_hw.shape for labels_hw in drawing.labels}) > 1:
            text = "the images of the upload differ in size, so one array cannot hold them; ask for another format"
            raise RefusedError(422, text, "sizes_differ", param="format")
        arrays = {"labels": np.stack(drawing.labels), "names": np.array(classes.names)}
        if drawing.probabilities:
            arrays["probabilities"] = np.stack(drawing.probabilities).astype(np.float16)
        np.savez_compressed(file, **arrays)
    elif drawing.format == "overlay":
        with tiff_pages(file, shape, np.uint8) as append:
            for image_hwc, labels_hw in zip(drawing.images, drawing.labels, strict=True):
                picture_hwc = as_picture(image_hwc, drawing.shown_channels)
                append(draw_overlay(picture_hwc, labels_hw, classes, drawing.opacity))
    elif drawing.volume:
        header = read_header(io.BytesIO(drawing.volume))
        slices = np.stack([shown(labels_hw) for labels_hw in drawing.labels])
        return volume_bytes(header, slices, drawing.slice_axis, is_compressed=drawing.suffix == ".nii.gz")
    else:
        with tiff_pages(file, shape, dtype, palette, describe_bands(classes)) as append:
            for labels_hw in drawing.labels:
                append(shown(labels_hw))
    return file.getvalue()
