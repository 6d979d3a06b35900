"""Small data sets of masks for tests, and the settings that a message suggests."""

import re

import numpy as np
from PIL import Image

from seg.config import Config, DataConfig
from seg.config.reader import override_config

SETTING = r"data\.(\w+): (\[\]|\{\}|\[.*?\](?!\s*[,\]])|\{.*?\}|[-\w]+)"
SUGGESTION = re.compile(rf"\b[Ss]et ({SETTING}(?: and {SETTING})*)")


def suggested(message):
    """Return the suggestions of a message, each a list of overrides as a command line takes them."""
    groups = [match.group(1) for match in SUGGESTION.finditer(message)]
    return [[f"data.{key}={value}" for key, value in re.findall(SETTING, group)] for group in groups]


def follow(config, overrides):
    """Return the section `data` with the overrides, checked as a command checks them."""
    return override_config(Config(data=config), overrides).data


def write_masks(root, split="train", **masks):
    """Write one image for each mask: an array, a Pillow image, or (image, suffix, options of `save`)."""
    for name, mask in masks.items():
        picture, suffix, options = mask if isinstance(mask, tuple) else (mask, "png", {})
        picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        for folder in ("images", "labels"):
            (root / split / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", picture.size).save(root / split / "images" / f"{name}.png")
        picture.save(root / split / "labels" / f"{name}.{suffix}", **options)


def config_for(root, names=("background", "car"), **settings):
    """Return the settings of the data set in `root`."""
    return DataConfig(dataset="image_folder", root=str(root), class_names=tuple(names), **settings)


def with_palette(positions_hw, *colours):
    """Return a picture of positions in a palette of just these colours."""
    picture = Image.fromarray(np.asarray(positions_hw, np.uint8))
    picture.putpalette([value for colour in colours for value in colour])
    return picture


def drawn(labels_hw, *values):
    """Return the value, or the colour, of each label."""
    dtype = np.uint16 if np.max(values) > 255 else np.uint8
    return np.array(values, dtype)[labels_hw]
