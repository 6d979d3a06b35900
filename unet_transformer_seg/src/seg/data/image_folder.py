"""A data set of image and mask files."""

from pathlib import Path

import numpy as np

from seg.config import DataConfig
from seg.data.class_settings import build_label_map
from seg.data.dataset import Sample, SegmentationDataset
from seg.data.image_file import read_image, read_mask
from seg.data.label_map import LabelMap, Reading
from seg.data.mask import Mask
from seg.data.pairs import Pair, find_pairs
from seg.errors import UserError

MAX_LISTED = 5
"""Problems that an error message lists; the check command lists all."""


class ImageFolder(SegmentationDataset):
    """Image files with a mask file each; see `seg.data.pairs` for how they are laid out.

    Masks hold class numbers (grey, palette or 16-bit images), other values that `data.value_map` translates, or
    the colours of the classes.
    """

    def __init__(self, config: DataConfig, split: str):
        """Find the files of a split; none is opened yet.

        Args:
            config: where the files are and what their values mean.
            split: folder name, or list file below the root.

        Raises:
            UserError: missing folders, lists, images or masks; stems that are not unique; no class names.
        """
        pairs, problems = find_pairs(config, split)
        if problems:
            listed = "\n  ".join(problems[:MAX_LISTED])
            more = f"\n  … {len(problems)} in all; python -m seg.check lists them" if len(problems) > MAX_LISTED else ""
            raise UserError(f"data.root {config.root}, split {split!r}:\n  {listed}{more}")
        self._init(pairs, build_label_map(config), config.max_pixels)

    def _init(self, pairs: list[Pair], label_map: LabelMap, max_pixels: int) -> None:
        self.pairs, self.label_map, self._max_pixels = pairs, label_map, max_pixels
        self.classes = label_map.classes

    @classmethod
    def of_pairs(cls, pairs: list[Pair], label_map: LabelMap, max_pixels: int) -> "ImageFolder":
        """Return a data set of the given files."""
        dataset = cls.__new__(cls)
        dataset._init(pairs, label_map, max_pixels)
        return dataset

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        return self.read_sample(index)[0]

    def read_sample(self, index: int) -> tuple[Sample, Mask, Reading]:
        """Return sample `index`, what its mask file holds, and how that was read."""
        pair = self._pair(index)
        image_hwc = read_image(pair.image, self._max_pixels)
        mask, reading = self._read_mask(index)
        check_sizes(image_hwc, reading.labels, pair.image, pair.mask)
        return Sample(image_hwc, reading.labels, pair.name), mask, reading

    def name(self, index: int) -> str:
        """Return what a message calls sample `index`."""
        return self._pair(index).name

    def read_mask(self, index: int) -> np.ndarray:
        """Return uint8[h, w], the labels of sample `index`, without reading the image."""
        return self._read_mask(index)[1].labels

    def _read_mask(self, index: int) -> tuple[Mask, Reading]:
        path = self._pair(index).mask
        mask = read_mask(path, self._max_pixels)
        return mask, self.label_map.read(mask, path)

    def _pair(self, index: int) -> Pair:
        if not 0 <= index < len(self.pairs):
            raise IndexError(f"the data set has {len(self.pairs)} samples, asked for index {index}")
        return self.pairs[index]


def check_sizes(image_hwc: np.ndarray, mask_hw: np.ndarray, image: Path, mask: Path) -> None:
    """Refuse a mask that is not as large as its image."""
    if image_hwc.shape[:2] != mask_hw.shape:
        sizes = ["×".join(str(n) for n in array.shape[:2]) for array in (image_hwc, mask_hw)]
        raise UserError(f"{mask}: the mask has {sizes[1]} pixels (height×width), its image {image} has {sizes[0]}")
