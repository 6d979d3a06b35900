"""Finds the images and masks in a folder of which nothing is known, and the settings that read them."""

import dataclasses
import re
from pathlib import Path, PurePath

from seg.config import DataConfig
from seg.data.images.image_kind import describe_folder, find_images, is_junk
from seg.data.pairing.advice import MASK_WORD
from seg.data.pairing.name_affixes import suggest_affixes
from seg.data.pairing.splits import find_pairs, find_split
from seg.errors import UserError
from seg.untrusted import escaped

MASKS = re.compile(f"{MASK_WORD.pattern}|instance|object", re.IGNORECASE)
"""Pattern in the names of folders of masks."""

NUM_FOLDS = 5  # where the data set has no validation split
TEST_FRACTION = 0.15  # where it has no test split
MIN_TESTED = 20  # images from which on some are kept for a test


def find_data(root: Path) -> DataConfig:
    """Return the settings that pair the images of a folder with their masks and divide them into splits.

    Raises:
        UserError: no images, no masks, or folders that could be either.
    """
    if not root.is_dir():
        raise UserError(f"{root}: expected the folder of a data set, found none")
    train, val, test = (_find_split_folder(root, word) for word in ("train", "val", "test"))
    base = root / train if (root / train).is_dir() and _image_folders(root / train) else root
    images_dir, masks_dir = _find_folders(base)
    data = DataConfig(dataset="image_folder", root=str(root), images_dir=images_dir, masks_dir=masks_dir)
    data = dataclasses.replace(data, train_split=train, val_split=val, test_split=test)
    has_val, has_test = _has_split(data, val), _has_split(data, test)
    data = dataclasses.replace(data, num_folds=0 if has_val else NUM_FOLDS)
    data = _with_affixes(data, base)
    number = len(find_pairs(data, data.train_split, is_pool=True).pairs)
    return data if has_test or number < MIN_TESTED else dataclasses.replace(data, test_fraction=TEST_FRACTION)


def _find_split_folder(root: Path, word: str) -> str:
    """Return the name of the folder of a split, such as `training`; the word itself without one."""
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name.lower().startswith(word))
    return names[0] if names and word not in names else word


def _has_split(data: DataConfig, split: str) -> bool:
    root = Path(data.root)
    folders = root / split / data.images_dir, root / data.images_dir / split
    return any(path.is_dir() for path in folders) or (root / f"{split}.txt").is_file()


def _image_folders(base: Path) -> list[str]:
    """Return the names of the folders below `base` that hold images."""
    folders = sorted(path for path in base.iterdir() if path.is_dir() and not is_junk(path.name))
    return [path.name for path in folders if find_images(path)]


def _find_folders(base: Path) -> tuple[str, str]:
    """Return the folders of the images and of the masks below `base`; "." twice if both are in `base` itself."""
    names = _image_folders(base)
    masks = [name for name in names if MASKS.search(name)]
    images = [name for name in names if name not in masks]
    images = [name for name in images if name.lower() in ("images", "image")] or images
    if len(images) == len(masks) == 1:
        return images[0], masks[0]
    if not names and find_images(base):
        return ".", "."
    if not names:
        raise UserError(f"{base}: no image is in this folder; {describe_folder(base)}")
    listed = ", ".join(map(escaped, names))
    raise UserError(
        f"{base}: cannot say which of the folders {listed} holds the images and which the masks: expected one called "
        "images and one called masks, labels or instances. Or write a config with data.images_dir and data.masks_dir, "
        "and plan with --config"
    )


def _with_affixes(data: DataConfig, base: Path) -> DataConfig:
    """Return the settings with the prefixes and suffixes that pair the names, if equal names do not."""
    if data.images_dir != data.masks_dir:
        try:
            find_split(data, "train")
            return data
        except UserError as error:
            reason = error
    else:
        reason = UserError(f"{base}: images and masks lie in one folder, and nothing in their names tells them apart")
    images, masks = (
        [path.relative_to(base / name) for path in find_images(base / name)]
        for name in (data.images_dir, data.masks_dir)
    )
    if data.images_dir == data.masks_dir:
        masks = [path for path in images if MASKS.search(path.stem)]
        images = [path for path in images if path not in set(masks)]
    suggestion = suggest_affixes(list(map(PurePath, images)), list(map(PurePath, masks))) if images and masks else None
    if not suggestion:
        raise reason
    affixes = suggestion[0]
    names = ("image_prefix", "image_suffix", "mask_prefix", "mask_suffix")
    return dataclasses.replace(data, **dict(zip(names, (*affixes.image, *affixes.mask), strict=True)))
