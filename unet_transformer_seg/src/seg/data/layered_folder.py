"""A data set of image files whose classes overlap: a mask file for each class, or one with a layer for each."""

from pathlib import Path

import numpy as np

from seg.config import DataConfig
from seg.data.dataset import Sample
from seg.data.image_file import read_image
from seg.data.image_folder import ImageFolder, check_sizes
from seg.data.images.remarks import Remark
from seg.data.masks.class_settings import class_names_of, overlapping_classes
from seg.data.masks.layers import read_class_file, read_layers
from seg.data.pairing.pair import Pair
from seg.errors import UserError


def is_layered(config: DataConfig, labels: str) -> bool:
    """Return whether the masks have a layer for each class; `labels` is `model.labels`."""
    # A single class is a yes or no at each pixel: what is not named is the background.
    return labels == "overlapping" or len(class_names_of(config)) == 1


class LayeredFolder(ImageFolder):
    """Image files with masks of 0, 1 and 255 for each class; of a single class, one file with that.

    A class without a file of an image is nowhere in it.
    """

    def __init__(self, pairs: list[Pair], config: DataConfig, remark: Remark):
        """Keep the files without opening them; `remark` is called with what is dropped from each."""
        self.pairs, self.label_map, self._config, self._remark = pairs, None, config, remark
        self.classes = overlapping_classes(config)

    def __getitem__(self, index: int) -> Sample:
        pair = self._pair(index)
        image_hwc = read_image(pair.image, self._config, self._remark, pair.page)
        mask_hwk = self.read_mask(index)
        check_sizes(image_hwc, mask_hwk[..., 0], pair.image, pair.mask)
        return Sample(image_hwc, mask_hwk, pair.name)

    @property
    def notes(self) -> list[str]:
        """Nothing: every class has masks."""
        return []

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the files of sample `index`, the image first."""
        pair = self._pair(index)
        return pair.image, *(file for file in pair.class_masks or (pair.mask,) if file)

    def read_mask(self, index: int) -> np.ndarray:
        """Return uint8[h, w, k], the labels of sample `index`, without reading the image."""
        pair, names = self._pair(index), self.classes.names
        if not pair.class_masks and len(names) > 1:
            return read_layers(pair.mask, names, self._config, self._remark)
        files = pair.class_masks or (pair.mask,)
        layers = {file: read_class_file(file, self._config, self._remark, pair.page) for file in files if file}
        first_hw = layers[pair.mask]
        for file, layer_hw in layers.items():
            if layer_hw.shape != first_hw.shape:
                raise UserError(
                    f"{file}: {layer_hw.shape[0]}×{layer_hw.shape[1]} pixels (height×width), {pair.mask} has "
                    f"{first_hw.shape[0]}×{first_hw.shape[1]}; the masks of an image have one size"
                )
        return np.stack([layers[file] if file else np.zeros_like(first_hw) for file in files], axis=-1)
