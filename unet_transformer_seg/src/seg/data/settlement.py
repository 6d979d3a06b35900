"""What the training images decide when a run starts: precision, range of values, mean and standard deviation.

The run keeps the outcome, so the model later gets images scaled as in training.
"""

import dataclasses
import logging
from collections.abc import Iterable

import numpy as np

from seg.config import DataConfig
from seg.config.schema import IMAGENET
from seg.data.dataset import SegmentationDataset, read_checked
from seg.data.image_file import read_depth, read_image
from seg.data.images.pixel_values import keep_values
from seg.data.images.remarks import Remark, Remarks
from seg.data.images.value_range import AUTO, choose_bits
from seg.data.pairing.pair import Pair
from seg.data.pairing.splits import find_split
from seg.errors import UserError

log = logging.getLogger("seg")

MAX_IMAGES = 64  # training images, evenly spread, whose values decide
MAX_PIXELS = 1 << 16  # pixels of an image that count in percentiles, evenly spread
SMALLEST_STD = 1e-6  # a channel that varies less is only shifted


def settle_images(config: DataConfig, train_set: SegmentationDataset | None = None) -> DataConfig:
    """Return the config with precision, ranges, mean and standard deviation as the training images need them.

    `train_set` takes the place of the data set that the config names. Images that cannot be read decide nothing: their
    errors are raised when they are read.
    """
    if config.normalise == "image" or config.range == "percentiles":
        config = dataclasses.replace(config, precision="float32")
    try:
        if train_set is not None:
            samples = [read_checked(train_set, index).image for index in _spread(range(len(train_set)))]
            is_float = any(image_hwc.dtype == np.float32 for image_hwc in samples)
            config = dataclasses.replace(config, precision="float32" if is_float else config.precision)
            return _settle_statistics(config, samples)
        if config.dataset == "image_folder":
            images = _spread(find_split(config, "train").pairs)
            config = _settle_range(config, images)
            return _settle_statistics(config, (read_image(pair.image, config, _QUIET, pair.page) for pair in images))
    except UserError:
        pass
    return _settle_statistics(config, ())


_QUIET: Remark = Remarks(lambda text: None)


def _spread(items) -> list:
    return list(items[:: max(1, len(items) // MAX_IMAGES)][:MAX_IMAGES])


def _settle_range(config: DataConfig, images: list[Pair]) -> DataConfig:
    """Return the config with float32, and with one range for the whole data set, if its images have more than 8 bits.

    Guessed for each file, the range would make a dark image as bright as the others.
    """
    if config.normalise == "image" and config.range == "file":
        return config  # nothing is clipped unless a range is stated
    if config.range == "percentiles":
        ranges = config.channel_ranges or _percentiles(config, images)
        return dataclasses.replace(config, channel_ranges=ranges)
    depths = [read_depth(pair.image, config, pair.page) for pair in images]
    if not any(depth.is_wide for depth in depths):
        return config
    config = dataclasses.replace(config, precision="float32")
    largest = [depth.largest for depth in depths if depth.largest is not None]
    if not largest or config.value_range != AUTO:
        return config
    white = float((1 << choose_bits(max(largest))) - 1)
    if white < 65535:  # fewer than 16 bits are a guess
        log.warning(
            "warning: data.value_range: the values of %d of %d training images reach %g and state no range; using "
            "[0, %g]. If white is another value, such as 65535, set data.value_range=[0,65535]",
            *(len(largest), len(images), max(largest), white),
        )
    return dataclasses.replace(config, value_range=(0.0, white))


def _percentiles(config: DataConfig, images: list[Pair]) -> tuple[tuple[float, float], ...]:
    """Return the percentiles of each channel over the images, with equally many pixels of each."""
    pixels = []
    for pair in images:
        values_nc = read_image(pair.image, config, _QUIET, pair.page, keep_values).reshape(-1, config.channels)
        pixels.append(values_nc[:: -(-len(values_nc) // MAX_PIXELS)])
    low_c, high_c = np.percentile(np.concatenate(pixels), config.percentiles, axis=0)
    return tuple((float(low), float(max(high, low + 1e-6))) for low, high in zip(low_c, high_c, strict=True))


def _settle_statistics(config: DataConfig, images: Iterable[np.ndarray]) -> DataConfig:
    """Return the config with mean and standard deviation of each channel: ImageNet's of three, else of the images."""
    if config.mean and config.std:
        return config
    if config.normalise == "image":
        zeros, ones = (0.0,) * config.channels, (1.0,) * config.channels
        return dataclasses.replace(config, mean=config.mean or zeros, std=config.std or ones)
    mean, std = IMAGENET if config.channels == 3 else _estimate(config, images)
    return dataclasses.replace(config, mean=config.mean or mean, std=config.std or std)


def _estimate(config: DataConfig, images: Iterable[np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    count, sum_c, squares_c = 0, np.zeros(config.channels), np.zeros(config.channels)
    for image_hwc in images:
        unit_nc = image_hwc.reshape(-1, config.channels) / (255.0 if image_hwc.dtype == np.uint8 else 1.0)
        count += len(unit_nc)
        sum_c += unit_nc.sum(0, dtype=np.float64)
        squares_c += np.square(unit_nc, dtype=np.float64).sum(0)
    if not count:
        return config.normalisation
    mean_c = sum_c / count
    std_c = np.sqrt(np.maximum(squares_c / count - np.square(mean_c), 0))
    std_c = np.where(std_c < SMALLEST_STD, 1.0, std_c)
    return tuple(float(f"{value:.6g}") for value in mean_c), tuple(float(f"{value:.6g}") for value in std_c)
