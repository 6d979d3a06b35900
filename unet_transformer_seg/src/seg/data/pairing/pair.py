"""An image with its mask, and the result of a search for such pairs."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Pair:
    """The files of one sample.

    Attributes:
        name: the image's path below the root, without suffix.
        image: its file.
        mask: its mask's file.
        key: the part of the names that image and mask share, below their folders; for a list, `name`.
    """

    name: str
    image: Path
    mask: Path
    key: str


@dataclasses.dataclass
class Search:
    """The samples of a split.

    Attributes:
        pairs: in order.
        problems: a message for each image that cannot be paired.
        remarks: files that are left out, perhaps by mistake.
        notes: how the split was made.
    """

    pairs: list[Pair] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    remarks: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The folders of a split.

    Attributes:
        images: folder.
        masks: folder.
        prefix: of the samples' names.
        stem_list: list that restricts and orders the images, or None.
    """

    images: Path
    masks: Path
    prefix: str = ""
    stem_list: Path | None = None
