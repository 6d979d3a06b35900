"""The interface of a data set: random access to named samples, and the table of their classes."""

import abc
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from seg.classes import IGNORE_LABEL, ClassTable
from seg.config import DataConfig
from seg.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """An image with the class of each pixel."""

    # uint8[h, w, c], or float32[h, w, c] with 0 = black and 1 = white; three channels are red, green and blue
    image: np.ndarray
    # uint8[h, w], 0 … K-1, or 255 for an ignored pixel; of overlapping classes uint8[h, w, k], 0, 1 or 255
    mask: np.ndarray
    name: str  # of the sample in messages and pictures


class SegmentationDataset(abc.ABC):
    """Samples by index; `dataset[i]` is the same in every call, in any order, from any thread."""

    classes: ClassTable

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Return sample `index`.

        Raises:
            IndexError: index outside 0 … len-1.
            UserError: an unreadable file, named.
        """

    # The methods below have working defaults. A data set of files overrides them to avoid decoding images.

    @property
    def notes(self) -> list[str]:
        """What the settings leave out of the classes, a line each."""
        return []

    def name(self, index: int) -> str:
        """Return the name of sample `index`."""
        return read_checked(self, index).name

    def read_mask(self, index: int) -> np.ndarray:
        """Return the mask of sample `index`, see `Sample`."""
        return read_checked(self, index).mask

    def read_objects(self, index: int) -> np.ndarray | None:
        """Return int32[h, w], the numbers of the objects in the mask of sample `index`; None if it has none."""
        return None

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the image file and the mask files of sample `index`; generated data have none."""
        raise NotImplementedError

    def generated_from(self) -> dict[str, Any]:
        """Return the settings of generated samples, in JSON values; empty for files."""
        return {}

    def count_pixels(self, num_threads: int = 4) -> tuple[np.ndarray, np.ndarray]:
        """Read all masks and return the two counts behind median-frequency class weights, int64[k] each.

        The first has the pixels of each class, the second the labelled pixels of the images in which the class occurs.
        """
        num_classes = len(self.classes)
        counts_k = np.zeros(num_classes, np.int64)
        pixels_k = np.zeros(num_classes, np.int64)
        with ThreadPoolExecutor(num_threads) as pool:
            for mask_counts_k, labelled_k in pool.map(
                lambda i: count_labelled(self.read_mask(i), num_classes), range(len(self))
            ):
                counts_k += mask_counts_k
                pixels_k += np.where(mask_counts_k > 0, labelled_k, 0)
        return counts_k, pixels_k


def read_checked(dataset: SegmentationDataset, index: int, config: DataConfig | None = None) -> Sample:
    """Return `dataset[index]`, or refuse what is not as `Sample` and `config` promise, naming class and index."""
    sample, place = dataset[index], f"{type(dataset).__name__}[{index}]"
    if not isinstance(sample, Sample):
        raise UserError(f"{place}: expected a seg.Sample, found {type(sample).__name__}")
    if not isinstance(sample.name, str):
        raise UserError(f"{place}: expected its name as str, found {type(sample.name).__name__}")
    image_hwc, mask_hw = sample.image, sample.mask
    overlapping, k = dataset.classes.overlapping, len(dataset.classes)
    axes = ("h", "w", str(k)) if overlapping else ("h", "w")
    are_arrays = isinstance(image_hwc, np.ndarray) and isinstance(mask_hw, np.ndarray)
    precisions = ("uint8", "float32") if config is None else (config.precision,)
    if (
        not (are_arrays and image_hwc.dtype.name in precisions and mask_hw.dtype == np.uint8)
        or (mask_hw.ndim, image_hwc.ndim) != (len(axes), 3)
        or not image_hwc.size
        or image_hwc.shape[:2] != mask_hw.shape[:2]
        or mask_hw.shape[2:] != ((k,) if overlapping else ())
    ):
        expected = f"an image {' or '.join(precisions)}[h, w, c] and a mask uint8[{', '.join(axes)}]"
        raise UserError(f"{place}: expected {expected}, found {describe(image_hwc)} and {describe(mask_hw)}")
    if config and image_hwc.shape[2] != config.channels:
        remedy = f"set data.channels={image_hwc.shape[2]}"
        raise UserError(
            f"{place}: an image of {image_hwc.shape[2]} channels, data.channels is {config.channels}; {remedy}"
        )
    if image_hwc.dtype == np.float32 and not np.isfinite(image_hwc).all():
        raise UserError(f"{place}: an image with NaN or infinite values")
    num_labels = 2 if overlapping else k
    beyond_hw = (mask_hw >= num_labels) & (mask_hw != IGNORE_LABEL)
    if beyond_hw.any():
        expected = f"labels 0…{num_labels - 1}, or {IGNORE_LABEL} to ignore"
        raise UserError(f"{place}: expected {expected}, found {mask_hw[beyond_hw].min()}")
    return sample


def describe(value: Any) -> str:
    """Return dtype and shape of an array, or the name of another type."""
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") else type(value).__name__


def count_labelled(mask: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return int64[k] each, the pixels of each class in one mask, and the pixels that are not ignored for it."""
    if mask.ndim == 3:
        return (mask == 1).sum((0, 1)), (mask != IGNORE_LABEL).sum((0, 1))
    counts_k = np.bincount(mask.ravel(), minlength=IGNORE_LABEL + 1)[:num_classes]
    return counts_k, np.full(num_classes, counts_k.sum())
