"""Matches the images of a folder with a mask file for each class, where `{class}` in a setting is the class's name."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from seg.config.rules import CLASS_PLACEHOLDER
from seg.data.pairing.advice import describe_no_images
from seg.data.pairing.folder_match import by_key, list_files, listed_keys, remark_spare_files
from seg.data.pairing.list_file import Line
from seg.data.pairing.name_affixes import Affixes
from seg.data.pairing.pair import Layout, Pair, Search
from seg.errors import UserError
from seg.untrusted import escaped


def match_class_files(layout: Layout, affixes: Affixes, lines: Sequence[Line], names: Sequence[str]) -> Search:
    """Return the images with their masks; one may lack the masks of some classes, but not of all.

    Args:
        layout: folders of images and masks.
        affixes: of the names.
        lines: of the layout's list.
        names: of the classes, which take the place of `{class}` in the folder of the masks and in their affixes.
    """
    search = Search()
    layouts, all_affixes = zip(*(_of_class(layout, affixes, name) for name in names), strict=True)
    listed = [list_files(own, own_affixes) for own, own_affixes in zip(layouts, all_affixes, strict=True)]
    # Where images and masks share a folder, a mask of one class is no image for another.
    masks_of_all = {file for _, masks in listed for file in masks}
    images = by_key([f for f in listed[0][0] if f not in masks_of_all], layout.images, affixes.image, search)
    if not images:
        raise UserError(describe_no_images(layout, affixes))
    masks = [
        by_key(files, own.masks, own_affixes.mask, search)
        for (_, files), own, own_affixes in zip(listed, layouts, all_affixes, strict=True)
    ]
    keys = listed_keys(layout, lines, images, search) if layout.stem_list else list(images)
    for key in keys:
        files = tuple(masks_of_class.get(key) for masks_of_class in masks)
        if present := [file for file in files if file]:
            name = images[key].relative_to(layout.images).with_suffix("").as_posix()
            search.pairs.append(Pair(layout.prefix + name, images[key], present[0], key, class_masks=files))
        else:
            before, after = all_affixes[0].mask
            expected = layouts[0].masks / f"{before}{key}{after}.*"
            search.problems.append(f"{images[key]}: no mask of any class, such as {escaped(str(expected))}")
    _note_absent(search, names, layouts)
    if not layout.stem_list:
        for own, masks_of_class in zip(layouts, masks, strict=True):
            remark_spare_files(own, [file for key, file in masks_of_class.items() if key not in images], search)
    return search


def _of_class(layout: Layout, affixes: Affixes, name: str) -> tuple[Layout, Affixes]:
    """Return the folders and affixes of one class."""
    if "/" in name or "\\" in name or name in (".", ".."):
        raise UserError(f"data.class_names: {name!r:.80} is no name of a folder or file, which {{class}} stands for")
    masks = Path(str(layout.masks).replace(CLASS_PLACEHOLDER, name))
    before, after = (affix.replace(CLASS_PLACEHOLDER, name) for affix in affixes.mask)
    return dataclasses.replace(layout, masks=masks), Affixes(affixes.image, (before, after))


def _note_absent(search: Search, names: Sequence[str], layouts: Sequence[Layout]) -> None:
    """Note the classes that some images have no mask of, and remark on those without any."""
    for k, name in enumerate(names):
        absent = sum(pair.class_masks[k] is None for pair in search.pairs)
        if absent and absent == len(search.pairs):
            search.remarks.append(f"{layouts[k].masks}: no image has a mask of {name}, so the class is nowhere")
        elif absent:
            search.notes.append(f"{absent} images have no mask of {name}, so it is not in them")
