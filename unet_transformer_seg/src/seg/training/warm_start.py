"""Starts a run from the weights of another model: which arrays are copied, new or rejected."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seg.checkpoints.arrays import describe_arrays, named_arrays
from seg.classes import ClassTable
from seg.config import DataConfig
from seg.errors import UserError
from seg.models.encoders import is_of_encoder
from seg.training.state import TrainState

Shapes = dict[str, tuple[tuple[int, ...], str]]

HEADS = ("params/heads/", "params/head/")  # arrays whose last axis counts the classes
AUXILIARY_HEADS = "params/heads/auxiliary"  # those that deep supervision adds


@dataclasses.dataclass(frozen=True)
class InitialModel:
    """The model that a run starts from."""

    folder: str  # where it was read from, for messages
    classes: ClassTable | None  # names and colours of its classes; None: an encoder alone
    variables: Any  # `params` and `batch_stats`
    data: DataConfig | None = None  # how its images were normalised, where that is known


class WarmStart:
    """The arrays that are copied, by name such as `params/encoder/stage0/conv1/kernel`, and lines for the log."""

    def __init__(self, arrays: dict[str, Any], lines: list[str]):
        self.arrays, self.lines = arrays, lines

    def apply(self, state: TrainState) -> TrainState:
        """Return the state with the arrays copied, in the moving averages too; and drop them.

        Every array gets memory of its own: the train step donates that of its arguments.
        """
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        leaves = [
            jax.device_put(self.arrays.pop(name, leaf), leaf.sharding, may_alias=False)
            for name, leaf in named_arrays(variables).items()
        ]
        copied = jax.tree.unflatten(jax.tree.structure(variables), leaves)
        state = state.replace(**copied)
        if state.ema_params is None:
            return state
        averages = jax.tree.map(jnp.copy, copied)
        return state.replace(ema_params=averages["params"], ema_batch_stats=averages["batch_stats"])


def plan_warm_start(
    initial: InitialModel, state: TrainState, classes: ClassTable, data: DataConfig | None = None
) -> WarmStart:
    """Return what a run copies from another model to its state, of which shapes suffice.

    All arrays of equal name and shape are copied. Behind an encoder alone all else is new. The heads are new where the
    classes differ; heads for deep supervision that only one of the two models has are new or not copied. Nothing else
    may differ. `data` says how the run normalises its images.
    """
    expected = describe_arrays({"params": state.params, "batch_stats": state.batch_stats})
    theirs = describe_arrays(initial.variables)
    only_encoder = initial.classes is None
    reason = f"{initial.folder} holds an encoder alone" if only_encoder else differing_classes(classes, initial)

    def is_loose(name: str) -> bool:
        if only_encoder:
            return not is_of_encoder(name)
        on_one_side = (name in expected) != (name in theirs)
        return name.startswith(HEADS) if reason else name.startswith(AUXILIARY_HEADS) and on_one_side

    names = sorted(expected | theirs)
    loose = set(filter(is_loose, names))
    if differing := [name for name in names if expected.get(name) != theirs.get(name) and name not in loose]:
        listed = "\n".join(_difference(name, expected, theirs, initial.folder) for name in differing)
        raise UserError(
            f"init: {initial.folder} belongs to a different model than the config describes: {len(differing)} arrays "
            f"differ.\n{listed}\nLeave the section model out of the config to use its architecture."
        )
    arrays = {name: x for name, x in named_arrays(initial.variables).items() if name in expected and name not in loose}
    lines = [f"copied from {initial.folder}: {len(arrays)} of {len(expected)} arrays"]
    if only_encoder:
        lines += [f"new: all {len(loose & expected.keys())} arrays outside the encoder"]
    else:
        lines += _line("new", loose & expected.keys(), expected, reason or f"{initial.folder} has no such heads")
    lines += _line("not copied", loose - expected.keys(), theirs, "the model of this run has no such heads")
    lines += _differing_normalisation(initial, data)
    return WarmStart(arrays, lines)


def differing_classes(classes: ClassTable, initial: InitialModel) -> str:
    """Return in what the classes differ from those of the initial model, or an empty text."""
    ours, theirs = classes.names, initial.classes.names
    if len(ours) != len(theirs):
        return f"the data set has {len(ours)} classes, {initial.folder} has {len(theirs)}"
    for label, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if one != other:
            return (
                f"class {label} is {one!r} in the data set and {other!r} in {initial.folder}; if they mean the same, "
                "name and order the classes as there (data.class_names) to keep its head"
            )
    return ""


def _differing_normalisation(initial: InitialModel, data: DataConfig | None) -> list[str]:
    """Return a line if the run normalises its images in another way than the initial model."""
    if initial.data is None or data is None:
        return []
    ours, theirs = (list(map(list, settings.normalisation)) for settings in (data, initial.data))
    by_image = [settings.normalise == "image" for settings in (data, initial.data)]
    if by_image[0] != by_image[1]:
        how = f"data.normalise is {data.normalise}, but the weights of {initial.folder} expect {initial.data.normalise}"
        return [f"{how}; leave it out of the config to take this"]
    if np.shape(ours) == np.shape(theirs) and np.allclose(ours, theirs, atol=1e-3):
        return []
    return [
        f"data.mean and data.std are {ours[0]} and {ours[1]}, but the weights of {initial.folder} expect "
        f"{theirs[0]} and {theirs[1]}; leave both out of the config to take these"
    ]


def shown(name: str, entry: tuple[tuple[int, ...], str]) -> str:
    """Return name, dtype and shape of an array, such as `params/heads/pixel/bias float32[3]`."""
    shape, dtype = entry
    return f"{name} {dtype}[{', '.join(map(str, shape))}]"


def _line(what: str, names: set[str], arrays: Shapes, reason: str) -> list[str]:
    return [f"{what}: {', '.join(shown(name, arrays[name]) for name in sorted(names))}: {reason}"] if names else []


def _difference(name: str, expected: Shapes, theirs: Shapes, folder: str) -> str:
    if name not in theirs:
        return f"  only in this run: {shown(name, expected[name])}"
    if name not in expected:
        return f"  only in {folder}: {shown(name, theirs[name])}"
    return f"  {name}: expected {shown('', expected[name])[1:]}, found {shown('', theirs[name])[1:]}"
