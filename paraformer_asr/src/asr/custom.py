"""Parts of a run that come from outside the package: a model, a loss, data sets, metrics."""

import dataclasses
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from asr.config import Config
from asr.data import SpeechDataset
from asr.data.dataset import describe, read_checked
from asr.data.frontend import Cmvn
from asr.data.text.tokenizer import Tokenizer
from asr.errors import UserError
from asr.models import FRAMES_TO_INIT, TOKENS_TO_INIT, CustomModel, init_variables
from asr.untrusted import is_printable

Loss = Callable[[Any, jax.Array, jax.Array], jax.Array]
"""(outputs, tokens_bu, token_lengths_b) → float32[], a sum over the batch; the step divides it as `loss.normaliser`
says."""

MakeObjective = Callable[[Any, Callable, Config], Callable]
"""(model, frontend, config) → the loss of a batch from its sound on, as `asr.training.step.make_objective` returns."""

Metric = Callable[[Sequence[str], Sequence[str]], float]
"""(references, hypotheses) → a number; the texts of all validation utterances, as they are compared."""


@dataclasses.dataclass(frozen=True, eq=False)
class CustomParts:
    """Parts of a run that come from outside the package; None where the config names one of its own."""

    model: CustomModel | None = None  # a Flax module, or a function of `config.model` that returns one
    loss: Loss | None = None  # see `Loss`
    train_set: SpeechDataset | None = None  # the training split
    val_set: SpeechDataset | None = None  # the validation split
    metrics: Mapping[str, Metric] = dataclasses.field(default_factory=dict)  # name → function, reported with the rates
    objective: MakeObjective | None = None  # in the train step, for a loss that needs the sound, too
    trained: tuple[Tokenizer, Cmvn | None] | None = None  # of a new run, instead of making them from its training split
    resume_with: str = ""  # the command that resumes such a run, up to --resume; without it, a call of `asr.train`

    def mark(self, config: Config) -> Config:
        """Return the config with `custom` where a part replaces what the config describes."""
        if (self.train_set is None) != (self.val_set is None):
            raise UserError("train_set and val_set belong together: pass both, or neither")
        for name in ("train_set", "val_set"):
            if (dataset := getattr(self, name)) is not None:
                check_dataset(name, dataset, config.features.sample_rate_hz)
        if self.model is not None:
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, name="custom"))
        if self.loss is not None or self.objective is not None:
            config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, name="custom"))
        if self.train_set is not None:
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, dataset="custom"))
        return config

    def require_loss(self, config: Config) -> None:
        """Refuse a config whose loss came from outside when there is none."""
        if config.loss.name == "custom" and self.loss is None and self.objective is None:
            raise UserError(
                "loss.name: custom: the loss comes from outside the package, so it works from Python only; pass it: "
                "asr.train(config, loss=...); or call the script that began the run"
            )

    def resume_command(self, path: Path) -> str:
        """Return what resumes the run in `path` with the same parts, or nothing if there are none."""
        if self.resume_with:
            return f"{self.resume_with} --resume {shlex.quote(str(path))}"
        given = [f"{name}=…" for name in ("model", "loss", "train_set", "val_set", "metrics") if getattr(self, name)]
        return f"asr.train(resume={str(path)!r}, {', '.join(given)})" if given else ""


