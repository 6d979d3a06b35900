"""What `import seg` offers: load a model, build one, train one. docs/api.md describes it with examples."""

import logging
import numbers
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seg.config import Config, ModelConfig
from seg.config.reader import load_start_config, override_config
from seg.errors import UserError
from seg.record.changes import keep_decided, list_changes
from seg.record.record_file import load_own_config
from seg.record.resume_rules import ALLOWED_NAMES

if TYPE_CHECKING:
    import flax.linen as nn
    import jax

    from seg.custom import Metric
    from seg.data import SegmentationDataset
    from seg.inference.predictor import Predictor
    from seg.losses import Loss
    from seg.models import CustomModel
    from seg.training.run import Run
    from seg.training.warm_start import InitialModel
    from seg.watch.hook import Hook

log = logging.getLogger("seg")

# The functions import what needs jax themselves: a mistake in a config is answered before it is loaded.


def load(
    folder: str | Path | Sequence[str | Path],
    *,
    checkpoint: Literal["best", "last"] = "best",
    overrides: Sequence[str] = (),
    model: "CustomModel | None" = None,
) -> "Predictor":
    """Return a trained model, ready to segment.

    Args:
        folder: a run directory, or a folder written by `seg export` or `seg convert`. Several, such as the folds of a
            cross-validation, predict together: their probabilities are averaged.
        checkpoint: which checkpoint of a run.
        overrides: changes of the config as `key=value`, such as `inference.mirror=true`.
        model: the network of a run that was trained with one from outside the package: the module, or its class.

    Raises:
        UserError: not such a folder, weights that do not fit its config, or models that differ in classes or images.
    """
    folders = list(folder) if isinstance(folder, list | tuple) else [folder]
    for path in folders:
        check_path("folder", path)
    if checkpoint not in ("best", "last"):
        raise UserError(f"checkpoint: expected best or last, found {checkpoint!r:.80}")
    from seg.inference.encoder_folder import refuse_encoder
    from seg.inference.ensemble import load_ensemble
    from seg.inference.model_settings import explain_old_scale

    for path in folders:
        refuse_encoder(Path(path))
    predictor = load_ensemble(folders, checkpoint, overrides, model)
    for path in folders:
        if explanation := explain_old_scale(Path(path), predictor.config):
            log.warning("%s", explanation)
    return predictor


def save(model: "Predictor", folder: str | Path, *, force: bool = False) -> None:
    """Write a model as a folder for `seg.load` that any program with jax can run, as `seg export` does.

    Args:
        model: as `seg.load` returned it.
        folder: the new folder.
        force: replace an exported model of this name.

    Raises:
        UserError: the folder exists, or the disk refuses.
    """
    from seg.inference.ensemble import Ensemble
    from seg.inference.model_folder import save_model_folder

    if isinstance(model, Ensemble):
        raise UserError(f"{folder}: a model folder holds one model, found {len(model.members)} that predict together")
    parts = model.config, model.classes, model.variables
    save_model_folder(Path(folder), *parts, force=force, model=model.custom_model)


