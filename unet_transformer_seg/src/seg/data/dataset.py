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
    """An image with the class of each of its pixels.

    Attributes:
        image: uint8[h, w, 3], RGB.
        mask: uint8[h, w], 0 … K-1, or 255 for a pixel that counts nowhere.
        name: what a message or a picture calls the sample.
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
            UserError: a file that cannot be read, naming it.
        """

    @property
    def notes(self) -> list[str]:
        """What the settings leave out of the classes, a line each."""
        return []

    def name(self, index: int) -> str:
        """Return what a message calls sample `index`; cheaper than the sample where samples are files."""
        return self[index].name

    def read_mask(self, index: int) -> np.ndarray:
        """Return uint8[h, w], the mask of sample `index`; cheaper than the sample where masks are files."""
        return self[index].mask

    def files(self, index: int) -> tuple[Path, Path]:
        """Return the files of the image and of the mask of sample `index`; generated data have none."""
        raise NotImplementedError

    def generated_from(self) -> dict[str, Any]:
        """Return the settings that decide what generated samples are, in JSON values; of files, nothing."""
        return {}

    def count_pixels(self, num_threads: int = 4) -> tuple[np.ndarray, np.ndarray]:
        """Read all masks and return the two counts that median-frequency class weights are made of.

        Returns:
            counts_k: int64[k], pixels of each class.
            pixels_k: int64[k], pixels (ignored ones left out) of those images in which the class occurs.
        """
        num_classes = len(self.classes)
        counts_k = np.zeros(num_classes, np.int64)
        pixels_k = np.zeros(num_classes, np.int64)
        with ThreadPoolExecutor(num_threads) as pool:
            for found_k in pool.map(lambda i: count_classes(self.read_mask(i), num_classes), range(len(self))):
                counts_k += found_k
                pixels_k += np.where(found_k > 0, found_k.sum(), 0)
        return counts_k, pixels_k


def count_classes(mask_hw: np.ndarray, num_classes: int) -> np.ndarray:
    """Return int64[k], the number of pixels of each class in one mask; ignored pixels are not counted."""
    return np.bincount(mask_hw.ravel(), minlength=IGNORE_LABEL + 1)[:num_classes]
