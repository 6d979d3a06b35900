"""What the masks of a data set hold together: counts, kinds, differing palettes, and advice."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from seg.classes import IGNORE_LABEL, Colour
from seg.data.masks.advice import UnknownValuesError, advise, suggest_palette
from seg.data.masks.label_map import LabelMap, Reading
from seg.data.masks.mask import MANY, Census, Mask, take_census

NUM_EXAMPLES = 3  # files that a line names


@dataclasses.dataclass
class MaskSurvey:
    """What the masks of a split hold."""

    census: Census = dataclasses.field(default_factory=Census)  # of the masks read by values
    # "values" or "colours" → the masks that were refused for these, and their census
    unknown: dict[str, tuple[list[Path], Census]] = dataclasses.field(default_factory=dict)
    # Text → masks that were read with this remark
    remarks: dict[str, list[Path]] = dataclasses.field(default_factory=lambda: defaultdict(list))
    # Index → colour → masks, if no colours are stated
    palettes: dict[int, dict[Colour, list[Path]]] = dataclasses.field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def add(self, mask: Mask, reading: Reading, path: Path) -> None:
        """Count a mask that was read."""
        for remark in _remarks(mask, reading):
            self.remarks[remark].append(path)
        if reading.by in ("colour", "objects"):
            return
        self.census.add(take_census(mask))
        if mask.palette is not None and mask.shown_greys is None:
            for index, colour in zip(mask.used.tolist(), mask.shown_colours.tolist(), strict=True):
                self.palettes[index][tuple(colour)].append(path)

    def add_unknown(self, error: UnknownValuesError) -> None:
        """Count a mask that was refused."""
        paths, census = self.unknown.setdefault("colours" if error.census.colours else "values", ([], Census()))
        paths.append(error.path)
        census.add(error.census)


def describe_unknown(surveys: Iterable[MaskSurvey], label_map: LabelMap) -> list[str]:
    """Return a text for each kind of refused masks: what all masks hold, and what to do."""
    surveys, texts = list(surveys), []
    for kind in ("values", "colours"):
        paths, census = [], Census()
        for survey in surveys:
            refused, refused_census = survey.unknown.get(kind, ([], Census()))
            paths += refused
            census.add(refused_census)
        if not paths:
            continue
        if kind == "values":
            for survey in surveys:
                census.add(survey.census)
        table = f"\n{_table(census, label_map)}" if kind == "values" and len(census.values) <= MANY else ""
        texts.append(f"{examples(paths)}: {advise(census, label_map)}{table}")
    return texts


def find_differing_palettes(surveys: Iterable[MaskSurvey], label_map: LabelMap) -> list[str]:
    """Return a warning if an index has different colours in different masks and no colours are stated."""
    palettes: dict[int, dict[Colour, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for survey in surveys:
        for index, colours in survey.palettes.items():
            for colour, paths in colours.items():
                palettes[index][colour] += paths
    differing = [index for index, colours in sorted(palettes.items()) if len(colours) > 1]
    if not differing or label_map.settings.read_masks_by == "value":
        return []
    index = differing[0]
    seen = sorted(palettes[index].items(), key=lambda item: -len(item[1]))
    shown = " and ".join(f"{colour} in {examples(paths)}" for colour, paths in seen[:2])
    ordered = {max(palettes[p].items(), key=lambda item: len(item[1]))[0]: None for p in sorted(palettes)}
    ordered |= {colour: None for p in sorted(palettes) for colour in palettes[p]}
    return [
        f"the palettes of masks differ: index {index} is {shown}. The masks are read by index. If that is "
        "right, set data.read_masks_by: value. If the colours mean the classes, "
        f"{suggest_palette('', list(ordered), label_map)}"
    ]


def examples(paths: Sequence[Path]) -> str:
    """Return the name of one file, or the number of files with the first names."""
    if len(paths) == 1:
        return str(paths[0])
    more = f" and {len(paths) - NUM_EXAMPLES:,} more" if len(paths) > NUM_EXAMPLES else ""
    return f"{len(paths):,} masks ({', '.join(map(str, paths[:NUM_EXAMPLES]))}{more})"


def _remarks(mask: Mask, reading: Reading) -> Iterable[str]:
    """Yield the remarks on a mask that was read, as predicates."""
    if mask.depth < 8 and reading.by == "grey":
        largest = (1 << mask.depth) - 1
        yield f"{mask.depth} bit{'s' * (mask.depth > 1)}, of which {largest} is read as 255"
    if mask.palette is not None and reading.by == "grey" and (np.diff(mask.shown_greys) < 0).any():
        yield "a palette of greys that do not rise with the index, read as the greys that it shows"
    if reading.differs:
        yield "a palette in another order than data.palette, read by its colours"
    if mask.is_lossy:
        yield "lossy compression (JPEG or WebP), which changes values; PNG keeps them"


def _table(census: Census, label_map: LabelMap) -> str:
    """Return a line for each value: pixels, masks and class."""
    names = {IGNORE_LABEL: "ignored"} | dict(enumerate(label_map.classes.names))
    rows = [("value", "pixels", "masks", "class")]
    for value, count in sorted(census.values.items()):
        label = label_map.by_value.get(value)
        rows.append((str(value), f"{count:,}", f"{census.masks[value]:,}", "none" if label is None else names[label]))
    return "\n".join(f"  {value:>5}  {pixels:>15}  {masks:>7}  {name}" for value, pixels, masks, name in rows)
