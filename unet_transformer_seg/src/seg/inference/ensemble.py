"""Several models that predict together: the mean of their probabilities, such as of the folds of a cross-validation."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from seg.config import Config
from seg.config.reader import to_plain
from seg.errors import UserError
from seg.inference import predictor
from seg.inference.predictor import Predictor
from seg.models import CustomModel

SHARED = ("data.channels", "data.precision", "data.value_range", "data.range", "data.channel_ranges", "data.normalise")
SHARED += ("data.fit", "data.size", "model.labels")
SHARED += ("inference.scale", "inference.tile", "inference.whole_up_to", "inference.overlap")
SHARED += ("inference.mirror", "inference.scales")
"""Settings by which an image is prepared and cut: those of the first model hold for all."""


class Ensemble(Predictor):
    """Models that predict together; the labels follow from the mean probabilities. Mean and deviation are each model's.

    Attributes:
        members: the models.
    """

    def __init__(self, members: Sequence[Predictor]):
        """Combine models of the same classes and the same kind of images."""
        first, self.members = members[0], tuple(members)
        super().__init__(_with_mean_thresholds(members), first.classes, None, self._mean_forward)
        # All weights, so that a record of what is done knows them.
        self.variables = {"params": {str(i): member.variables for i, member in enumerate(members)}}

    def _mean_forward(self, windows_bhwc: np.ndarray) -> jax.Array:
        return sum(member.windows_forward(windows_bhwc) for member in self.members) / len(self.members)

    def __repr__(self) -> str:
        return f"Ensemble of {len(self.members)}: {', '.join(map(repr, self.members))}"


def load_ensemble(
    folders: Sequence[str | Path],
    which: str = "best",
    overrides: Sequence[str] = (),
    model: CustomModel | None = None,
) -> Predictor:
    """Return the models of several folders as one; arguments as of `load_predictor`.

    Raises:
        UserError: models of different classes, or that prepare images differently.
    """
    if not folders:
        raise UserError("expected at least one model, found none")
    members = [predictor.load_predictor(folder, which, overrides, model) for folder in folders]
    for folder, member in zip(folders[1:], members[1:], strict=True):
        _check_alike(members[0], member, f"{folder} and {folders[0]}")
    return members[0] if len(members) == 1 else Ensemble(members)


def _check_alike(first: Predictor, other: Predictor, both: str) -> None:
    """Refuse models that cannot be averaged."""
    if first.classes.names != other.classes.names:
        names = [", ".join(model.classes.names) for model in (other, first)]
        raise UserError(f"{both} cannot predict together: their classes are {names[0]}, and {names[1]}")
    for key in SHARED:
        values = [_value(model.config, key) for model in (other, first)]
        if values[0] != values[1]:
            hint = f"; set {key}=… for both" if key.startswith("inference.") else ""
            raise UserError(f"{both} cannot predict together: their {key} is {values[0]}, and {values[1]}{hint}")


def _value(config: Config, key: str) -> object:
    section, name = key.split(".")
    return to_plain(getattr(getattr(config, section), name))


def _with_mean_thresholds(members: Sequence[Predictor]) -> Config:
    """Return the first config with the mean thresholds of all, if the classes overlap."""
    config = members[0].config
    if config.model.labels == "exclusive":
        return config
    thresholds = np.mean([member.labels.thresholds for member in members], axis=0)
    inference = dataclasses.replace(config.inference, thresholds=tuple(map(float, thresholds)))
    return dataclasses.replace(config, inference=inference)
