"""An image with its mask, and what a search for them brings."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Pair:
    """The files of one sample.

    Attributes:
        name: the image's path below the root, without its suffix.
        image: file.
        mask: file.
        key: what image and mask share of their names, below their folders; of a list, `name`.
    """

    name: str
    image: Path
    mask: Path
    key: str


@dataclasses.dataclass
class Search:
    """What was found of a split.

    Attributes:
        pairs: in order.
        problems: a message for each image that has no place among them.
        remarks: what is left out and should perhaps not be.
        notes: how the split was made.
    """

    pairs: list[Pair] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    remarks: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the files of a split are.

    Attributes:
        images: folder.
        masks: folder.
        prefix: of the names of the samples.
        stem_list: restricts and orders the images, or None.
    """

    images: Path
    masks: Path
    prefix: str = ""
    stem_list: Path | None = None
