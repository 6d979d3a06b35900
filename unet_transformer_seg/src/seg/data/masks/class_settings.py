"""Builds the label map from the settings and the `classes.json` of a data set, and notes what they leave out."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from seg.classes import (
    IGNORE_LABEL,
    MAX_CLASSES,
    MAX_MASK_VALUE,
    ClassTable,
    Colour,
    MaskValues,
    is_colour,
    make_class_table,
    read_json,
)
from seg.config import DataConfig
from seg.data.masks.advice import as_yaml
from seg.data.masks.label_map import LabelMap
from seg.errors import UserError
from seg.instances.objects import BORDER

CLASSES_FILE = "classes.json"


@dataclasses.dataclass(frozen=True)
class ClassesFile:
    """Content of a `classes.json`; empty if there is none."""

    names: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()
    ignore: int = -1


def read_classes_file(path: Path) -> ClassesFile:
    """Return the content of {"names": [...], "palette" or "colours": [[r, g, b], ...], "ignore": mask value}."""
    if not path.is_file():
        return ClassesFile()
    expected = "names, palette and ignore"
    content = read_json(path, expected)
    try:
        names, colours = content["names"], content.get("palette", content.get("colours", []))
        ignore = content.get("ignore")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError("names is not a list of strings")
        if ignore is not None and not (type(ignore) is int and -1 <= ignore <= MAX_MASK_VALUE):
            raise ValueError(f"ignore is {ignore!r:.80}, not a mask value 0…{MAX_MASK_VALUE}")
        colours = tuple(map(tuple, colours))
        if bad := [colour for colour in colours if not is_colour(colour)]:
            raise ValueError(f"expected colours of three integers in 0…255, found {list(bad[0])!r:.80}")
        return ClassesFile(tuple(names), colours, -1 if ignore is None else ignore)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: expected {expected} in JSON ({reason})") from None


def class_names_of(config: DataConfig) -> tuple[str, ...]:
    """Return the names of the settings, else those of `<root>/classes.json`; empty if there are none."""
    return tuple(config.class_names) or read_classes_file(Path(config.root) / CLASSES_FILE).names


def overlapping_classes(config: DataConfig) -> ClassTable:
    """Return the table of overlapping classes, or of a single one."""
    file = Path(config.root) / CLASSES_FILE
    names, stated = class_names_of(config), read_classes_file(file)
    if not names:
        raise UserError(f"no class names: set data.class_names, for example [road, car], or write {file}")
    palette = tuple(config.palette) or (() if config.class_names else stated.colours)
    try:
        return make_class_table(names, palette, overlapping=True)
    except UserError as error:
        raise UserError(f"{'data.class_names' if config.class_names else file}: {error}") from None


def build_label_map(config: DataConfig) -> LabelMap:
    """Return the label map of `config` and `<root>/classes.json`; keys of the config take precedence.

    Without a `value_map`, a mask's value is an index into the names. The entry at the ignored value (such as "void")
    is not a class, and later ones move up by one.
    """
    if config.masks == "objects":
        return _map_of_objects(config)
    file = Path(config.root) / CLASSES_FILE
    stated = read_classes_file(file)
    names = tuple(config.class_names) or stated.names
    if not names:
        raise UserError(f"no class names: set data.class_names, for example [background, car], or write {file}")
    colours = tuple(config.palette) or (() if config.class_names else stated.colours)
    ignore = config.ignore_value if config.ignore_value >= 0 else stated.ignore
    source = "data.class_names" if config.class_names else str(file)
    _check_number(names, source)

    kept = [i for i in range(len(names)) if config.value_map or config.threshold or i != ignore]
    if len(kept) < 2:
        raise _only_one_left(names, ignore, config)
    all_have_colours = len(colours) == len(names)
    palette = tuple(colours[i] for i in kept) if all_have_colours else colours
    by_colour = {colour: label for label, colour in enumerate(palette)}
    if len(by_colour) < len(palette):
        by_colour = {}  # classes that share a colour cannot be told apart by it
    if config.read_masks_by == "colour" and not by_colour:
        raise UserError("data.read_masks_by: colour needs a colour of its own for each class: set data.palette")
    _check_values(config, ignore, [names[i] for i in kept])
    values = mask_values(config, len(kept)) or (tuple(kept) if kept != list(range(len(kept))) else ())
    try:
        classes = make_class_table(tuple(names[i] for i in kept), palette, values)
    except UserError as error:
        sources = dict.fromkeys([source, "data.palette" if config.palette else source])
        raise UserError(f"{' and '.join(sources)}: {error}") from None
    if by_colour and all_have_colours and len(kept) < len(names):
        by_colour = {colours[ignore]: IGNORE_LABEL} | by_colour
    by_value = dict(config.value_map) or {value: label for label, value in enumerate(kept)}
    by_value |= {ignore: IGNORE_LABEL} if ignore >= 0 else {}
    return LabelMap(classes, by_value, by_colour, names, colours if all_have_colours else (), config)


def _map_of_objects(config: DataConfig) -> LabelMap:
    """Return the label map of masks that number their objects: background, object, and where they touch, a border."""
    names = config.class_names or ("background", "object")
    if config.object_border and len(names) == 2:
        names += (BORDER,)
    expected = 3 if config.object_border else 2
    if len(names) != expected or (config.object_border and names[2] != BORDER):
        stated = ", ".join(names[:2]) if len(names) > 1 else "background, cell"
        raise UserError(
            f"data.class_names: data.masks: objects has the classes background and object"
            f"{' and border' * bool(config.object_border)}, found {', '.join(names)}; set data.class_names=[{stated}]"
        )
    classes = make_class_table(names, tuple(config.palette))
    return LabelMap(classes, {0: 0, 1: 1}, {}, names, (), config)


def mask_values(config: DataConfig, num_classes: int) -> MaskValues:
    """Return the value or colour of each class in the masks that these settings read; empty if it is the class index.

    If several values map to a class, the first in `value_map` counts; a class without any gets the lowest free one.
    """
    if config.threshold:
        return 0, 255 if config.threshold <= 255 else MAX_MASK_VALUE
    if config.value_map:
        first = {label: value for value, label in reversed(config.value_map.items())}
        free = iter(value for value in range(MAX_MASK_VALUE) if value not in config.value_map)
        return tuple(first[label] if label in first else next(free) for label in range(num_classes))
    if len(set(config.palette)) == num_classes and config.read_masks_by != "value":
        return tuple(config.palette)
    return ()


def values_of_classes(classes: ClassTable, config: DataConfig) -> MaskValues:
    """Return the value or colour of each class in masks; empty if it is the class index, or a band.

    Of a single class these are the values outside and inside of it.
    """
    if classes.overlapping:
        return (0, 255) if len(classes) == 1 else ()
    return classes.mask_values or mask_values(config, len(classes))


def notes_on_classes(config: DataConfig, label_map: LabelMap) -> list[str]:
    """Return a line for each class that is left out, that no mask can have, or that cannot be told apart."""
    names, kept = label_map.stated_names, label_map.classes.names
    from_file = read_classes_file(Path(config.root) / CLASSES_FILE) if config.root else ClassesFile()
    notes = []
    if len(kept) < len(names) and (config.class_names or config.ignore_value >= 0):
        ignore = config.ignore_value if config.ignore_value >= 0 else from_file.ignore
        notes.append(
            f"data.ignore_value {ignore} is the index of {names[ignore]}, which is left out of the classes: "
            f"{', '.join(kept)}. To keep it, set data.ignore_value: -1"
        )
    values = set(label_map.by_value.values())
    without = [name for label, name in enumerate(kept) if label not in values]
    if without and not label_map.by_colour and not config.threshold:
        notes.append(f"no value in data.value_map maps to {', '.join(without)}: no mask can have that class")
    if twice := sorted({name for name in kept if kept.count(name) > 1}):
        notes.append(f"several classes are called {', '.join(twice)}: tables and metrics cannot distinguish them")
    palette = label_map.classes.palette
    if label_map.stated_colours and len(set(palette)) < len(palette):
        twice = next(colour for colour in palette if palette.count(colour) > 1)
        shared = ", ".join(name for name, colour in zip(kept, palette, strict=True) if colour == twice)
        notes.append(f"{shared} have the same colour {twice}, so masks are read by value only")
    return notes


def _check_number(names: Sequence[str], source: str) -> None:
    """Refuse a single class, and more than there are labels."""
    if len(names) == 1:
        other = "background" if names[0] != "background" else "object"
        both = sorted([other, *names], key=lambda name: name != "background")
        raise UserError(
            f"{source}: expected 2 to {MAX_CLASSES} classes, found 1. Pixels that are not of this class need one of "
            f"their own: set data.class_names: {as_yaml(both)}"
        )
    if len(names) > MAX_CLASSES:
        raise UserError(f"{source}: expected 2 to {MAX_CLASSES} classes, found {len(names)}")


def _only_one_left(names: Sequence[str], ignore: int, config: DataConfig) -> UserError:
    """Return the refusal of two classes of which one is ignored."""
    source = "data.ignore_value" if config.ignore_value >= 0 else f"{Path(config.root) / CLASSES_FILE}: ignore"
    all_behind = as_yaml({value: label for label, value in enumerate(range(ignore + 1, ignore + 1 + len(names)))})
    keep = "set data.ignore_value: -1" if config.ignore_value >= 0 else "remove it"
    return UserError(
        f"{source} {ignore} is the index of {names[ignore]}, which leaves {names[1 - ignore]} as the only class. To "
        f"keep {names[ignore]}, {keep}. If the masks have {ignore} where there is no class, and classes after it, set "
        f"data.value_map: {all_behind}"
    )


def _check_values(config: DataConfig, ignore: int, names: Sequence[str]) -> None:
    """Refuse a map to missing classes, and settings that contradict each other."""
    for value, label in config.value_map.items():
        if not 0 <= value <= MAX_MASK_VALUE:
            raise UserError(f"data.value_map: mask values are 0…{MAX_MASK_VALUE}, found {value}")
        if not 0 <= label < len(names) and label != IGNORE_LABEL:
            raise UserError(
                f"data.value_map[{value}]: expected a class 0…{len(names) - 1} ({', '.join(names)}) "
                f"or {IGNORE_LABEL} = ignored, found {label}"
            )
    if config.value_map.get(ignore, IGNORE_LABEL) != IGNORE_LABEL:
        kept, ignored = as_yaml(config.value_map), as_yaml(config.value_map | {ignore: IGNORE_LABEL})
        raise UserError(
            f"data.value_map maps {ignore} to a class, but that is the value to ignore. To ignore it, set "
            f"data.value_map: {ignored}. To keep it, set data.value_map: {kept} and data.ignore_value: -1"
        )
    if config.threshold and config.value_map:
        raise UserError(
            "data.threshold and data.value_map exclude each other: set data.threshold: 0, or set data.value_map: {}"
        )
    if config.threshold and len(names) != 2:
        raise UserError(
            f"data.threshold makes two classes, but there are {len(names)}: name two in data.class_names, or set "
            "data.threshold: 0"
        )
