"""Finds the pairs of a split: its own files, or a part of one folder by fractions or folds, keeping groups together.

The side of a group depends only on its name, the names of the other groups and `data.split_seed`: not on file order,
file system or the training seed.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from seg.config import DataConfig
from seg.config.rules import CLASS_PLACEHOLDER
from seg.data.images.image_kind import composed
from seg.data.masks.class_settings import class_names_of
from seg.data.pairing.advice import describe_no_layout
from seg.data.pairing.class_match import match_class_files
from seg.data.pairing.folder_match import match_folders
from seg.data.pairing.list_file import holds_pairs, listed_pairs, read_lines
from seg.data.pairing.name_affixes import Affixes
from seg.data.pairing.pages import divide_stacks
from seg.data.pairing.pair import Layout, Search
from seg.errors import UserError
from seg.untrusted import escaped, shown


def find_pairs(config: DataConfig, split: str, is_pool: bool = False) -> Search:
    """Return the pairs of a split, at least one.

    The first of these layouts that exists is used; folders are searched with their sub-folders:
      1. `split` names a list file: lines `image_path mask_path` relative to the root, or stems as in 4.
      2. `<root>/<split>/<images_dir>` with `<root>/<split>/<masks_dir>`; if `<root>/<split>.txt` exists, its
         stems restrict and order them.
      3. `<root>/<images_dir>/<split>` with `<root>/<masks_dir>/<split>`.
      4. `<root>/<images_dir>` with `<root>/<masks_dir>`, and the stems in `<root>/<split>.txt`.

    A `<root>/<split>.txt` that holds pairs of paths is a list as in 1.

    With `is_pool`, the split will be divided, so layout 4 needs no list.
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
    has_class_files = CLASS_PLACEHOLDER in "".join((config.masks_dir, config.mask_prefix, config.mask_suffix))
    if holds_pairs(root, lines) or (is_list and not os.path.isdir(root / config.images_dir)):
        if has_class_files:
            raise UserError(
                f"{list_file}: a list of pairs names one mask for each image, with a layer for each class; with "
                f"{CLASS_PLACEHOLDER} in the settings it lists the stems of images"
            )
        return listed_pairs(root, list_file, lines)
    layout = _find_layout(config, root, "" if is_list else split, list_file if has_list else None, is_pool)
    affixes = Affixes.of_config(config)
    if has_class_files:
        return match_class_files(layout, affixes, lines, class_names_of(config))
    return match_folders(layout, affixes, lines)


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


Split = Literal["train", "val", "test"]

MAX_SECONDS = 30
SEARCH_GROUPS = """
import json, re, sys
pattern, names = json.load(sys.stdin)
matches = map(re.compile(pattern).search, names)
json.dump([match and match[1] for match in matches], sys.stdout)
"""


def find_split(config: DataConfig, split: Split) -> Search:
    """Return the pairs of a split: those of its own folder or list, or its part of `train_split`."""
    return divide_stacks(_find_files(config, split), config)


def _find_files(config: DataConfig, split: Split) -> Search:
    own = {"val": config.val_fraction or config.num_folds, "test": config.test_fraction}
    if not any(own.values()) or (split in own and not own[split]):
        return find_pairs(config, getattr(config, f"{split}_split"))
    pool = find_pairs(config, config.train_split, is_pool=True)
    groups = find_groups([composed(pair.key) for pair in pool.pairs], config.group_pattern)
    parts = divide(groups, config)
    pairs = [pair for pair, group in zip(pool.pairs, groups, strict=True) if parts[group] == split]
    chosen = {group for group in groups if parts[group] == split}
    grouped = f", {len(chosen)} of {len(parts)} groups" if config.group_pattern else ""
    notes = [f"drawn from {len(pool.pairs)}{grouped}"]
    remarks = [*pool.remarks, *_unused_splits(config, own)] if split == "train" else []
    return Search(pairs, pool.problems, remarks, notes)


