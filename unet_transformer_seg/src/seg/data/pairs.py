"""Finds which image belongs to which mask, and says what is missing."""

import dataclasses
import os
from collections import defaultdict
from pathlib import Path

from seg.config import DataConfig
from seg.data.image_file import SUFFIXES
from seg.errors import UserError

MAX_LIST_BYTES = 1 << 26


@dataclasses.dataclass(frozen=True)
class Pair:
    """The files of one sample.

    Attributes:
        name: the image's path below the root, without its suffix.
        image: file.
        mask: file.
    """

    name: str
    image: Path
    mask: Path


def find_pairs(config: DataConfig, split: str) -> tuple[list[Pair], list[str]]:
    """Return the pairs of a split, in order, and a message for each image that has no place among them.

    Layouts, looked for in this order:
      1. `split` ends in .txt: a list, below the root, of lines `image_path mask_path` relative to the root.
      2. `<root>/<split>/<images_dir>/*` with `<root>/<split>/<masks_dir>/<stem>.*`; where `<root>/<split>.txt`
         exists, its stems restrict and order them.
      3. `<root>/<images_dir>/*` with `<root>/<masks_dir>/<stem>.*`, and the stems in `<root>/<split>.txt`.

    Raises:
        UserError: nothing of this exists, or it holds no image.
    """
    root = Path(config.root)
    if not os.path.isdir(root):  # of an impossible name, pathlib's own raises an error
        raise UserError(f"data.root: expected the folder of the data set, found no folder {root}")
    if split.endswith(".txt"):
        pairs, problems = _listed_pairs(root, root / split)
    else:
        pairs, problems = _folder_pairs(config, root, split)
    if not pairs and not problems:
        raise UserError(f"{root}: the split {split!r} is empty")
    return pairs, problems


def _listed_pairs(root: Path, list_file: Path) -> tuple[list[Pair], list[str]]:
    """Read a list of pairs of paths."""
    pairs, problems = [], []
    for number, line in _lines(list_file):
        parts = [part.strip() for part in line.split("\t")] if "\t" in line else line.split()
        if len(parts) != 2:
            raise UserError(
                f"{list_file}:{number}: expected an image and a mask path (a tab between them if they have spaces), "
                f"found {line!r:.200}"
            )
        image, mask = (root / part for part in parts)
        missing = [str(file) for file in (image, mask) if not os.path.isfile(file)]
        if missing:
            problems.append(f"{list_file}:{number}: no such file: {', '.join(missing):.500}")
        else:
            pairs.append(Pair(str(Path(parts[0]).with_suffix("")), image, mask))
    return pairs, problems


def _folder_pairs(config: DataConfig, root: Path, split: str) -> tuple[list[Pair], list[str]]:
    """Match images and masks of two folders by their stems."""
    stem_list = root / f"{split}.txt"
    base = next((b for b in (root / split, root) if os.path.isdir(b / config.images_dir)), None)
    if base is None or (base == root and not os.path.isfile(stem_list)):
        raise _no_layout(config, root, split)
    images, problems = _by_stem(base / config.images_dir)
    masks, mask_problems = _by_stem(base / config.masks_dir)
    problems += mask_problems
    stems = images
    if os.path.isfile(stem_list):
        stems, list_problems = _listed_stems(stem_list, set(images), base / config.images_dir)
        problems += list_problems
    pairs = []
    for stem in stems:
        if stem in masks:
            prefix = f"{split}/" if base != root else ""
            pairs.append(Pair(prefix + stem, images[stem], masks[stem]))
        else:
            problems.append(f"{images[stem]}: no mask {base / config.masks_dir / stem}.* beside it")
    return pairs, problems


def _by_stem(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the image files of a folder by stem, in order, and the stems that occur twice."""
    if not os.path.isdir(folder):
        raise UserError(f"expected a folder {folder}; {_contents(folder.parent)}")
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None
    found = defaultdict(list)
    for file in files:
        if file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
            found[file.stem].append(file)
    twice = [
        f"{folder}: {len(files)} files of the stem {stem!r}: {', '.join(file.name for file in files)}"
        for stem, files in found.items()
        if len(files) > 1
    ]
    return {stem: files[0] for stem, files in found.items()}, twice


def _listed_stems(stem_list: Path, known: set[str], folder: Path) -> tuple[list[str], list[str]]:
    """Return the stems of a list that have an image, and messages for the others."""
    stems, problems, seen = [], [], {}
    for number, line in _lines(stem_list):
        stem = line[: -len(Path(line).suffix)] if Path(line).suffix.lower() in SUFFIXES else line
        if stem in seen:
            problems.append(f"{stem_list}:{number}: {stem!r:.200} stands in line {seen[stem]} already")
        elif stem not in known:
            problems.append(f"{stem_list}:{number}: no image {folder / stem!s:.500}.*")
        else:
            stems.append(stem)
        seen.setdefault(stem, number)
    return stems, problems


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return (line number, text) of the lines that are neither empty nor a comment (#)."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LIST_BYTES + 1)
    except (OSError, ValueError) as error:  # a ValueError: no file can have this name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path!s:.500}: expected a list of samples ({reason}); {_contents(path.parent)}") from None
    if len(content) > MAX_LIST_BYTES:
        raise UserError(f"{path}: a list has at most {MAX_LIST_BYTES} bytes")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected a list of samples in UTF-8, found other bytes") from None
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _no_layout(config: DataConfig, root: Path, split: str) -> UserError:
    return UserError(
        f"{root}: the split {split!r:.200} was not found. Looked for the folder {split:.200}/{config.images_dir}, and "
        f"for {config.images_dir} with the list {split:.200}.txt; {_contents(root)}. "
        "Set data.images_dir, data.masks_dir and data.train_split, data.val_split, data.test_split."
    )


def _contents(folder: Path) -> str:
    """Return what a folder holds, in words."""
    if not os.path.isdir(folder):
        return f"there is no folder {folder!s:.500}"
    try:
        names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir())
    except OSError as error:
        return f"{folder} cannot be read ({error.strerror})"
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"{folder} holds {', '.join(names[:12]) or 'nothing'}{more}"
