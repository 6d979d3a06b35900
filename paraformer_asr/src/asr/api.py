"""What `import asr` offers: load a model, build one, train one. docs/api.md describes it with examples."""

import dataclasses
import numbers
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from asr.config import Config, ModelConfig
from asr.config.reader import load_start_config, override_config
from asr.errors import UserError
from asr.published.kinds import check_kind, kind_of
from asr.record.changes import keep_decided, list_changes
from asr.record.record_file import load_own_config
from asr.record.resume_rules import ALLOWED_NAMES

if TYPE_CHECKING:
    import flax.linen as nn
    import jax

    from asr.custom import Loss, Metric
    from asr.data import SpeechDataset
    from asr.inference.punctuation import Punctuator
    from asr.inference.transcriber import Transcriber
    from asr.inference.voice_activity import VoiceActivityDetector
    from asr.models import CustomModel
    from asr.training.run import Run
    from asr.training.warm_start import InitialModel
    from asr.watch.hook import Hook


def load(
    folder: str | Path,
    *,
    checkpoint: Literal["best", "last"] = "best",
    average: int = 1,
    overrides: Sequence[str] = (),
    model: "CustomModel | None" = None,
    vad: "VoiceActivityDetector | str | Path | None" = None,
    punct: "Punctuator | str | Path | None" = None,
) -> Any:
    """Return a trained model by its kind: a `Transcriber`, a `VoiceActivityDetector` or a `Punctuator`.

    Args:
        folder: a run directory, a folder written by `asr export` or `asr convert`, or a FunASR model as published.
        checkpoint: which checkpoint of a run.
        average: use the mean of this many best or last checkpoints of a run.
        overrides: changes of the config as `key=value`, such as `inference.decoder=ctc`.
        model: the network of a run that was trained with one from outside the package: the module, or its class.
        vad: a voice activity detector, or its folder: cuts long sound for a transcriber.
        punct: a punctuation model, or its folder: adds signs to the transcripts.

    Raises:
        UserError: not such a folder, or weights that do not fit its config.
    """
    check_path("folder", folder)
    if checkpoint not in ("best", "last"):
        raise UserError(f"checkpoint: expected best or last, found {checkpoint!r:.80}")
    kind = kind_of(folder)
    if kind in ("vad", "punctuation") and any(part is not None for part in (vad, punct, model)):
        raise UserError(f"{folder}: a model of the kind {kind}, which writes no text: leave vad, punct and model out")
    if kind == "vad":
        from asr.inference.voice_activity import load_detector

        return load_detector(folder, checkpoint, overrides, average)
    if kind == "punctuation":
        from asr.inference.punctuation import load_punctuator

        return load_punctuator(folder, overrides)
    from asr.inference.transcriber import load_transcriber

    transcriber = load_transcriber(folder, checkpoint, overrides, average, model)
    transcriber.vad, transcriber.punctuator = load_part("vad", vad), load_part("punctuation", punct)
    return transcriber


def load_part(kind: Literal["vad", "punctuation"], part: Any, overrides: Sequence[str] = ()) -> Any:
    """Return the detector or punctuator in a folder; one that is loaded already, or None, as it is."""
    if isinstance(part, str | os.PathLike):
        check_kind(part, kind)
        return load(part, overrides=overrides)
    if part is not None and not hasattr(part, {"vad": "split", "punctuation": "signs"}[kind]):
        raise UserError(f"{kind}: expected a model of this kind or its folder, found {type(part).__name__}")
    return part


def save(transcriber: "Transcriber | VoiceActivityDetector", folder: str | Path, *, force: bool = False) -> None:
    """Write a model as a folder for `asr.load` that any program with jax can run, as `asr export` does.

    A voice activity detector is written in FunASR's layout, as `asr convert --to funasr` does.

    Args:
        transcriber: as `asr.load` returned it.
        folder: the new folder.
        force: replace an exported model of this name.

    Raises:
        UserError: the folder exists, or the disk refuses.
    """
    from asr.inference.int8_weights import float_variables
    from asr.inference.model_folder import save_model_folder
    from asr.inference.voice_activity import VoiceActivityDetector, save_detector

    if isinstance(transcriber, VoiceActivityDetector):
        save_detector(transcriber, Path(folder), force=force)
        return
    variables = float_variables(transcriber.variables)  # some may be rounded
    parts = transcriber.config, transcriber.tokenizer, transcriber.cmvn, variables
    save_model_folder(Path(folder), *parts, force=force, custom=transcriber.custom_model)


