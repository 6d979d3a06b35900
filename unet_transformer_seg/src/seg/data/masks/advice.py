"""Names the values or colours of masks that have no class, and suggests settings that read them.

Each suggestion on its own makes the counted masks readable; the tests follow each one.
"""

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from seg.classes import IGNORE_LABEL, MAX_CLASSES, MAX_MASK_VALUE, ClassTable, Colour, default_palette
from seg.config import DataConfig
from seg.data.masks.mask import MANY, Census
from seg.errors import UserError

FEW = 5  # largest number of values in a message; a table lists the others

BLACK = (0, 0, 0)
TWO_NAMES = ["background", "object"]


@dataclasses.dataclass(frozen=True)
class MaskClasses:
    """What the settings state about masks."""

    classes: ClassTable  # names and colours
    by_value: dict[int, int]  # mask value → label (255: ignored)
    by_colour: dict[Colour, int]  # (red, green, blue) → label; empty if no colours are stated
    stated_names: tuple[str, ...]  # names as stated, including ignored classes
    stated_colours: tuple[Colour, ...]  # their colours, or nothing
    # All settings of the data; `read_masks_by` and `threshold` take part in reading, the rest in advice
    settings: DataConfig


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """Settings that together read the masks."""

    when: str  # the condition, as the start of a sentence
    settings: dict[str, Any]  # key of the section `data` → value

    def __str__(self) -> str:
        listed = " and ".join(f"data.{key}: {as_yaml(value)}" for key, value in self.settings.items())
        return f"{self.when}set {listed}"


class UnknownValuesError(UserError):
    """A mask has values or colours without a class.

    Attributes:
        path: the mask file.
        census: of the mask.
    """

    def __init__(self, path: Path, census: Census, stated: MaskClasses):
        super().__init__(f"{path}: {advise(census, stated)}")
        self.path, self.census = path, census


def suggest_palette(when: str, colours: list[Colour], stated: MaskClasses) -> Suggestion:
    """Return the settings that read masks by these colours, given in class order."""
    return Suggestion(when, _more_names(stated.stated_names, colours, len(colours), stated))


def advise(census: Census, stated: MaskClasses) -> str:
    """Return the values or colours of the masks that have no class, and what to do."""
    settings = stated.settings
    if census.colours and stated.by_colour and (settings.read_masks_by == "value" or settings.threshold):
        reset = _read_colours(settings)
        keys = " and ".join(f"data.{key}" for key in reset)
        how = f"To read them by data.palette, {Suggestion('', reset)}"
        return f"its pixels are colours, but {keys} reads values. {how}"
    if census.colours:
        unknown = {colour: n for colour, n in census.colours.most_common() if colour not in stated.by_colour}
        kind, known = "colours", ", ".join(map(str, stated.by_colour))
        advice = _advise_on_colours(census, stated, list(unknown))
    else:
        unknown = {value: n for value, n in census.values.most_common() if value not in stated.by_value}
        kind, known = "mask values", ranges(stated.by_value)
        advice = _advise_on_values(census, stated, sorted(unknown))
    shown = FEW if len(unknown) > MANY or not census.colours else MANY
    listed = ", ".join(f"{item} ({count:,} pixels)" for item, count in list(unknown.items())[:shown])
    more = f" and {len(unknown) - shown:,} more" if len(unknown) > shown else ""
    expectation = f"expected {known}" if known else "no colours are stated"
    inverted = "0 is white in the file, so values are inverted, as viewers show them. " if census.num_inverted else ""
    return f"{kind} without a class: {listed}{more}; {expectation}. {inverted}{advice}"


