"""An image with its mask, and the result of a search for such pairs."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Pair:
    """The files of one sample, or the place of its image and mask in files of several."""

    name: str  # the image's path below the root, without suffix
    image: Path  # its file
    mask: Path  # its mask's file
    key: str  # the part of the names that image and mask share, below their folders; for a list, `name`
    page: int | None = None  # number of the image in a file of several, from 0
    # A file of each class, None where it has none, and `mask` the first of them; empty if `mask` holds all classes
    class_masks: tuple[Path | None, ...] = ()


@dataclasses.dataclass
class Search:
    """The samples of a split."""

    pairs: list[Pair] = dataclasses.field(default_factory=list)  # in order
    problems: list[str] = dataclasses.field(default_factory=list)  # a message for each image that cannot be paired
    remarks: list[str] = dataclasses.field(default_factory=list)  # files that are left out, perhaps by mistake
    notes: list[str] = dataclasses.field(default_factory=list)  # how the split was made


@dataclasses.dataclass(frozen=True)
class Layout:
    """The folders of a split."""

    images: Path  # folder
    masks: Path  # folder
    prefix: str = ""  # of the samples' names
    stem_list: Path | None = None  # list that restricts and orders the images, or None
