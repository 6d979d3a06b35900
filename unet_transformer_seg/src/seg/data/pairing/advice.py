"""Describes a data set with an unexpected layout, and suggests the settings that read it."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from seg.config import DataConfig
from seg.data.images.image_kind import describe_folder, find_images, find_unreadable, is_junk
from seg.data.pairing.name_affixes import Affixes, quoted, suggest_affixes
from seg.data.pairing.pair import Layout
from seg.errors import UserError
from seg.untrusted import escaped, shown

MASK_WORD = re.compile("mask|label|annot|truth|target|^gt|_gt|seg", re.IGNORECASE)

SPLIT_WORDS = {key: re.compile(key, re.IGNORECASE) for key in ("train", "val", "test")}
"""Split → pattern in the names of its folders: valid, validation, Train."""

MAX_TRIED = 2000  # images whose names are compared for a suggestion

LIST_PAIRS = "or list the pairs in a file (data.train_split=train.txt)"


def describe_no_match(layout: Layout, images: Sequence[Path], masks: Sequence[Path]) -> str:
    """Return the message about two folders in which no image has a mask."""
    first = escaped(images[0].relative_to(layout.images).as_posix())
    start = f"{layout.masks}: none of {len(images)} images, such as {first}, has a mask there"
    if not masks and layout.images == layout.masks:
        masks = find_images(layout.masks)
    if not masks:
        return f"{start}; {describe_folder(layout.masks)}{_unreadable(layout.masks)}"
    image_names = [file.relative_to(layout.images) for file in images[:MAX_TRIED]]
    mask_names = [file.relative_to(layout.masks) for file in masks]
    if suggestion := suggest_affixes(image_names, mask_names):
        affixes, count = suggestion
        return f"{start} by its name. Set {affixes.settings()}, and {count} of {len(image_names)} images have one"
    if layout.images == layout.masks:
        return (
            f"{start}, and nothing in the names distinguishes images from masks. Move the masks to a folder of their "
            f"own, name them x_mask.png and set data.mask_suffix=_mask, {LIST_PAIRS}"
        )
    return (
        f"{start}; the first of its {len(masks)} files is {escaped(mask_names[0].as_posix())}. "
        f"Give an image and its mask the same name, {LIST_PAIRS}"
    )


def describe_no_images(layout: Layout, affixes: Affixes) -> str:
    """Return the message about a folder without images."""
    named = f" named {escaped(affixes.image[0])}…{escaped(affixes.image[1])}" if affixes.image != ("", "") else ""
    split = f"the split {layout.prefix.rstrip('/')!r} is empty" if layout.prefix else "the folder is empty"
    contents = f"{describe_folder(layout.images)}{_unreadable(layout.images)}"
    return f"{layout.images}: {split}: it has no image{named}; {contents}"


def advise_masks_folder(layout: Layout) -> str:
    """Return the setting that names the masks' folder, if only one folder can be it."""
    if os.path.isdir(layout.masks):
        return ""
    masks, images = layout.masks, layout.images
    if layout.prefix and masks.parent != images.parent:  # <masks_dir>/<split>
        masks, images = masks.parent, images.parent
    others = [folder for folder in _folders(masks.parent) if folder != images and _holds_images(folder)]
    if len(others) != 1 or masks.name == others[0].name:
        return ""
    return f". Set data.masks_dir={quoted(others[0].name)}"


def describe_no_layout(config: DataConfig, root: Path, split: str) -> UserError:
    """Return the error for a missing split."""
    images = root / config.images_dir
    advice = _advise_other_split(config, root, split)
    if os.path.isdir(images) and not advice:
        fraction = "test_fraction" if split == config.test_split else "val_fraction"
        return UserError(
            f"{root}: nothing defines which files of {config.images_dir} are the split {shown(split)}. "
            f"Set data.{fraction}=0.2, or list them in {escaped(split)}.txt"
        )
    base = root / split if _folders(root / split) else root
    contents = describe_folder(root) if base == root else f"{describe_folder(root)}; {describe_folder(base)}"
    return UserError(
        f"{root}: the split {shown(split)} was not found. Looked for the folders "
        f"{escaped(split)}/{config.images_dir} and {config.images_dir}/{escaped(split)}, and for {config.images_dir} "
        f"with the list {escaped(split)}.txt; {contents}. Set {advice or _suggest_folders(config, base)}"
    )


def _advise_other_split(config: DataConfig, root: Path, split: str) -> str:
    """Return the setting for a split that is missing beside others: its folder's real name, or a fraction."""
    key = next((key for key in SPLIT_WORDS if getattr(config, f"{key}_split") == split), "train")
    stated = {config.train_split, config.val_split, config.test_split}
    below = [folder.name for folder in _folders(root / config.images_dir) if _holds_images(folder)]
    beside = [folder.name for folder in _folders(root) if os.path.isdir(folder / config.images_dir)]
    names = beside or below
    likely = [name for name in names if name not in stated and SPLIT_WORDS[key].search(name)]
    if len(likely) == 1:
        return f"data.{key}_split={quoted(likely[0])}"
    return f"data.{key}_fraction=0.2" if key != "train" and config.train_split in names else ""


def _suggest_folders(config: DataConfig, base: Path) -> str:
    """Return the settings that name the folders of images and masks, with values if these are clear."""
    folders = [folder.name for folder in _folders(base) if _holds_images(folder)]
    masks = [name for name in folders if name == config.masks_dir or MASK_WORD.search(name)]
    if len(folders) == 2 and len(masks) == 1:
        images = folders[1 - folders.index(masks[0])]
        return f"data.images_dir={quoted(images)} data.masks_dir={quoted(masks[0])}"
    if len(folders) == 1 or (not folders and _holds_images(base)):
        together = quoted(folders[0]) if folders else "."
        return f"data.images_dir={together} data.masks_dir={together}, if images and masks share a folder"
    return "data.images_dir, data.masks_dir and data.train_split, data.val_split, data.test_split."


def _unreadable(folder: Path) -> str:
    return "".join(f"; {text}" for text in find_unreadable(folder))


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(e for e in parent.iterdir() if e.is_dir() and not is_junk(e.name)) if parent.is_dir() else []
    except OSError:
        return []


def _holds_images(folder: Path) -> bool:
    try:
        return bool(find_images(folder))
    except UserError:
        return False