def _advise_on_values(census: Census, stated: MaskClasses, unknown: list[int]) -> str:
    if census.num_lossy or len(unknown) > MANY:
        return _advise_on_many_values(census, stated)
    suggestions = _values_to_ignore(census, stated, unknown)
    suggestions = _one_foreground(census, stated) or _as_classes(census, stated, unknown) + suggestions
    low, high = min(census.values), max(census.values)
    are_soft = high in (255, MAX_MASK_VALUE) and any(high < 4 * value < 3 * high for value in census.values)
    if are_soft and len(stated.classes.names) == 2 and _has_two_peaks(census, low, high):
        when = "If the values between are soft edges of two classes, "
        suggestions.append(_threshold(stated, when, (low + high + 1) // 2))
    if _number_objects(census):
        suggestions.append(_threshold(stated, "If each mask numbers its objects, ", 1))
    return _joined(suggestions)


def _advise_on_many_values(census: Census, stated: MaskClasses) -> str:
    cause = (
        "The masks have lossy compression (JPEG or WebP), which changes values"
        if census.num_lossy
        else "This many come from a photo, or from a mask saved as JPEG or resized smoothly"
    )
    low, high = min(census.values), max(census.values)
    if len(stated.classes.names) == 2 and _has_two_peaks(census, low, high):
        when = f"{cause}. Nearly all pixels are close to {low} or {high}: for two classes, "
        return _joined([_threshold(stated, when, (low + high + 1) // 2)])
    if _number_objects(census):
        return _joined([_threshold(stated, "These look like object numbers. To make each object class 1, ", 1)])
    return f"{cause}. No setting can separate the classes: save the masks again from their source, as PNG"


def _has_two_peaks(census: Census, low: int, high: int) -> bool:
    """Return whether nearly all values are close to the lowest or highest one, and many to the highest."""
    quarter = (high - low) / 4
    upper = sum(count for value, count in census.values.items() if high - value <= quarter)
    middle = sum(count for value, count in census.values.items() if quarter < value - low < 3 * quarter)
    return high - low >= 16 and middle <= 0.2 * census.values.total() and middle <= upper


def _threshold(stated: MaskClasses, when: str, value: int) -> Suggestion:
    """Return the setting, with conflicting ones reset."""
    settings: dict[str, Any] = {"threshold": value}
    if stated.settings.value_map:
        settings["value_map"] = {}
    if len(stated.classes.names) != 2:
        settings |= {"class_names": TWO_NAMES} | ({"palette": []} if stated.settings.palette else {})
    return Suggestion(when, settings)


def _number_objects(census: Census) -> bool:
    """Return whether the masks number objects: 1 … n without large gaps, n at least 3 and not the same in all."""
    foregrounds = [values - {0} for values in census.sets]
    foregrounds = [values for values in foregrounds if values]
    if not foregrounds or max(map(max, foregrounds)) < 3:
        return False
    highest = max(map(max, foregrounds))
    dense = all(max(values) <= max(1.5 * len(values), 2) for values in foregrounds)
    plain = census.num_changes < 0.5 * census.values.total() and not census.num_lossy
    return dense and plain and (len(foregrounds) > 1 or sum(census.sets.values()) == 1 or highest > MANY)


def _one_foreground(census: Census, stated: MaskClasses) -> list[Suggestion]:
    """Return, for two classes, the map for masks with a background and one other value each."""
    known = stated.settings.value_map or {min(census.values): 0}
    foregrounds = [v for v in sorted(census.values, reverse=True) if known.get(v, 1) == 1]
    most = max(sum(value in values for value in foregrounds) for values in census.sets)
    if len(stated.classes.names) != 2 or most > 1 or len(foregrounds) > 2:
        return []
    kinds = " and others ".join(f"{min(census.values)} and {value}" for value in foregrounds)
    when = f"Some masks hold {kinds}: " if len(foregrounds) > 1 else f"For masks of {kinds} "
    return [Suggestion(when, {"value_map": known | dict.fromkeys(foregrounds, 1)})]


def _values_to_ignore(census: Census, stated: MaskClasses, unknown: list[int]) -> list[Suggestion]:
    """Return how to ignore a single unknown value beside several others."""
    if len(unknown) != 1 or len(census.values) < 3:
        return []
    when = f"If {unknown[0]} marks pixels to ignore, "
    if stated.settings.ignore_value < 0 and IGNORE_LABEL not in stated.by_value.values():
        return [Suggestion(when, {"ignore_value": unknown[0]})]
    return [Suggestion(when, {"value_map": stated.by_value | {unknown[0]: IGNORE_LABEL}})]


def _as_classes(census: Census, stated: MaskClasses, unknown: list[int]) -> list[Suggestion]:
    """Return the map that makes each unknown value a class, with new names where needed."""
    names, used = list(stated.classes.names), sorted(census.values)
    if len(used) == len(names) and not stated.settings.value_map:
        value_map = {value: label for label, value in enumerate(used)}
    else:
        value_map = {v: k for v, k in stated.by_value.items() if v in used or stated.settings.value_map}
        free = [label for label in range(len(names)) if label not in value_map.values()]
        free += range(len(names), len(names) + len(unknown))
        value_map |= dict(zip(unknown, free, strict=False))
    number = max((label for label in value_map.values() if label != IGNORE_LABEL), default=0) + 1
    if number > MAX_CLASSES:
        return []
    settings = _more_names(stated.classes.names, (), number, stated) if number > len(names) else {}
    if stated.settings.value_map or value_map != {label: label for label in range(number)}:
        settings["value_map"] = value_map
    if number == len(names) == len(used):
        return [Suggestion("", settings)]
    hint = " (map a value to 255 to ignore it)" if "value_map" in settings else ""
    return [Suggestion(f"If each value is a class{hint}, ", settings)]


def _advise_on_colours(census: Census, stated: MaskClasses, unknown: list[Colour]) -> str:
    settings, number = stated.settings, len(census.colours)
    if census.num_lossy or number > min(MAX_CLASSES, max(MANY, 2 * len(stated.stated_names))):
        cause = (
            "have lossy compression (JPEG or WebP)" if census.num_lossy else "have soft edges, or were resized smoothly"
        )
        name_all = (
            f"; if each is a class, name all {number} in data.class_names"
            if number <= MAX_CLASSES and not census.num_lossy
            else ""
        )
        return f"{number:,} colours come from masks that {cause}. Save them again as PNG, one colour a class{name_all}"
    base = _read_colours(settings)
    if not stated.by_colour:
        colours = sorted(census.colours, key=lambda colour: (colour != BLACK, -census.colours[colour]))
        more = _more_names(stated.stated_names, colours, len(colours), stated)
        return _joined([Suggestion("With the colours in the order of the classes, ", base | more)])
    suggestions = []
    if census.num_palettes:
        when = "If the palette indices are the class numbers, "
        suggestions.append(Suggestion(when, {"read_masks_by": "value"}))
    names, colours = stated.stated_names, [*stated.stated_colours, *unknown]
    more = _more_names(names, colours, len(colours), stated)
    suggestions.append(Suggestion("If each is a class, ", base | more))
    can_ignore = settings.ignore_value < 0 and not settings.value_map and number > 2  # two classes are left
    if len(unknown) == 1 and can_ignore:
        settings = more | {"class_names": [*names, "ignored"], "ignore_value": len(names)}
        suggestions.append(Suggestion("If it marks pixels to ignore, ", base | settings))
    return _joined(suggestions)


def _read_colours(settings: DataConfig) -> dict[str, Any]:
    """Return the settings to reset so that masks are read by colour."""
    reset: dict[str, Any] = {"read_masks_by": "auto"} if settings.read_masks_by == "value" else {}
    return reset | ({"threshold": 0} if settings.threshold else {})


def _more_names(names: tuple[str, ...], colours: list[Colour], number: int, stated: MaskClasses) -> dict[str, Any]:
    """Return `class_names` and `palette` for at least `number` classes, each only if it must be set."""
    settings: dict[str, Any] = {}
    if number > len(names):
        settings["class_names"] = [*names, *(f"class_{label}" for label in range(len(names), number))]
    if colours or (settings and stated.settings.palette):
        known = [tuple(colour) for colour in colours or stated.settings.palette]
        spare = [colour for colour in default_palette(MAX_CLASSES) if colour not in known]
        settings["palette"] = [list(c) for c in known + spare[: max(number, len(names)) - len(known)]]
    return settings


def _joined(suggestions: list[Suggestion]) -> str:
    sentences = [str(suggestion) for suggestion in suggestions]
    return ". ".join(sentence[:1].upper() + sentence[1:] for sentence in sentences)


def as_yaml(value: Any) -> str:
    """Return a value as in a config, on one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1 << 30).removesuffix("...\n").strip()


def ranges(values: dict[int, int]) -> str:
    """Return the values as ranges: "0…10, 255"."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}…{r[-1]}" for r in runs)
