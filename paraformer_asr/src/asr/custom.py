"""Parts of a run that come from outside the package: a model, a loss, data sets, metrics."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from asr.config import Config
from asr.data import SpeechDataset
from asr.errors import UserError
from asr.models import CustomModel

Loss = Callable[[Any, jax.Array, jax.Array], jax.Array]
"""(outputs, tokens_bu, token_lengths_b) → float32[], a sum over the batch; the step divides it as `loss.normaliser`
says."""

Metric = Callable[[Sequence[str], Sequence[str]], float]
"""(references, hypotheses) → a number; the texts of all validation utterances, as they are compared."""


@dataclasses.dataclass(frozen=True, eq=False)
class CustomParts:
    """Parts of a run that come from outside the package; None where the config names one of its own.

    Attributes:
        model: a Flax module, or a function of `config.model` (`vocab_size` and `input_dim` set) that returns one.
        loss: see `Loss`.
        train_set: the training split.
        val_set: the validation split.
        metrics: name → function, see `Metric`; reported beside the error rates.
    """

    model: CustomModel | None = None
    loss: Loss | None = None
    train_set: SpeechDataset | None = None
    val_set: SpeechDataset | None = None
    metrics: Mapping[str, Metric] = dataclasses.field(default_factory=dict)

    def mark(self, config: Config) -> Config:
        """Return the config with `custom` where a part replaces what the config describes.

        Raises:
            UserError: one of the two data sets alone.
        """
        if (self.train_set is None) != (self.val_set is None):
            raise UserError("train_set and val_set belong together: pass both, or neither")
        if self.model is not None:
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, name="custom"))
        if self.loss is not None:
            config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, name="custom"))
        if self.train_set is not None:
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, dataset="custom"))
        return config

    def check_loss(self, config: Config) -> None:
        """Refuse a config whose loss came from outside when there is none."""
        if config.loss.name == "custom" and self.loss is None:
            raise UserError(
                "loss.name: custom: the loss comes from outside the package, so it works from Python only; pass it: "
                "asr.train(config, loss=...)"
            )


NO_CUSTOM_PARTS = CustomParts()
"""Everything is built from the config."""
