"""Finds the files of a split and pairs images with masks."""

import os
from pathlib import Path

from seg.config import DataConfig
from seg.data.pairing.advice import describe_no_layout
from seg.data.pairing.folder_match import match_folders
from seg.data.pairing.list_file import holds_pairs, listed_pairs, read_lines
from seg.data.pairing.name_affixes import Affixes
from seg.data.pairing.pair import Layout, Search
from seg.errors import UserError


def find_pairs(config: DataConfig, split: str, is_pool: bool = False) -> Search:
    """Return the pairs of a split.

    The first of these layouts that exists is used; folders are searched with their sub-folders:
      1. `split` names a list file: lines `image_path mask_path` relative to the root, or stems as in 4.
      2. `<root>/<split>/<images_dir>` with `<root>/<split>/<masks_dir>`; if `<root>/<split>.txt` exists, its
         stems restrict and order them.
      3. `<root>/<images_dir>/<split>` with `<root>/<masks_dir>/<split>`.
      4. `<root>/<images_dir>` with `<root>/<masks_dir>`, and the stems in `<root>/<split>.txt`.

    A `<root>/<split>.txt` that holds pairs of paths is a list as in 1.

    With `is_pool`, the split will be divided, so layout 4 needs no list.

    Raises:
        UserError: none of these exists, or it has no image, or no image has a mask.
    """
    root = Path(config.root)
    if not os.path.isdir(root):  # pathlib's own raises on an impossible name
        raise UserError(f"data.root: expected the folder of the data set, found no folder {root}")
    is_list = split.endswith(".txt") or os.path.isfile(root / split)
    list_file = root / (split if is_list else f"{split}.txt")
    has_list = is_list or os.path.isfile(list_file)
    lines = read_lines(list_file) if has_list else []
    if has_list and not lines:
        raise UserError(f"{list_file}: the split {split!r} is empty")
    if holds_pairs(root, lines) or (is_list and not os.path.isdir(root / config.images_dir)):
        return listed_pairs(root, list_file, lines)
    layout = _find_layout(config, root, "" if is_list else split, list_file if has_list else None, is_pool)
    return match_folders(layout, Affixes.of_config(config), lines)


def _find_layout(config: DataConfig, root: Path, split: str, stem_list: Path | None, is_pool: bool) -> Layout:
    """Return the folders of a split that is not a list of pairs."""
    if split and os.path.isdir(root / split / config.images_dir):
        base = root / split
        return Layout(base / config.images_dir, base / config.masks_dir, f"{split}/", stem_list)
    images, masks = root / config.images_dir, root / config.masks_dir
    if split and not stem_list and os.path.isdir(images / split):
        return Layout(images / split, masks / split, f"{split}/")
    if os.path.isdir(images) and (stem_list or is_pool):
        return Layout(images, masks, stem_list=stem_list)
    raise describe_no_layout(config, root, split)
