"""From the values that a mask file holds to the labels 0 … K-1 and 255."""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from seg.classes import IGNORE_LABEL, ClassTable, is_colour, make_class_table, read_json
from seg.config import DataConfig
from seg.errors import UserError

UNKNOWN = -1
CLASSES_FILE = "classes.json"
MAX_LISTED = 5
MAX_VALUE = (1 << 16) - 1


@dataclasses.dataclass(frozen=True)
class LabelMap:
    """The classes of a folder, and which label each mask value or colour stands for.

    Attributes:
        classes: names and colours.
        by_value: mask value → label (255: ignored).
        by_colour: (red, green, blue) → label; empty where no colours are stated.
    """

    classes: ClassTable
    by_value: dict[int, int]
    by_colour: dict[tuple[int, int, int], int]

    def to_labels(self, values: np.ndarray, path: Path) -> np.ndarray:
        """Return uint8[h, w], the labels of a mask of values [h, w] or colours [h, w, 3].

        Raises:
            UserError: a value or colour that stands for no class, with its count and what to do.
        """
        labels_hw = self._from_values(values) if values.ndim == 2 else self._from_colours(values, path)
        if (labels_hw == UNKNOWN).any():
            codes_hw = values.astype(np.int64) if values.ndim == 2 else pack(values)
            raise UserError(f"{path}: {self._describe(codes_hw, labels_hw == UNKNOWN, colours=values.ndim == 3)}")
        return labels_hw.astype(np.uint8)

    def _from_values(self, values_hw: np.ndarray) -> np.ndarray:
        """Return int16[h, w], UNKNOWN where a value stands for no class."""
        return self._table[values_hw]

    @functools.cached_property
    def _table(self) -> np.ndarray:
        """The labels of all 16-bit values."""
        table = np.full(1 << 16, UNKNOWN, np.int16)
        for value, label in self.by_value.items():
            table[value] = label
        return table

    def _from_colours(self, values_hwc: np.ndarray, path: Path) -> np.ndarray:
        """Return int16[h, w], UNKNOWN where a colour stands for no class."""
        if not self.by_colour:
            raise UserError(f"{path}: an RGB mask needs a colour of its own for each class: set data.palette")
        known = sorted((int(pack(np.array(colour))), label) for colour, label in self.by_colour.items())
        codes_n, labels_n = np.array(known, np.int64).T
        codes_hw = pack(values_hwc)
        place_hw = np.minimum(np.searchsorted(codes_n, codes_hw), len(codes_n) - 1)
        return np.where(codes_n[place_hw] == codes_hw, labels_n[place_hw], UNKNOWN)

    def _describe(self, codes_hw: np.ndarray, unknown_hw: np.ndarray, colours: bool) -> str:
        """Return which values or colours are unknown, and the setting that may be missing."""
        found, counts = np.unique(codes_hw[unknown_hw], return_counts=True)
        order = np.argsort(-counts)[:MAX_LISTED]
        shown = [unpack(found[i]) if colours else int(found[i]) for i in order]
        listed = ", ".join(f"{value} ({counts[i]} pixels)" for value, i in zip(shown, order, strict=True))
        more = f" and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
        kind, expected = ("colours", self.by_colour) if colours else ("mask values", _ranges(self.by_value))
        expected = ", ".join(map(str, expected)) if colours else expected
        return f"{kind} that are no class: {listed}{more}; expected {expected}{_advice(found, codes_hw, colours)}"


def _advice(found: np.ndarray, codes_hw: np.ndarray, colours: bool) -> str:
    """Return what to do about the unknown values `found`."""
    if len(found) > 20:
        return ". So many come from a photo, or from a mask that was saved with loss (JPEG) or resized smoothly"
    if colours:
        return ". Correct data.palette, or the colours in classes.json"
    if found.tolist() == [255] and set(np.unique(codes_hw).tolist()) <= {0, 255}:
        return ". For masks of 0 and 255 set data.value_map: {0: 0, 255: 1}"
    if len(found) == 1:
        return f". If {found[0]} marks pixels to leave out, set data.ignore_value: {found[0]}"
    return ". Translate them with data.value_map"


