"""The plan of a run: from a folder or a config to settings with reasons, and their cost."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import yaml

from seg.config import Config, DataConfig
from seg.config.packaged import find_config
from seg.config.reader import load_start_config, override_config, to_plain
from seg.config.safe_yaml import compose_file
from seg.data import build_dataset
from seg.data.image_file import read_image, read_mask
from seg.data.images.remarks import Remarks
from seg.data.pairing.pair import Pair
from seg.data.pairing.splits import find_split
from seg.data.settlement import settle_images
from seg.errors import UserError
from seg.planning.config_writer import apply, write_config
from seg.planning.cost import (
    DEFAULT_STEPS,
    DEFAULT_WIDTH,
    MAX_EPOCHS,
    MAX_EVALUATIONS,
    Cost,
    fit_memory,
    fit_time,
    in_minutes,
    measure_cost,
)
from seg.planning.layout import find_data
from seg.planning.mask_contents import guess_masks
from seg.planning.proposal import Length, Proposal, Shape, choose_shape, propose
from seg.planning.survey import Facts, survey
from seg.profiling.memory import format_bytes
from seg.record.changes import flatten

SHORTEST = Length()
MAX_IMAGES = 16  # images whose channels are looked at
MAX_MASKS = 100  # masks whose values decide what they mean
_QUIET = Remarks(lambda text: None)  # the survey makes the remarks
ADVICE = re.compile(r"set data\.channels=(\d+)")  # in the refusal of an image with another number of channels


@dataclasses.dataclass(frozen=True)
class Plan:
    """Proposed settings, and what they cost."""

    proposals: Sequence[Proposal]  # every setting that is written
    config: Config  # the run that they describe
    facts: Facts  # of the data
    cost: Cost  # measured here

    @property
    def steps(self) -> int:
        """Updates in a run."""
        return self.config.training.num_epochs * -(-self.facts.num_train // self.config.training.batch_size)

    def text(self, command: str) -> str:
        """Return the config file; `command` is what made it."""
        return write_config(self.proposals, f"{command}\n\n{self.summary()}\n")

    def summary(self) -> str:
        """Return data, network and cost in a few lines."""
        facts, cost, data = self.facts, self.cost, self.config.data
        folds = data.num_folds
        evaluations = -(-self.config.training.num_epochs // self.config.training.eval_every_epochs)
        minutes = cost.seconds(self.steps, evaluations) / 60
        each = f" each, {in_minutes(round(folds * minutes))} for {folds} folds" if folds else ""
        memory = f", {format_bytes(cost.memory)} of memory" if cost.memory else ""
        shares = ", ".join(f"{n} {share:.1%}" for n, share in zip(facts.names, facts.shares_k, strict=True))
        lines = [
            f"data: {facts.num_train} training and {facts.num_val} validation images; {shares}",
            f"network: {cost.parameters:,} parameters{memory}",
            f"run: {self.steps:,} steps of {cost.step_s:.2f} s measured here, about {in_minutes(round(minutes))}{each}",
        ]
        if facts.areas_m.size:
            touching = f"{facts.touching:.0%} touch another"
            number = len(facts.areas_m)
            found = f"{number:,} objects in {facts.num_read} images, {facts.diameter:.0f} pixels wide, {touching}"
            lines.insert(1, f"objects: {found}")
        return "\n".join(lines)


def plan_run(
    base: Config,
    kept: Sequence[Proposal],
    minutes: float | None,
    progress: Callable[..., Iterable],
    note: Callable[[str], object],
) -> Plan:
    """Return the plan of a run.

    Args:
        base: the data set, and settings that are kept.
        kept: the settings of `base` that are written as they are, instead of a proposal.
        minutes: time for a run; None: as long as the data need.
        progress: wraps an iterator as `tqdm` does.
        note: called with each measurement, in words.
    """
    settled = dataclasses.replace(base, data=settle_images(base.data))
    train_set, val_set = (
        build_dataset(settled.data, split, base.seed, base.model.labels) for split in ("train", "val")
    )
    facts = survey(train_set, len(val_set), settled.data, progress)
    fixed = (*(proposal.key for proposal in kept), *_decided_elsewhere(base, kept))

    def proposals(shape: Shape, length: Length = SHORTEST, why_wide: str = "") -> list[Proposal]:
        return [p for p in propose(facts, shape, length, why_wide) if not p.key.startswith(fixed)]

    def build(shape: Shape) -> Config:
        config = apply(base, proposals(shape))
        model = dataclasses.replace(config.model, num_classes=len(facts.names))
        return dataclasses.replace(config, model=model, data=settle_images(config.data))

    if minutes is None:
        shape, cost, length = _unhurried(facts, build, note)
        why_wide = "nnU-Net's; --minutes plans for less time"
    else:
        shape, cost, length = fit_time(facts, minutes, build, note)
        why_wide = f"the widest whose updates fit into {in_minutes(minutes)} here ({cost.step_s:.2f} s each)"
    settings = [*kept, *proposals(shape, length, why_wide)]
    return Plan(settings, apply(base, settings), facts, cost)


def _decided_elsewhere(base: Config, kept: Sequence[Proposal]) -> tuple[str, ...]:
    """Return the starts of the names of settings that the weights or the stated architecture decide."""
    if base.init:
        return "model.", "data.mean", "data.std", "data.normalise"
    names = {proposal.key for proposal in kept}
    is_own = "model.name" in names and base.model.name not in ("unet", "unet_transformer")
    return ("model.",) if is_own or base.model.encoder != "plain" else ()


def find_folder(folder: Path, overrides: Sequence[str]) -> tuple[Config, list[Proposal]]:
    """Return the config that reads an unknown folder, changed by `overrides`, and its settings with reasons."""
    data = find_data(folder)
    pairs = find_split(data, "train").pairs
    data = dataclasses.replace(data, channels=guess_channels(data, [pair.image for pair in _spread(pairs, MAX_IMAGES)]))
    data, why_masks = guess_masks(data, [read_mask(pair.mask, data) for pair in _spread(pairs, MAX_MASKS)])
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", folder.resolve().name).strip("._-") or "run"
    config = override_config(Config(name=name[:40], data=data), overrides)
    reasons = {
        "data.channels": "as the images have; grey ones have 1",
        "data.masks": why_masks,
        "data.class_names": why_masks,
    }
    reasons |= {"data.num_folds": "there is no validation split: each fold is it once", "data.fold": "counted from 0"}
    reasons |= {"data.test_fraction": "there is no test split: a share is kept for it"}
    values, defaults, stated = (
        flatten(config),
        flatten(Config()),
        {override.partition("=")[0] for override in overrides},
    )
    keys = [key for key, value in values.items() if key in stated or value != defaults[key]]
    return config, [
        Proposal(key, to_plain(values[key]), "as stated" if key in stated else reasons.get(key, "")) for key in keys
    ]


def guess_channels(data: DataConfig, images: Sequence[Path]) -> int:
    """Return the number of channels of images: 1 where all are grey."""
    is_grey = True
    for path in images:
        try:
            image_hwc = read_image(path, data, _QUIET)
        except UserError as error:
            if not (advice := ADVICE.search(str(error))):
                raise
            return int(advice[1])
        is_grey = is_grey and bool((image_hwc == image_hwc[..., :1]).all())
    return 1 if is_grey else data.channels


def _spread(pairs: list[Pair], number: int) -> list[Pair]:
    return pairs[:: -(-len(pairs) // number)]


def read_stated(path: Path, overrides: Sequence[str]) -> tuple[Config, list[Proposal]]:
    """Return a config, changed by `overrides`, and the settings that it states."""
    config = load_start_config(path, overrides)
    stated = {override.partition("=")[0] for override in overrides}
    stated |= set(_stated_keys(compose_file(find_config(path)), ""))
    values = flatten(config)
    return config, [Proposal(key, to_plain(value), "as stated") for key, value in values.items() if key in stated]


def _stated_keys(node: yaml.Node, prefix: str) -> Iterable[str]:
    """Yield the dotted names of the settings in a config file."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        yield f"{prefix}{key.value}"
        yield from _stated_keys(value, f"{prefix}{key.value}.")


def _unhurried(
    facts: Facts, build: Callable[[Shape], Config], note: Callable[[str], object]
) -> tuple[Shape, Cost, Length]:
    """Return shape, cost and length of a run without a limit of time; what does not fit into memory is halved."""
    shape = choose_shape(facts, DEFAULT_WIDTH)
    cost = measure_cost(build(shape), facts, shape)
    if (smaller := fit_memory(shape, cost)) != shape:
        note(f"a batch of {shape.batch_size} needs {format_bytes(cost.memory)}: {smaller.batch_size} instead")
        shape, cost = smaller, measure_cost(build(smaller), facts, smaller)
    steps_per_epoch = -(-facts.num_train // shape.batch_size)
    epochs = max(1, min(math.ceil(DEFAULT_STEPS / steps_per_epoch), MAX_EPOCHS))
    return shape, cost, Length(epochs, min(MAX_EVALUATIONS, epochs), f"about {DEFAULT_STEPS:,} updates")
