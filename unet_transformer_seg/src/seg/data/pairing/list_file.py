"""Reads lists of samples as editors on any system write them, and finds the files that they name."""

import os
from pathlib import Path, PurePath

from seg.data.images.image_kind import SUFFIXES, composed, describe_folder
from seg.data.pairing.pair import Pair, Search
from seg.errors import UserError
from seg.files import decoded, read_bounded
from seg.untrusted import escaped, shown

MAX_LIST_BYTES = 1 << 26
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
BYTE_ORDER_MARK = "\ufeff"

Line = tuple[int, str]  # (number, text)


def read_lines(path: Path) -> list[Line]:
    """Return the lines of a list without empty ones and comments (#), stripped of blanks and trailing separators.

    The encoding is UTF-8, or UTF-16 with a byte order mark.
    """
    try:
        content = read_bounded(path, MAX_LIST_BYTES)
    except OSError as error:
        reason = f"expected a list of samples ({error.strerror or error}); {describe_folder(path.parent)}"
        raise UserError(f"{escaped(str(path))}: {reason}") from None
    if content.startswith(UTF_16_MARKS):
        try:
            text = content.decode("utf-16").replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            raise UserError(f"{path}: expected a list of samples in UTF-8 or UTF-16, found other bytes") from None
    else:
        text = decoded(path, content, "a list of samples")
    if "\0" in text:
        raise UserError(f"{path}: expected a list of samples in UTF-8, found zero bytes; save it as UTF-8")
    lines = ((number, line.strip().strip(BYTE_ORDER_MARK).strip()) for number, line in enumerate(text.split("\n"), 1))
    lines = ((number, line.rstrip(",; \t")) for number, line in lines)
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def split_line(line: str) -> list[str]:
    """Return the paths of a line, separated by a tab, comma, semicolon or blanks."""
    separator = next((s for s in ("\t", ",", ";") if s in line), None)
    return [part.strip().strip('"') for part in line.split(separator)]


def holds_pairs(root: Path, lines: list[Line]) -> bool:
    """Return whether a list names pairs of files, judged by its first lines."""
    finder = NameFinder(root)
    for _, line in lines[:10]:
        parts = split_line(line)
        if len(parts) == 2:
            are_images = all(PurePath(part).suffix.lower() in SUFFIXES for part in parts)
            if are_images or finder.find(parts[0]):
                return True
    return False


def listed_pairs(root: Path, list_file: Path, lines: list[Line]) -> Search:
    """Return the pairs of a list of paths."""
    search, finder = Search(), NameFinder(root)
    seen: dict[str, tuple[int, Path]] = {}
    for number, line in lines:
        parts = split_line(line)
        if len(parts) != 2:
            raise UserError(
                f"{list_file}:{number}: expected an image and a mask path (a tab or comma between them if they have "
                f"spaces), found {shown(line)}"
            )
        image, mask = map(finder.find, parts)
        if image is None or mask is None:
            missing = [str(root / part) for part, file in zip(parts, (image, mask), strict=True) if file is None]
            search.problems.append(f"{list_file}:{number}: no such file: {', '.join(map(escaped, missing))}")
            continue
        line_before, mask_before = seen.setdefault(os.path.realpath(image), (number, mask))
        if line_before != number:
            text = f"{list_file}:{number}: {escaped(parts[0])} is already in line {line_before}"
            if not os.path.samefile(mask, mask_before):
                search.problems.append(f"{text}, with the mask {escaped(str(mask_before))}")
                continue
            search.remarks.append(f"{text}, and counts twice")
        name = str(Path(parts[0].replace("\\", "/")).with_suffix(""))
        search.pairs.append(Pair(name, image, mask, composed(name)))
    return search


class NameFinder:
    """Finds files below a folder by names that may be spelled as on another system."""

    def __init__(self, root: Path):
        """Search below `root`."""
        self._root = root
        self._names: dict[Path, dict[str, str]] = {}

    def find(self, name: str) -> Path | None:
        r"""Return the file of a name, or None: as spelled, with / for \, or in another Unicode form."""
        if os.path.isfile(file := self._root / name):
            return file
        file = Path("/") if name.startswith("/") else self._root
        for part in name.replace("\\", "/").split("/"):
            if part in ("", "."):
                continue
            below = file / part
            if not os.path.lexists(below):
                below = file / self._listed(file).get(composed(part), part)
            file = below
        return file if os.path.isfile(file) else None

    def _listed(self, folder: Path) -> dict[str, str]:
        """Return composed name → name of the entries of a folder."""
        if folder not in self._names:
            try:
                self._names[folder] = {composed(name): name for name in os.listdir(folder)}
            except (OSError, ValueError):
                self._names[folder] = {}
        return self._names[folder]