def check_dataset(name: str, dataset: SpeechDataset, sample_rate_hz: int) -> None:
    """Refuse a data set of another class, an empty one, lists of other lengths, and a malformed first utterance."""
    if not isinstance(dataset, SpeechDataset):
        raise UserError(f"{name}: expected a subclass of asr.SpeechDataset, found {type(dataset).__name__}")
    if not len(dataset):
        raise UserError(f"{name}: expected at least one utterance, found none")
    durations_u = dataset.durations_s()
    is_row = isinstance(durations_u, np.ndarray) and durations_u.shape == (len(dataset),)
    if not is_row or durations_u.dtype.kind not in "fiu" or not (np.isfinite(durations_u) & (durations_u >= 0)).all():
        expected = f"seconds float64[{len(dataset)}], none negative"
        raise UserError(f"{name}.durations_s(): expected {expected}, found {describe(durations_u)}")
    for method in ("texts", "names"):
        texts = getattr(dataset, method)()
        if len(texts) != len(dataset) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{name}.{method}(): expected {len(dataset)} texts, found {len(texts)}: {texts!r:.80}")
    try:
        read_checked(dataset, 0, sample_rate_hz)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def check_model(model: nn.Module, config: Config) -> Any:
    """Refuse a network from outside the package that training or transcription cannot use.

    Return what the losses read, as shapes and dtypes, of two utterances.
    """
    b, u, v, i = 2, TOKENS_TO_INIT, config.model.vocab_size, config.model.input_dim
    lengths_b = jax.ShapeDtypeStruct((b,), jnp.int32)
    sound = jax.ShapeDtypeStruct((b, FRAMES_TO_INIT, i), jnp.float32), lengths_b
    key = jax.random.key(0)

    def train(*inputs: jax.Array) -> Any:
        params = init_variables(model, i, key)["params"]
        return model.apply({"params": params}, *inputs, train=True, rngs={"dropout": key, "sampler": key})

    def transcribe(*inputs: jax.Array) -> Any:
        params = init_variables(model, i, key)["params"]
        acoustics = model.apply({"params": params}, *inputs, method="encode")
        return model.apply({"params": params}, acoustics, u, method="decode")

    outputs = trace("model", train, *sound, jax.ShapeDtypeStruct((b, u), jnp.int32), lengths_b)
    hypotheses = trace("model", transcribe, *sound)
    for method, result, name, shape in (
        ("__call__", outputs, "logits_buv", (b, u, v)),
        ("__call__", outputs, "token_count_b", (b,)),
        ("decode", hypotheses, "logits_buv", (b, u, v)),
        ("decode", hypotheses, "token_lengths_b", (b,)),
    ):
        value = getattr(result, name, result)
        if getattr(value, "shape", None) != shape:
            place = f"{method} of {b} utterances with {u} tokens of {v}"
            raise UserError(f"model: {place}: expected {name} {list(shape)}, found {describe(value)}")
    return outputs


def check_loss(loss: Loss, outputs: Any) -> None:
    """Refuse a loss from outside the package that is no function of outputs and tokens to a scalar."""
    if not callable(loss):
        expected = "a function (outputs, tokens_bu, token_lengths_b) → float32[]"
        raise UserError(f"loss: expected {expected}, found {type(loss).__name__}")
    tokens_bu, lengths_b = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((2, TOKENS_TO_INIT), (2,)))
    value = trace("loss", loss, outputs, tokens_bu, lengths_b)
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise UserError(f"loss: expected a scalar float32[], found {describe(value)}")


def check_metrics(metrics: Mapping[str, Metric], reserved: Collection[str], *example: Any) -> None:
    """Refuse metrics that are no mapping of names to functions, have a `reserved` name, or give no number.

    Each metric is tried on `example`, the arguments of a perfect prediction.
    """
    if not isinstance(metrics, Mapping):
        raise UserError(f"metrics: expected a mapping of names to functions, found {type(metrics).__name__}")
    for name, metric in metrics.items():
        if not is_printable(name):
            raise UserError(f"metrics: expected names of printable characters, found {name!r:.80}")
        if name in reserved:
            raise UserError(f"metrics: {name!r} is a name in the record already; choose another")
        if not callable(metric):
            raise UserError(f"metrics[{name!r}]: expected a function, found {type(metric).__name__}")
        try:
            value = metric(*example)
            array = np.asarray(value)
        except Exception as error:
            raised = f"{type(error).__name__}: {error!s:.200}"
            raise UserError(f"metrics[{name!r}]: failed on a perfect prediction ({raised})") from error
        if array.ndim or array.dtype.kind not in "biuf":
            raise UserError(f"metrics[{name!r}]: expected a number, found {value!r:.80}")


def trace(name: str, function: Callable, *arguments: Any) -> Any:
    """Return the shapes and dtypes of what a part from outside the package returns; nothing is compiled."""
    try:
        return jax.eval_shape(function, *arguments)
    except UserError:
        raise
    except Exception as error:
        raised = f"{type(error).__name__}: {error!s:.400}"
        raise UserError(f"{name}: failed on arrays of the run's shapes ({raised})") from error


NO_CUSTOM_PARTS = CustomParts()  # everything is built from the config