def load_config(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Return the config in a YAML file, or the packaged one of this name, such as `toy`, changed by `overrides`.

    Raises:
        UserError: naming file, line and key of the mistake.
    """
    return load_start_config(path_or_name, overrides)


def build_model(config: Config | ModelConfig) -> "nn.Module":
    """Return the network that a config describes, without parameters; `model.vocab_size` is set."""
    from asr.models import build_model

    if isinstance(config, Config):
        config = dataclasses.replace(config.model, input_dim=config.features.input_dim)
    return build_model(config)


def init(model: "nn.Module", key: "jax.Array", input_dim: int | None = None) -> dict[str, Any]:
    """Return fresh variables {"params": …} of a network.

    Args:
        model: the network.
        key: of the initial parameters.
        input_dim: width of an input frame; by default `model.config.input_dim`.
    """
    import jax

    from asr.models import init_variables

    input_dim = model.config.input_dim if input_dim is None else input_dim
    return jax.jit(lambda key: init_variables(model, input_dim, key))(key)


def train(
    config: Config | str | Path | None = None,
    *,
    model: "CustomModel | None" = None,
    loss: "Loss | None" = None,
    train_set: "SpeechDataset | None" = None,
    val_set: "SpeechDataset | None" = None,
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
            class) that returns one. Called like `asr.Paraformer`.
        loss: `(outputs, tokens_bu, token_lengths_b) → float32[]`, a sum over the batch, instead of the config's loss.
        train_set: training data, instead of the config's; with `val_set`.
        val_set: validation data.
        metrics: name → `(references, hypotheses) → float`, reported with each evaluation.
        resume: directory of the run to continue. Parts from outside the package are passed again.
        overrides: changes of the config as `key=value`.
        allow_changed: what may differ from what the run was made of: data, tokenizer, normalisation, config.
        max_minutes: save and stop after this time.
        profile_steps: number of steps to trace for Perfetto.
        hooks: what listens to the run, see `asr.watch.hook.Hook`.
        process: for the command line: `owns_process` and `report_resume_command`.

    Raises:
        UserError: a config, data or run directory that cannot be used.
        NonFiniteError: a loss or gradient is NaN or infinite.
    """
    from asr.custom import CustomParts
    from asr.profiling.memory import MemoryAdvisor
    from asr.profiling.trace import StepTrace
    from asr.training.run import train
    from asr.watch.hook import Hook

    check_allow_changed(allow_changed, resume)
    check_max_minutes(max_minutes)
    for hook in hooks:
        if not isinstance(hook, Hook):
            raise UserError(f"hooks: expected instances of asr.watch.hook.Hook, found {hook!r:.80}")
    trace = [StepTrace(profile_steps)] if profile_steps else []
    return train(
        read_config(config, resume, overrides),
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
        read = override_config if isinstance(config, Config) else load_start_config
        return read(config, overrides)
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


def check_max_minutes(minutes: float | None) -> None:
    """Refuse what is no time after which a run could stop."""
    if minutes is not None and not (isinstance(minutes, numbers.Real) and minutes >= 0):
        raise UserError(f"max_minutes: expected a number of minutes, at least 0, found {minutes!r:.80}")


def load_initial(folder: str) -> "InitialModel":
    """Return the weights of a model folder, or the best ones of a run, to start a run with."""
    from asr.inference.loading import load_parts
    from asr.training.warm_start import InitialModel

    _, tokenizer, _, variables = load_parts(folder)
    return InitialModel(folder, tokenizer, variables)
