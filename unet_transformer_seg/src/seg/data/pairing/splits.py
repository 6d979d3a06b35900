"""Divides the pairs of one folder into training, validation and test: by fractions or folds, whole groups at a time.

Which side a group falls on depends on its name, the names of the others, and `data.split_seed` alone: not on the
order of the files, nor on the file system, nor on the seed of the training.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from seg.config import DataConfig
from seg.data.pairing.group_pattern import find_groups
from seg.data.pairing.image_names import composed
from seg.data.pairing.pair import Search
from seg.data.pairing.pairs import find_pairs
from seg.errors import UserError
from seg.untrusted import escaped, shown

Split = Literal["train", "val", "test"]


def find_split(config: DataConfig, split: Split) -> Search:
    """Return the pairs of a split: its own folder's or list's, or its part of those in `train_split`.

    Raises:
        UserError: as `find_pairs`, and a part that would be empty.
    """
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


def _unused_splits(config: DataConfig, own: dict[str, float]) -> list[str]:
    """Return a remark for each split that has files of its own, and is drawn from the training images nevertheless."""
    root, remarks = Path(config.root), []
    for split in [split for split, share in own.items() if share]:
        name = getattr(config, f"{split}_split")
        places = root / name / config.images_dir, root / config.images_dir / name, root / f"{name}.txt"
        used = [place for place in places if place.exists()]
        if used and name != config.train_split:
            setting = "num_folds" if split == "val" and config.num_folds else f"{split}_fraction"
            remarks.append(
                f"{escaped(str(used[0]))} is not used, because data.{setting} draws the split {split!r} from the "
                f"images of {shown(config.train_split)}. To use it, set data.{setting}=0"
            )
    return remarks


def divide(groups: Sequence[str], config: DataConfig) -> dict[str, Split]:
    """Return the split of each group.

    The test part is taken first, and so is the same for all folds.

    Args:
        groups: the group of each image.
        config: `val_fraction` or `num_folds` and `fold`, `test_fraction`, `split_seed`.

    Raises:
        UserError: fewer groups than folds, or a part that would be empty.
    """
    sizes = Counter(groups)
    order = sorted(sizes, key=lambda group: (_draw(group, config.split_seed), group))
    test = _take(order, sizes, config.test_fraction, len(groups), "data.test_fraction")
    rest = order[len(test) :]
    if config.num_folds:
        val = _fold(rest, sizes, config)
    else:
        val = _take(rest, sizes, config.val_fraction, len(groups), "data.val_fraction")
    if len(test) + len(val) == len(order):
        raise UserError(
            f"data.val_fraction, data.test_fraction: of {_in_words(groups, sizes)} none is left for the training"
        )
    return dict.fromkeys(order, "train") | dict.fromkeys(test, "test") | dict.fromkeys(val, "val")


def _draw(group: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{group}".encode("utf-8", "surrogateescape")).digest()


def _take(order: list[str], sizes: Counter, fraction: float, total: int, key: str) -> list[str]:
    """Return the first groups, so many that their images come nearest to a fraction of all."""
    if not fraction:
        return []
    wanted = fraction * total
    if round(wanted) < 1 and total == 1:
        raise UserError(f"{key} {fraction:g}: 1 image cannot be divided; add images")
    if round(wanted) < 1:
        raise UserError(
            f"{key} {fraction:g} of {total} images is not even one; set {key}={_round_up(1 / total)} or more"
        )
    count, taken = 0, 0
    while count < len(order) and (count == 0 or abs(taken + sizes[order[count]] - wanted) < abs(taken - wanted)):
        taken += sizes[order[count]]
        count += 1
    return order[:count]


def _fold(order: list[str], sizes: Counter, config: DataConfig) -> list[str]:
    """Return the groups of the fold; each one goes to the fold that has fewest images so far."""
    if len(order) < config.num_folds:
        what = "groups" if config.group_pattern else "images"
        raise UserError(f"data.num_folds {config.num_folds}: there are {len(order)} {what}, fewer than folds")
    filled, folds = [0] * config.num_folds, [[] for _ in range(config.num_folds)]
    for group in order:
        smallest = filled.index(min(filled))
        filled[smallest] += sizes[group]
        folds[smallest].append(group)
    return folds[config.fold]


def _in_words(groups: Sequence[str], sizes: Counter) -> str:
    return f"{len(groups)} images" + (f" in {len(sizes)} groups" if len(sizes) < len(groups) else "")


def _round_up(share: float) -> float:
    return min(0.9, int(share * 1000 + 1) / 1000)
