"""Matches the images of one folder with the masks of another by the shared part of their names."""

import dataclasses
import difflib
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from seg.data.images.image_kind import SUFFIXES, composed, describe_folder, find_images, find_unreadable
from seg.data.pairing.advice import advise_masks_folder, describe_no_images, describe_no_match
from seg.data.pairing.list_file import Line
from seg.data.pairing.name_affixes import Affixes, key_of
from seg.data.pairing.pair import Layout, Pair, Search
from seg.errors import UserError
from seg.untrusted import escaped, folder_links, shown

MAX_LOOKED_UP = 5  # images without a mask for which the nearest name is looked up, among at most `MAX_NAMES`
MAX_NAMES = 5000
MAX_NAMED = 3


def match_folders(layout: Layout, affixes: Affixes, lines: Sequence[Line]) -> Search:
    """Return the pairs of two folders, of which at least one must match; `lines` are those of the layout's list."""
    search = Search()
    if not os.path.isdir(layout.masks) and _files_of_both(layout):
        layout = dataclasses.replace(layout, masks=layout.images)
    image_files, mask_files = list_files(layout, affixes)
    images = by_key(image_files, layout.images, affixes.image, search)
    masks = by_key(mask_files, layout.masks, affixes.mask, search)
    if not images:
        raise UserError(describe_no_images(layout, affixes))
    keys = listed_keys(layout, lines, images, search) if layout.stem_list else list(images)
    if keys and not masks.keys() & set(keys):
        raise UserError(describe_no_match(layout, [images[key] for key in keys], mask_files))
    for key in keys:
        if key in masks:
            name = images[key].relative_to(layout.images).with_suffix("").as_posix()
            search.pairs.append(Pair(layout.prefix + name, images[key], masks[key], key))
    _add_images_without_masks(
        layout, affixes, {key: images[key] for key in keys if key not in masks}, mask_files, search
    )
    if not layout.stem_list:
        remark_spare_files(layout, [file for key, file in masks.items() if key not in images], search)
    return search


def _files_of_both(layout: Layout) -> list[Path]:
    """Return the files of a folder of .npz files, which hold an image and its labels each; empty for other folders."""
    files = find_images(layout.images) if os.path.isdir(layout.images) else []
    return files if all(file.suffix.lower() == ".npz" for file in files) else []


def list_files(layout: Layout, affixes: Affixes) -> tuple[list[Path], list[Path]]:
    """Return the files of both folders; if one contains the other, each file is listed once."""
    if layout.masks == layout.images and (files := _files_of_both(layout)):
        return files, files
    for folder in (layout.images, layout.masks):
        if not os.path.isdir(folder):
            raise UserError(
                f"expected a folder {folder}; {describe_folder(folder.parent)}{advise_masks_folder(layout)}"
            )
    images, masks = find_images(layout.images), find_images(layout.masks)
    if os.path.samefile(layout.images, layout.masks):
        is_mask = {file: affixes.mask != ("", "") and bool(key_of(Path(file.name), affixes.mask)) for file in images}
        return [file for file in images if not is_mask[file]], [file for file in images if is_mask[file]]
    images = [file for file in images if layout.masks not in file.parents or layout.masks in layout.images.parents]
    return images, [
        file for file in masks if layout.images not in file.parents or layout.images in layout.masks.parents
    ]


def by_key(files: list[Path], folder: Path, affixes: tuple[str, str], search: Search) -> dict[str, Path]:
    """Return the files by the shared part of their names; a name that occurs twice is a problem."""
    grouped = defaultdict(list)
    for file in files:
        if (key := key_of(file.relative_to(folder), affixes)) is not None:
            grouped[key].append(file)
    for key, same in grouped.items():
        if len(same) > 1:
            names = ", ".join(escaped(file.name) for file in same)
            search.problems.append(f"{folder}: {len(same)} files of the stem {shown(key)}: {names}")
    return {key: same[0] for key, same in grouped.items()}


def listed_keys(layout: Layout, lines: Sequence[Line], images: dict[str, Path], search: Search) -> list[str]:
    """Return the keys of the images in a list; a line without an image is a problem."""
    by_stem = {composed(f.relative_to(layout.images).with_suffix("").as_posix()): key for key, f in images.items()}
    by_stem |= {key: key for key in images if key not in by_stem}
    keys, seen = [], {}
    for number, line in lines:
        stem = composed(line.strip('"').replace("\\", "/").removeprefix("./"))
        suffix = os.path.splitext(stem)[1]
        stem = stem.removesuffix(suffix) if suffix.lower() in SUFFIXES else stem
        stem = stem.removeprefix(f"{layout.images.as_posix()}/")
        key = by_stem.get(stem) or by_stem.get(stem.removeprefix(f"{layout.images.name}/"))
        if stem in seen:
            search.problems.append(f"{layout.stem_list}:{number}: {shown(stem)} is already in line {seen[stem]}")
        elif key is None:
            search.problems.append(f"{layout.stem_list}:{number}: no image {layout.images / escaped(stem)}.*")
        else:
            keys.append(key)
        seen.setdefault(stem, number)
    return keys


def _add_images_without_masks(
    layout: Layout, affixes: Affixes, without: dict[str, Path], mask_files: list[Path], search: Search
) -> None:
    """Add a problem for each image without a mask, for the first ones with the nearest name."""
    files = [file.relative_to(layout.masks) for file in mask_files[:MAX_NAMES]] if without else []
    names = {composed(file.with_suffix("").as_posix()): file.as_posix() for file in files}
    before, after = affixes.mask
    for number, (key, image) in enumerate(without.items()):
        folder, _, stem = key.rpartition("/")
        mask = layout.masks / folder / f"{before}{stem}{after}.*"
        near = difflib.get_close_matches(key, names, n=1) if number < MAX_LOOKED_UP else []
        hint = f"; the nearest name there is {escaped(names[near[0]])}" if near else ""
        search.problems.append(f"{image}: no mask {mask} beside it{hint}")


def remark_spare_files(layout: Layout, masks: list[Path], search: Search) -> None:
    """Remark on masks without an image, on unsupported image files, and on linked folders."""
    if masks:
        names = ", ".join(escaped(file.relative_to(layout.masks).as_posix()) for file in masks[:MAX_NAMED])
        search.remarks.append(
            f"{layout.masks}: {len(masks)} masks have no image: {names}{', …' * (len(masks) > MAX_NAMED)}"
        )
    search.remarks += find_unreadable(layout.images)
    for link in (link for folder in (layout.images, layout.masks) for link in folder_links(folder)):
        search.remarks.append(f"{escaped(str(link))}: a link to a folder is not searched; copy the folder itself there")