def find_groups(names: Sequence[str], pattern: str) -> list[str]:
    """Return the group of each name: that of `pattern`, searched anywhere in it; without a pattern, the name itself."""
    if not pattern or not names:
        return list(names)
    # Some patterns take practically for ever, and only a process of its own can be stopped.
    command = [sys.executable, "-I", "-S", "-c", SEARCH_GROUPS]
    question = json.dumps([pattern, names])
    try:
        answer = subprocess.run(
            command, input=question, capture_output=True, text=True, timeout=MAX_SECONDS, check=True
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"data.group_pattern {shown(pattern)}: it took more than {MAX_SECONDS} s for {len(names)} names; write it "
            "without nested repeats such as (a+)+"
        ) from None
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"data.group_pattern {shown(pattern)}: the search failed ({error})") from None
    groups = json.loads(answer.stdout)
    if missing := [name for name, group in zip(names, groups, strict=True) if group is None]:
        raise UserError(
            f"data.group_pattern {shown(pattern)}: it matches {len(names) - len(missing)} of {len(names)} names; "
            f"not, for example, {', '.join(map(shown, missing[:3]))}"
        )
    return groups


def divide(groups: Sequence[str], config: DataConfig) -> dict[str, Split]:
    """Return the split of each group, from the group of each image. The test part is taken first: folds share it."""
    sizes = Counter(groups)
    order = sorted(sizes, key=lambda group: (_draw(group, config.split_seed), group))
    test = _take(order, sizes, config.test_fraction, len(groups), "data.test_fraction")
    rest = order[len(test) :]
    if config.num_folds:
        val = _fold(rest, sizes, config)
    else:
        val = _take(rest, sizes, config.val_fraction, len(groups), "data.val_fraction")
    if len(test) + len(val) == len(order):
        in_groups = f" in {len(sizes)} groups" if len(sizes) < len(groups) else ""
        raise UserError(
            f"data.val_fraction, data.test_fraction: of {len(groups)} images{in_groups} none is left for training"
        )
    return dict.fromkeys(order, "train") | dict.fromkeys(test, "test") | dict.fromkeys(val, "val")


def _unused_splits(config: DataConfig, own: dict[str, float]) -> list[str]:
    """Return a remark for each split that has its own files although it is drawn from the training images."""
    root, remarks = Path(config.root), []
    for split in [split for split, share in own.items() if share]:
        name = getattr(config, f"{split}_split")
        places = root / name / config.images_dir, root / config.images_dir / name, root / f"{name}.txt"
        used = [place for place in places if place.exists()]
        if used and name != config.train_split:
            key = "num_folds" if split == "val" and config.num_folds else f"{split}_fraction"
            remarks.append(
                f"{escaped(str(used[0]))} is not used, because data.{key} draws the split {split!r} from the "
                f"images of {shown(config.train_split)}. To use it, set data.{key}=0"
            )
    return remarks


def _draw(group: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{group}".encode("utf-8", "surrogateescape")).digest()


def _take(order: list[str], sizes: Counter, fraction: float, total: int, key: str) -> list[str]:
    """Return the first groups, as many as bring their images closest to a fraction of all."""
    if not fraction:
        return []
    target = fraction * total
    if round(target) < 1 and total == 1:
        raise UserError(f"{key} {fraction:g}: 1 image cannot be divided; add images")
    if round(target) < 1:
        smallest = min(0.9, int(1000 / total + 1) / 1000)
        raise UserError(f"{key} {fraction:g} of {total} images is less than one; set {key}={smallest} or more")
    count, taken = 0, 0
    while count < len(order) and (count == 0 or abs(taken + sizes[order[count]] - target) < abs(taken - target)):
        taken += sizes[order[count]]
        count += 1
    return order[:count]


def _fold(order: list[str], sizes: Counter, config: DataConfig) -> list[str]:
    """Return the groups of the fold; each group goes to the fold with the fewest images so far."""
    if len(order) < config.num_folds:
        kind = "groups" if config.group_pattern else "images"
        raise UserError(f"data.num_folds {config.num_folds}: there are {len(order)} {kind}, fewer than folds")
    filled, folds = [0] * config.num_folds, [[] for _ in range(config.num_folds)]
    for group in order:
        smallest = filled.index(min(filled))
        filled[smallest] += sizes[group]
        folds[smallest].append(group)
    return folds[config.fold]