def build_label_map(config: DataConfig) -> LabelMap:
    """Return the label map that `config` and `<root>/classes.json` describe; keys of the config win.

    The file is {"names": [...], "palette" or "colours": [[r, g, b], ...], "ignore": mask value}. Without a
    `value_map`, a mask's value is a position in the names. An entry at the ignored value (such as "void") is
    dropped from the classes, and those behind it move up by one.

    Raises:
        UserError: no class names anywhere, a broken file, or settings that contradict each other.
    """
    file = Path(config.root) / CLASSES_FILE
    stated = _read_classes_file(file)
    names = tuple(config.class_names) or stated.names
    if not names:
        raise UserError(f"no class names: set data.class_names, or write {file}")
    colours = tuple(config.palette) or (() if config.class_names else stated.colours)
    ignore = config.ignore_value if config.ignore_value >= 0 else stated.ignore

    kept = [i for i in range(len(names)) if config.value_map or i != ignore]
    all_have_colours = len(colours) == len(names)
    palette = tuple(colours[i] for i in kept) if all_have_colours else colours
    try:
        classes = make_class_table(tuple(names[i] for i in kept), palette)
    except UserError as error:
        sources = ("data.class_names" if config.class_names else file, "data.palette" if config.palette else file)
        raise UserError(f"{' and '.join(dict.fromkeys(map(str, sources)))}: {error}") from None
    by_colour = {colour: label for label, colour in enumerate(palette)}
    if len(by_colour) < len(palette):
        by_colour = {}  # classes that share a colour can be shown, but not told apart
    if by_colour and all_have_colours and len(kept) < len(names):
        by_colour = {colours[ignore]: IGNORE_LABEL} | by_colour
    return LabelMap(classes, _map_values(config.value_map, kept, ignore, classes), by_colour)


def _map_values(value_map: dict[int, int], kept: list[int], ignore: int, classes: ClassTable) -> dict[int, int]:
    """Return mask value → label."""
    _check_value_map(value_map, classes)
    by_value = dict(value_map) or {value: label for label, value in enumerate(kept)}
    if ignore < 0:
        return by_value
    if by_value.get(ignore, IGNORE_LABEL) != IGNORE_LABEL:
        raise UserError(f"data.value_map maps {ignore} to a class, but that is the value to ignore")
    return by_value | {ignore: IGNORE_LABEL}


def _check_value_map(value_map: dict[int, int], classes: ClassTable) -> None:
    for value, label in value_map.items():
        if not 0 <= value <= MAX_VALUE:
            raise UserError(f"data.value_map: mask values are 0…{MAX_VALUE}, found {value}")
        if not 0 <= label < len(classes) and label != IGNORE_LABEL:
            raise UserError(
                f"data.value_map[{value}]: expected a class 0…{len(classes) - 1} ({', '.join(classes.names)}) "
                f"or {IGNORE_LABEL} = ignored, found {label}"
            )


@dataclasses.dataclass(frozen=True)
class _ClassesFile:
    """What a classes.json states: nothing, where there is none."""

    names: tuple[str, ...] = ()
    colours: tuple[tuple[int, int, int], ...] = ()
    ignore: int = -1


def _read_classes_file(path: Path) -> _ClassesFile:
    if not path.is_file():
        return _ClassesFile()
    expected = "names, palette and ignore"
    content = read_json(path, expected)
    try:
        names, colours = content["names"], content.get("palette", content.get("colours", []))
        ignore = content.get("ignore")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError("names is not a list of texts")
        if ignore is not None and not (type(ignore) is int and -1 <= ignore <= MAX_VALUE):
            raise ValueError(f"ignore is {ignore!r:.80}, not a mask value 0…{MAX_VALUE}")
        colours = tuple(map(tuple, colours))
        if bad := [colour for colour in colours if not is_colour(colour)]:
            raise ValueError(f"expected colours of three whole numbers in 0…255, found {list(bad[0])!r:.80}")
        return _ClassesFile(tuple(names), colours, -1 if ignore is None else ignore)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: expected {expected} in JSON ({reason})") from None


def _ranges(values: dict[int, int]) -> str:
    """Return the values in words: "0…10, 255"."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}…{r[-1]}" for r in runs)


def pack(colours_c: np.ndarray) -> np.ndarray:
    """Return one number for each colour [..., 3]."""
    colours_c = colours_c.astype(np.int64)
    return colours_c[..., 0] << 16 | colours_c[..., 1] << 8 | colours_c[..., 2]


def unpack(code: int) -> tuple[int, int, int]:
    """Return the colour of a number that `pack` made."""
    return int(code) >> 16, int(code) >> 8 & 255, int(code) & 255
