"""Matches names of images and masks that have prefixes or suffixes around a shared part."""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from seg.config import DataConfig
from seg.data.images.image_kind import SUFFIXES, composed, stem_of

MAX_TRIED = 5  # images for which affixes are tried, against at most `MAX_MASKS` masks each
MAX_MASKS = 500
MAX_COUNTED = 20
UNLIKELY = re.compile("colou?r|instance|overlay|preview", re.IGNORECASE)
"""In names of pictures of masks beside those with class indices: a_gtFine_color.png."""
YAML_WORDS = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")


@dataclasses.dataclass(frozen=True)
class Affixes:
    """Prefix and suffix around the shared part of a name."""

    image: tuple[str, str] = ("", "")  # (prefix, suffix) of an image's stem
    mask: tuple[str, str] = ("", "")  # those of a mask's stem

    @classmethod
    def of_config(cls, config: DataConfig) -> "Affixes":
        """Return the affixes of the settings."""
        image = composed(config.image_prefix), _without_format(config.image_suffix)
        return cls(image, (composed(config.mask_prefix), _without_format(config.mask_suffix)))

    def settings(self) -> str:
        """Return the settings to type for these affixes."""
        keys = ("image_prefix", "image_suffix", "mask_prefix", "mask_suffix")
        values = dict(zip(keys, (*self.image, *self.mask), strict=True))
        return " ".join(f"data.{key}={quoted(value)}" for key, value in values.items() if value)


def quoted(value: str) -> str:
    """Return a value quoted so that the shell and YAML read it as a string."""
    is_plain = re.fullmatch(r"[A-Za-z_][\w-]*", value, re.ASCII) and value.lower() not in YAML_WORDS
    return value if is_plain else f"'\"{value}\"'"


def key_of(path: PurePath, affixes: tuple[str, str]) -> str | None:
    """Return the shared part of a name, with its folders; None if it lacks an affix."""
    stem, (before, after) = composed(stem_of(path)), affixes
    if not (stem.startswith(before) and stem.endswith(after) and len(stem) > len(before) + len(after)):
        return None
    key = stem[len(before) : len(stem) - len(after)]
    return composed(path.parent.as_posix()) + "/" + key if path.parent.parts else key


def suggest_affixes(images: Sequence[PurePath], masks: Sequence[PurePath]) -> tuple[Affixes, int] | None:
    """Return the affixes that pair most images, and how many; None if these are less than half."""
    tried = Counter(
        candidate
        for image in images[:MAX_TRIED]
        for mask in [m for m in masks if m.parent == image.parent][:MAX_MASKS]
        for candidate in set(_candidates(composed(stem_of(image)), composed(stem_of(mask))))
        if candidate != Affixes()
    )
    counted = []
    for affixes, _ in tried.most_common(MAX_COUNTED):
        image_keys = {key_of(image, affixes.image) for image in images}
        mask_keys = {key_of(mask, affixes.mask) for mask in masks}
        counted.append((len((image_keys & mask_keys) - {None}), affixes))
    if not counted:
        return None
    count, best = max(counted, key=lambda item: (item[0], _rank(item[1])))
    return (best, count) if 2 * count >= len(images) else None


def _candidates(image: str, mask: str) -> Iterable[Affixes]:
    """Yield affixes with which two stems are a pair."""
    if image in mask:
        before, _, after = mask.partition(image)
        yield Affixes(mask=(before, after))
    if mask in image:
        before, _, after = image.partition(mask)
        yield Affixes(image=(before, after))
    if shared := os.path.commonprefix([image, mask]):
        yield Affixes(("", image[len(shared) :]), ("", mask[len(shared) :]))
    if shared := os.path.commonprefix([image[::-1], mask[::-1]]):
        yield Affixes((image[: -len(shared)], ""), (mask[: -len(shared)], ""))


def _without_format(suffix: str) -> str:
    """Return "_mask" of "_mask.png"."""
    ending = os.path.splitext(suffix)[1]
    return composed(suffix.removesuffix(ending) if ending.lower() in SUFFIXES else suffix)


def _rank(affixes: Affixes) -> tuple[bool, int, str]:
    """Return a rank that is higher for likelier affixes: those of class indices, short ones."""
    length = sum(map(len, (*affixes.image, *affixes.mask)))
    return not UNLIKELY.search("".join(affixes.mask)), -length, affixes.settings()
