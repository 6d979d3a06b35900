"""Settles one range of values for a whole data set, so that a dark image of it stays dark."""

import dataclasses
import logging
from pathlib import Path

from seg.config import DataConfig
from seg.data.image_file import read_largest_value
from seg.data.images.value_range import AUTO, choose_bits
from seg.data.pairing.splits import find_split
from seg.errors import UserError

log = logging.getLogger("seg")

MAX_IMAGES = 64
"""Training images that are looked at, evenly spread."""


def settle_value_range(config: DataConfig) -> DataConfig:
    """Return the config with the range of values of its training images, where they do not state it themselves.

    File by file the range would be guessed anew, and a dark image would come out as bright as the others. The
    run keeps the range, and so the model is given later images as it was given these.
    """
    if config.dataset != "image_folder" or config.value_range != AUTO:
        return config
    pairs = find_split(config, "train").pairs
    images = [pair.image for pair in pairs[:: max(1, len(pairs) // MAX_IMAGES)]][:MAX_IMAGES]
    try:
        largest = [read_largest_value(image, config.max_pixels) for image in images]
    except UserError:  # told when the image is read
        return config
    wide = [value for value in largest if value is not None]
    if not wide:
        return config
    white = float((1 << choose_bits(max(wide))) - 1)
    if white < 65535:  # otherwise it is no guess
        _warn(wide, images, white)
    return dataclasses.replace(config, value_range=(0.0, white))


def _warn(wide: list[float], images: list[Path], white: float) -> None:
    log.warning(
        "warning: data.value_range: the values of %d of %d training images reach %g and state no range; "
        "[0, %g] is used. If white is another value, 65535 for example, set data.value_range=[0,65535]",
        len(wide),
        len(images),
        max(wide),
        white,
    )
