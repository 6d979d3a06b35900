"""A data set of image and mask files."""

import logging
from pathlib import Path

import numpy as np

from seg.config import DataConfig
from seg.data.dataset import Sample, SegmentationDataset
from seg.data.image_file import read_image, read_mask
from seg.data.images.remarks import Remark, Remarks
from seg.data.masks.class_settings import build_label_map, notes_on_classes
from seg.data.masks.label_map import LabelMap, Reading
from seg.data.masks.mask import Mask
from seg.data.masks.object_numbers import read_numbers
from seg.data.pairing.pair import Pair
from seg.data.pairing.splits import Split, find_split
from seg.errors import UserError

log = logging.getLogger("seg")

MAX_LISTED = 5  # problems in an error message; the check command lists all


class ImageFolder(SegmentationDataset):
    """Image files with a mask file each; `seg.data.pairing.splits` describes the layouts.

    Masks hold class indices (grey, palette or 16-bit images), values that `data.value_map` translates, or the colours
    of the classes.
    """

    def __init__(self, pairs: list[Pair], label_map: LabelMap, config: DataConfig, remark: Remark):
        """Keep the files without opening them; `remark` is called with what is dropped from each."""
        self.pairs, self.label_map, self._config, self._remark = pairs, label_map, config, remark
        self.classes, self._colours = label_map.classes, {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        return self.read_sample(index)[0]

    def read_sample(self, index: int) -> tuple[Sample, Mask, Reading]:
        """Return sample `index`, the content of its mask file, and the labels read from it."""
        pair = self._pair(index)
        image_hwc = read_image(pair.image, self._config, self._remark, pair.page)
        mask, reading = self._read_mask(index)
        check_sizes(image_hwc, reading.labels, pair.image, pair.mask)
        return Sample(image_hwc, reading.labels, pair.name), mask, reading

    @property
    def notes(self) -> list[str]:
        """What the settings leave out of the classes, a line each."""
        return notes_on_classes(self.label_map.settings, self.label_map)

    def name(self, index: int) -> str:
        """Return the name of sample `index`."""
        return self._pair(index).name

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the files of sample `index`, the image first."""
        pair = self._pair(index)
        return pair.image, pair.mask

    def read_mask(self, index: int) -> np.ndarray:
        """Return uint8[h, w], the labels of sample `index`, without reading the image."""
        return self._read_mask(index)[1].labels

    def read_objects(self, index: int) -> np.ndarray | None:
        """Return int32[h, w], the numbers of the objects of sample `index`; None if the masks hold classes."""
        if self._config.masks != "objects":
            return None
        mask = self._read_file(index)
        return read_numbers(mask, self._config.ignore_value)[0]

    def _read_mask(self, index: int) -> tuple[Mask, Reading]:
        path, mask = self._pair(index).mask, self._read_file(index)
        reading = self.label_map.read(mask, path)
        if mask.palette is not None and reading.by == "value" and self._config.read_masks_by == "auto":
            self._compare_palette(mask, path)
        return mask, reading

    def _read_file(self, index: int) -> Mask:
        pair = self._pair(index)
        return read_mask(pair.mask, self._config, self._remark, pair.page)

    def _compare_palette(self, mask: Mask, path: Path) -> None:
        """Remark on an index that has different colours in two masks while no colours are stated."""
        for index, colour in zip(mask.used.tolist(), map(tuple, mask.shown_colours.tolist()), strict=True):
            before, file = self._colours.setdefault(index, (colour, path))
            if before != colour:
                text = f"index {index} of its palette is {colour}, and {before} in {file}; it is read by index"
                self._remark("palette", path, f"{text}. python -m seg.check suggests a setting")
                return

    def _pair(self, index: int) -> Pair:
        if not 0 <= index < len(self.pairs):
            raise IndexError(f"index {index} is outside the data set of {len(self.pairs)} samples")
        return self.pairs[index]


def open_image_folder(config: DataConfig, split: Split) -> ImageFolder:
    """Return the data set of a split of exclusive classes, or refuse it with the first of its problems."""
    return ImageFolder(find_usable(config, split), build_label_map(config), config, Remarks())


def find_usable(config: DataConfig, split: Split) -> list[Pair]:
    """Return the pairs of a split, or refuse it with the first of its problems."""
    search = find_split(config, split)
    if problems := search.problems:
        listed = "\n  ".join(problems[:MAX_LISTED])
        more = f"\n  … {len(problems)} in all; python -m seg.check lists them" if len(problems) > MAX_LISTED else ""
        raise UserError(f"data.root {config.root}, split {split!r}:\n  {listed}{more}")
    for text in search.remarks:
        log.warning("warning: %s", text)
    return search.pairs


def check_sizes(image_hwc: np.ndarray, mask_hw: np.ndarray, image: Path, mask: Path) -> None:
    """Refuse a mask of a different size than its image."""
    if image_hwc.shape[:2] != mask_hw.shape:
        sizes = ["×".join(str(n) for n in array.shape[:2]) for array in (image_hwc, mask_hw)]
        turned = mask_hw.shape == image_hwc.shape[1::-1]
        reason = ": one of them lacks its orientation tag, or has a wrong one" if turned else ""
        raise UserError(
            f"{mask}: the mask has {sizes[1]} pixels (height×width), its image {image} has {sizes[0]}{reason}"
        )
