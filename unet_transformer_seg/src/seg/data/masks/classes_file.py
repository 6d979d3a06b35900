"""The `classes.json` in the root of a data set."""

import dataclasses
from pathlib import Path

from seg.classes import MAX_MASK_VALUE, is_colour, read_json
from seg.errors import UserError

CLASSES_FILE = "classes.json"


@dataclasses.dataclass(frozen=True)
class ClassesFile:
    """What the file states: nothing, where there is none."""

    names: tuple[str, ...] = ()
    colours: tuple[tuple[int, int, int], ...] = ()
    ignore: int = -1


def read_classes_file(path: Path) -> ClassesFile:
    """Return what {"names": [...], "palette" or "colours": [[r, g, b], ...], "ignore": mask value} states.

    Raises:
        UserError: a broken file, named.
    """
    if not path.is_file():
        return ClassesFile()
    expected = "names, palette and ignore"
    content = read_json(path, expected)
    try:
        names, colours = content["names"], content.get("palette", content.get("colours", []))
        ignore = content.get("ignore")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError("names is not a list of texts")
        if ignore is not None and not (type(ignore) is int and -1 <= ignore <= MAX_MASK_VALUE):
            raise ValueError(f"ignore is {ignore!r:.80}, not a mask value 0…{MAX_MASK_VALUE}")
        colours = tuple(map(tuple, colours))
        if bad := [colour for colour in colours if not is_colour(colour)]:
            raise ValueError(f"expected colours of three whole numbers in 0…255, found {list(bad[0])!r:.80}")
        return ClassesFile(tuple(names), colours, -1 if ignore is None else ignore)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: expected {expected} in JSON ({reason})") from None
