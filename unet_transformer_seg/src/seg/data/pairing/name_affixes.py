"""Matches the names of images and masks that have something before or behind the part that they share."""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from seg.config import DataConfig
from seg.data.images.image_kind import SUFFIXES
from seg.data.pairing.image_names import composed

MAX_TRIED = 5
"""Images for which affixes are tried, against at most `MAX_MASKS` masks each."""
MAX_MASKS = 500
MAX_COUNTED = 20
UNLIKELY = re.compile("colou?r|instance|overlay|preview", re.IGNORECASE)
"""In names of files that show masks, beside those that hold class numbers: a_gtFine_color.png."""
YAML_WORDS = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")


@dataclasses.dataclass(frozen=True)
class Affixes:
    """What stands before and behind the shared part of a name.

    Attributes:
        image: (before, behind) of an image's stem.
        mask: the same of a mask's.
    """

    image: tuple[str, str] = ("", "")
    mask: tuple[str, str] = ("", "")

    @classmethod
    def of_config(cls, config: DataConfig) -> "Affixes":
        """Return those that the settings state."""
        image = composed(config.image_prefix), _without_format(config.image_suffix)
        return cls(image, (composed(config.mask_prefix), _without_format(config.mask_suffix)))

    def settings(self) -> str:
        """Return what to type so that a config states them."""
        keys = ("image_prefix", "image_suffix", "mask_prefix", "mask_suffix")
        values = dict(zip(keys, (*self.image, *self.mask), strict=True))
        return " ".join(f"data.{key}={quoted(value)}" for key, value in values.items() if value)


def quoted(value: str) -> str:
    """Return a value as a shell and YAML take it for a text."""
    is_plain = re.fullmatch(r"[A-Za-z_][\w-]*", value, re.ASCII) and value.lower() not in YAML_WORDS
    return value if is_plain else f"'\"{value}\"'"


def key_of(path: PurePath, affixes: tuple[str, str]) -> str | None:
    """Return the shared part of a name, below its folders; None if it lacks an affix."""
    stem, (before, behind) = composed(path.stem), affixes
    if not (stem.startswith(before) and stem.endswith(behind) and len(stem) > len(before) + len(behind)):
        return None
    key = stem[len(before) : len(stem) - len(behind)]
    return composed(path.parent.as_posix()) + "/" + key if path.parent.parts else key


def suggest_affixes(images: Sequence[PurePath], masks: Sequence[PurePath]) -> tuple[Affixes, int] | None:
    """Return the affixes that give most images a mask, and how many; None if they give less than half of them one."""
    tried = Counter(
        candidate
        for image in images[:MAX_TRIED]
        for mask in [m for m in masks if m.parent == image.parent][:MAX_MASKS]
        for candidate in set(_candidates(composed(image.stem), composed(mask.stem)))
        if candidate != Affixes()
    )
    counted = [(_count_pairs(images, masks, affixes), affixes) for affixes, _ in tried.most_common(MAX_COUNTED)]
    if not counted:
        return None
    count, best = max(counted, key=lambda item: (item[0], _rank(item[1])))
    return (best, count) if 2 * count >= len(images) else None


def _candidates(image: str, mask: str) -> Iterable[Affixes]:
    """Yield affixes under which two stems are a pair."""
    if image in mask:
        before, _, behind = mask.partition(image)
        yield Affixes(mask=(before, behind))
    if mask in image:
        before, _, behind = image.partition(mask)
        yield Affixes(image=(before, behind))
    if shared := os.path.commonprefix([image, mask]):
        yield Affixes(("", image[len(shared) :]), ("", mask[len(shared) :]))
    if shared := os.path.commonprefix([image[::-1], mask[::-1]]):
        yield Affixes((image[: -len(shared)], ""), (mask[: -len(shared)], ""))


def _count_pairs(images: Sequence[PurePath], masks: Sequence[PurePath], affixes: Affixes) -> int:
    image_keys = {key_of(image, affixes.image) for image in images}
    return len((image_keys & {key_of(mask, affixes.mask) for mask in masks}) - {None})


def _without_format(suffix: str) -> str:
    """Return "_mask" of "_mask.png"."""
    ending = os.path.splitext(suffix)[1]
    return composed(suffix.removesuffix(ending) if ending.lower() in SUFFIXES else suffix)


def _rank(affixes: Affixes) -> tuple[bool, int, str]:
    """Return what is higher for affixes that are more likely to be meant: those of class numbers, short ones."""
    length = sum(map(len, (*affixes.image, *affixes.mask)))
    return not UNLIKELY.search("".join(affixes.mask)), -length, affixes.settings()