def load_config(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Return the config in a YAML file, or the packaged one of this name, such as `toy_unet`, changed by `overrides`.

    Raises:
        UserError: naming file, line and key of the mistake.
    """
    return load_start_config(path_or_name, overrides)


def build_model(config: Config | ModelConfig) -> "nn.Module":
    """Return the network that a config describes, without parameters.

    Args:
        config: `model.num_classes` is set. A run takes it from its data set.

    Raises:
        UserError: no number of classes.
    """
    from seg.models import build_model

    return build_model(config.model if isinstance(config, Config) else config)


def init(
    model: "nn.Module", key: "jax.Array", image_size: tuple[int, int] = (64, 64), channels: int = 3
) -> dict[str, Any]:
    """Return fresh variables {"params": …, "batch_stats": …} of a network.

    Args:
        model: the network.
        key: of the initial parameters.
        image_size: rows and columns of an image that it accepts.
        channels: of its images.
    """
    import jax

    from seg.models import init_variables

    return jax.jit(lambda key: init_variables(model, image_size, key, channels))(key)


def train(
    config: Config | str | Path | None = None,
    *,
    model: "CustomModel | None" = None,
    loss: "Loss | None" = None,
    train_set: "SegmentationDataset | None" = None,
    val_set: "SegmentationDataset | None" = None,
    metrics: "Mapping[str, Metric] | None" = None,
    resume: str | Path | None = None,
    overrides: Sequence[str] = (),
    allow_changed: Collection[str] = (),
    max_minutes: float | None = None,
    profile_steps: int = 0,
    hooks: "Sequence[Hook]" = (),
    **process: Any,
) -> "Run":
    """Train a model and leave a full record in a run directory.

    In the main thread Ctrl-C and SIGTERM save first: then the run that is returned is not `finished`, and `resume`
    continues it.

    Args:
        config: the settings, a YAML file, or the name of a packaged config; with `resume`, by default the run's own.
        model: a network from outside the package: a Flax module, or a function of `config.model` (such as the module's
            class) that returns one. Called like `seg.build_model`'s.
        loss: `(logits_bhwk, labels_bhw) → float32[]`, instead of the config's loss.
        train_set: training data, instead of the config's; with `val_set`.
        val_set: validation data.
        metrics: name → `(confusion_kk) → float`, reported with each evaluation.
        resume: directory of the run to continue. Parts from outside the package are passed again.
        overrides: changes of the config as `key=value`.
        allow_changed: what may differ from what the run was made of: data, classes, config.
        max_minutes: save and stop after this time.
        profile_steps: number of steps to trace for Perfetto.
        hooks: what listens to the run, see `seg.watch.hook.Hook`.
        process: for the command line: `owns_process` and `report_resume_command`.

    Raises:
        UserError: a config, data or run directory that cannot be used.
        NonFiniteError: a loss or gradient is NaN or infinite.
    """
    from seg.custom import CustomParts
    from seg.inference.predictor import Predictor
    from seg.profiling.memory import MemoryAdvisor
    from seg.profiling.trace import StepTrace
    from seg.training.run import train
    from seg.watch.hook import Hook

    check_allow_changed(allow_changed, resume)
    if max_minutes is not None and not (isinstance(max_minutes, numbers.Real) and max_minutes >= 0):
        raise UserError(f"max_minutes: expected a number of minutes, at least 0, found {max_minutes!r:.80}")
    for hook in hooks:
        if not isinstance(hook, Hook):
            raise UserError(f"hooks: expected instances of seg.Hook, found {hook!r:.80}")
    trace = [StepTrace(profile_steps)] if profile_steps else []
    return train(
        read_config(config, resume, overrides),
        build_predictor=Predictor,
        custom=CustomParts(model, loss, train_set, val_set, metrics or {}),
        resume=None if resume is None else Path(resume),
        allow_changed=allow_changed,
        load_initial=load_initial,
        max_minutes=max_minutes,
        hooks=[MemoryAdvisor(), *trace, *hooks],
        **process,
    )


def read_config(config: Config | str | Path | None, resume: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Return the settings of a run that starts, or that is resumed."""
    if resume is None:
        if config is None:
            raise UserError("a config is missing: give one to start a run, or resume=RUN to resume one")
        return (
            override_config(config, overrides) if isinstance(config, Config) else load_start_config(config, overrides)
        )
    check_path("resume", resume)
    if not Path(resume).is_dir():
        raise UserError(f"--resume: expected a run directory, such as runs/20250131_120000_name, at {resume}")
    own = load_own_config(Path(resume))
    resumed = keep_decided(own, override_config(config if isinstance(config, Config) else own, overrides))
    if config is not None and not isinstance(config, Config):
        stated = keep_decided(resumed, load_start_config(config, overrides))
        if changes := [change.key for change in list_changes(resumed, stated)]:
            raise UserError(
                f"{resume} was started with other settings than {config}: {', '.join(changes)}. Leave --config out to "
                "resume with the run's own."
            )
    return resumed


def check_path(name: str, path: object) -> None:
    """Refuse an argument that is no path."""
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"{name}: expected a path, found {type(path).__name__}")


def check_allow_changed(names: Collection[str], resume: str | Path | None) -> None:
    """Refuse to allow what has no name, or what no run is compared with."""
    if unknown := [name for name in names if name not in ALLOWED_NAMES]:
        raise UserError(f"--allow-changed: expected some of {', '.join(ALLOWED_NAMES)}, found {unknown[0]!r:.80}")
    if names and resume is None:
        raise UserError("--allow-changed goes with --resume: a new run has nothing to be compared with")


def load_initial(folder: str) -> "InitialModel":
    """Return the weights of a model folder or an encoder, or the best ones of a run, to start a run with."""
    from seg.inference.encoder_folder import is_encoder_folder, load_encoder_folder
    from seg.inference.predictor import load_predictor
    from seg.training.warm_start import InitialModel

    if is_encoder_folder(Path(folder)):
        config, variables = load_encoder_folder(Path(folder))
        return InitialModel(folder, None, variables, config.data)
    predictor = load_predictor(folder)
    return InitialModel(folder, predictor.classes, predictor.variables, predictor.config.data)
