"""Reads DICOM images: slices, and files of several frames as pages.

Values are rescaled as the file says, to Hounsfield units for CT. No window is applied: `data.value_range` sets black
and white. No element of the header appears in a message, as it may name a patient.
"""

import logging
import math
import warnings
from typing import Any, BinaryIO

import numpy as np

from seg.data.images.array_file import check_pixels
from seg.data.images.container import Page, Window
from seg.data.images.nifti_file import import_extra
from seg.errors import UserError

SUFFIXES = (".dcm", ".dicom")
MAGIC, MAGIC_PLACE = b"DICM", 128

MAX_FRAMES = 1 << 16
DEFLATED, HEAD_BYTES = b"1.2.840.10008.1.2.1.99", 4096  # transfer syntax, and the bytes that may state it

# pydicom warns with the values of elements.
warnings.filterwarnings("ignore", module=r"pydicom\.")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


class DicomFile:
    """An open file.

    Attributes:
        pages: its frames.
    """

    def __init__(self, dataset: Any, file: BinaryIO, max_pixels: int):
        """Check the sizes in the header; nothing is decoded."""
        self._dataset, self._file = dataset, file
        height, width = int(dataset.Rows), int(dataset.Columns)
        samples, frames = int(dataset.get("SamplesPerPixel", 1)), int(dataset.get("NumberOfFrames", 1) or 1)
        if not 1 <= frames <= MAX_FRAMES or min(height, width) < 1 or samples not in (1, 3):
            raise UserError(f"{frames} frames of {height}×{width} pixels and {samples} samples, which are not read")
        check_pixels(f"{height}×{width} pixels are more", height * width, max_pixels)
        kind = str(dataset.PhotometricInterpretation)
        self._is_palette = kind == "PALETTE COLOR"
        is_rgb = samples == 3 or self._is_palette
        slope, intercept = float(dataset.get("RescaleSlope", 1) or 1), float(dataset.get("RescaleIntercept", 0) or 0)
        self._scale = (1.0, 0.0) if is_rgb else (slope, intercept)
        if not all(map(math.isfinite, self._scale)):
            raise UserError("damaged: its rescale slope or intercept is no number")
        is_signed, bits = bool(dataset.get("PixelRepresentation", 0)), int(dataset.get("BitsAllocated", 8))
        stated = 0 if is_signed or self._scale != (1, 0) or is_rgb else int(dataset.get("BitsStored", bits))
        dtype = self._scaled(np.zeros(1, f"{'i' if is_signed else 'u'}{max(bits, 8) // 8}")).dtype
        self.pages = [
            Page(height, width, 3 if is_rgb else 1, dtype, stated, False, is_rgb, kind == "MONOCHROME1")
        ] * frames

    def read(self, page: int, window: Window | None = None) -> np.ndarray:
        """Return [h, w, c] of a frame or a window of it, rescaled."""
        pixels = import_extra("pydicom.pixels", "DICOM images")
        self._file.seek(0)
        try:
            values = pixels.pixel_array(self._file, index=page)
            if self._is_palette:
                values = (pixels.apply_color_lut(values, self._dataset) >> 8).astype(np.uint8)
        except (NotImplementedError, RuntimeError):
            raise UserError(_explain_codec(self._dataset.file_meta.TransferSyntaxUID)) from None
        except Exception as error:  # its text may quote the header
            raise UserError(f"its pixels are damaged ({type(error).__name__})") from None
        values_hwc = values if values.ndim == 3 else values[..., None]
        expected = self.pages[page]
        if values_hwc.shape != (expected.height, expected.width, expected.channels):
            raise UserError(f"damaged: its header states {expected.height}×{expected.width} pixels, it holds others")
        return self._scaled(values_hwc[window or ...])

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        """Return slope · values + intercept: unchanged, as int32 where these are whole, else float32."""
        slope, intercept = self._scale
        if self._scale == (1, 0):
            return values
        is_whole = slope.is_integer() and intercept.is_integer() and values.dtype.itemsize < 4
        return (values * np.float64(slope) + intercept).astype(np.int32 if is_whole else np.float32)


def open_dicom(file: BinaryIO, max_pixels: int) -> DicomFile:
    """Return an open DICOM file, its frames as pages.

    Raises:
        UserError: no pixels, more than `max_pixels` of them, or a missing package.
    """
    pydicom = import_extra("pydicom", "DICOM images")
    if DEFLATED in file.read(HEAD_BYTES):
        raise UserError("a deflated DICOM file, whose size is unknown until it is unpacked; save it uncompressed")
    file.seek(0)
    try:
        dataset = pydicom.dcmread(file, stop_before_pixels=True)
        return DicomFile(dataset, file, max_pixels)
    except UserError:
        raise
    except AttributeError:
        raise UserError("a DICOM file without pixels, such as a report, or one that was cut off") from None
    except Exception as error:  # its text may quote the header
        raise UserError(f"a damaged DICOM file ({type(error).__name__})") from None


def _explain_codec(uid: Any) -> str:
    name = getattr(uid, "name", "an unknown kind")
    needed = 'pip install "pylibjpeg[all]"'
    return f"its pixels are damaged, or compressed as {name}, which this machine cannot decode; {needed} may add it"
