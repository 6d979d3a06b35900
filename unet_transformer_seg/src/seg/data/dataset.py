"""The interface of a data set: random access to named samples, and the table of their classes."""

import abc
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from seg.classes import IGNORE_LABEL, ClassTable


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """An image with the class of each pixel.

    Attributes:
        image: uint8[h, w, 3], RGB.
        mask: uint8[h, w], 0 … K-1, or 255 for an ignored pixel.
        name: of the sample in messages and pictures.
    """

    image: np.ndarray
    mask: np.ndarray
    name: str


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
        return self[index].name

    def read_mask(self, index: int) -> np.ndarray:
        """Return uint8[h, w], the mask of sample `index`."""
        return self[index].mask

    def files(self, index: int) -> tuple[Path, Path]:
        """Return the image file and the mask file of sample `index`; generated data have none."""
        raise NotImplementedError

    def generated_from(self) -> dict[str, Any]:
        """Return the settings of generated samples, in JSON values; empty for files."""
        return {}

    def count_pixels(self, num_threads: int = 4) -> tuple[np.ndarray, np.ndarray]:
        """Read all masks and return the two counts behind median-frequency class weights.

        Returns:
            counts_k: int64[k], pixels of each class.
            pixels_k: int64[k], labelled pixels of the images in which the class occurs.
        """
        num_classes = len(self.classes)
        counts_k = np.zeros(num_classes, np.int64)
        pixels_k = np.zeros(num_classes, np.int64)
        with ThreadPoolExecutor(num_threads) as pool:
            for mask_counts_k in pool.map(lambda i: count_classes(self.read_mask(i), num_classes), range(len(self))):
                counts_k += mask_counts_k
                pixels_k += np.where(mask_counts_k > 0, mask_counts_k.sum(), 0)
        return counts_k, pixels_k


def count_classes(mask_hw: np.ndarray, num_classes: int) -> np.ndarray:
    """Return int64[k], the number of pixels of each class in one mask; ignored pixels are not counted."""
    return np.bincount(mask_hw.ravel(), minlength=IGNORE_LABEL + 1)[:num_classes]
