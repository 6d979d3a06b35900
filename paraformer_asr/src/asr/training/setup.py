"""Builds the pieces of a run from its config: data, tokenizer, model, optimizer, jitted steps, placement on devices."""

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from asr.config import Config
from asr.config.rules import check_trainable
from asr.custom import NO_CUSTOM_PARTS, CustomParts, check_loss, check_metrics, check_model
from asr.data import build_dataset
from asr.data.cmvn import compute_cmvn, load_cmvn
from asr.data.dataset import SpeechDataset
from asr.data.frontend import Cmvn, make_frontend, make_train_frontend
from asr.data.loader import EvalLoader, TrainLoader
from asr.data.text.building import choose_tokenizer
from asr.data.text.comparison import suit_characters
from asr.data.text.tokenizer import Tokenizer
from asr.errors import UserError
from asr.models import abstract_variables, build_model
from asr.record.evaluation import SUMMARIES
from asr.record.report import COLUMNS
from asr.record.text_coverage import check_texts
from asr.training.optimizer import build_optimizer, build_schedule
from asr.training.parameter_groups import FrozenParts, check_groups, has_groups
from asr.training.sharding import GatheredParameters, Placement, build_placement
from asr.training.state import TrainState, init_state
from asr.training.step import make_eval_step, make_train_step
from asr.training.warm_start import InitialModel, WarmStart, plan_warm_start

log = logging.getLogger("asr")

ON_DEVICE = ("wave", "wave_lengths", "tokens", "token_lengths")  # the parts of a batch that the steps take
WHY_CER = ": the model writes no spaces between words of the validation texts, so a sentence is one word"


@dataclasses.dataclass(frozen=True)
class Setup:
    """The pieces of a run."""

    config: Config  # the resolved config, `model.vocab_size` and `model.input_dim` filled in
    tokenizer: Tokenizer  # of the run
    cmvn: Cmvn | None  # normalisation of the features, or None
    loader: TrainLoader  # batches of the training split, by step
    val_loader: EvalLoader  # batches of the validation split, each utterance once
    train_set: SpeechDataset  # the training split
    val_set: SpeechDataset  # the validation split
    model: nn.Module  # the network, without parameters
    init: Callable[[], TrainState]  # `() → TrainState`, fresh weights before the first step, placed on the devices
    warm_start: WarmStart | None  # the arrays that are then copied from another model, or None
    train_step: Callable[..., tuple[TrainState, dict, jax.Array]]  # see `make_train_step`; donates the state's memory
    eval_step: Callable[..., dict]  # `(variables, batch, stop_d) → results`; compiled once for each shape
    schedule: optax.Schedule  # learning rate by step
    placement: Placement  # of state and batches on the devices
    abstract_state: TrainState  # the state's shapes, each with its placement
    flags: dict[bool, jax.Array]  # the `stop_d` of the steps, by whether this process wants to stop
    custom: CustomParts = NO_CUSTOM_PARTS  # the parts from outside the package

    @property
    def num_steps(self) -> int:
        """Updates in the whole run."""
        return self.loader.num_steps

    def steps_in(self, num_epochs: int) -> int:
        """Return the updates in a number of passes over the training data."""
        return int(self.loader.plan.epoch_starts(num_epochs)[-1])

    def epochs_after(self, step: int) -> int:
        """Return the passes over the training data, the last one perhaps incomplete, in a number of updates."""
        return int(np.searchsorted(self.loader.epoch_starts, step))

    def evaluates_after(self, step: int) -> bool:
        """Return whether the state is evaluated after a number of updates."""
        ends = self.loader.epoch_starts[:: self.config.training.eval_every_epochs][1:]
        return step in ends or step == self.num_steps

    def put_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Return the batch on the devices, made of the shares of all processes."""
        return self.placement.put_batch({name: batch[name] for name in ON_DEVICE})


def build_setup(
    config: Config,
    trained: tuple[Tokenizer, Cmvn | None] | None = None,
    initial: InitialModel | None = None,
    custom: CustomParts = NO_CUSTOM_PARTS,
) -> Setup:
    """Return the pieces of the run that `config` describes. Nothing is compiled yet, except for the statistics.

    Without `trained`, a tokenizer and normalisation, such as those of the run that is resumed, both are made from the
    training split, or taken from the model in `config.init`. `initial` is the model whose weights the run begins with.
    """
    check_trainable(config.model, "model.name")
    custom.require_loss(config)
    check_metrics(custom.metrics, {*COLUMNS, *SUMMARIES}, ["one two"], ["one two"])
    train_set = build_dataset(config, "train", custom.train_set)
    val_set = build_dataset(config, "val", custom.val_set)
    tokenizer = trained[0] if trained else choose_tokenizer(config, train_set.texts())
    config = with_widths(config, tokenizer)
    check_texts(config, tokenizer, train_set, val_set)
    config = with_selection(config, tokenizer, val_set.texts())
    placement = build_placement(config.mesh)
    config = with_row_multiple(config, placement.num_devices)
    share = jax.process_index(), jax.process_count()
    loader = TrainLoader(train_set, tokenizer, config, placement.num_devices, share)
    config = with_lengths(config, train_set.durations_s()[loader.kept])
    val_loader = EvalLoader(val_set, tokenizer, config, placement.num_devices, share)
    cmvn = trained[1] if trained else build_cmvn(config, train_set)
    model = build_model(config.model, custom.model)
    if custom.model is not None or custom.loss is not None:
        outputs = check_model(model, config)
    if custom.loss is not None:
        check_loss(custom.loss, outputs)
    shapes = abstract_variables(config.model, model)["params"] if initial or has_groups(config.optimizer) else None
    if has_groups(config.optimizer):
        check_groups(config.optimizer, shapes)
    optimizer = build_optimizer(config.optimizer, loader.num_steps)
    return Setup(
        config=config,
        tokenizer=tokenizer,
        cmvn=cmvn,
        loader=loader,
        val_loader=val_loader,
        train_set=train_set,
        val_set=val_set,
        model=model,
        warm_start=plan_warm_start(initial, shapes, tokenizer) if initial else None,
        schedule=build_schedule(config.optimizer, loader.num_steps),
        placement=placement,
        flags={stop: placement.put_flag(stop) for stop in (False, True)},
        custom=custom,
        **jit_steps(config, model, optimizer, cmvn, placement, custom),
    )


def jit_steps(
    config: Config,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    cmvn: Cmvn | None,
    placement: Placement,
    custom: CustomParts = NO_CUSTOM_PARTS,
) -> dict[str, Any]:
    """Return `init`, `train_step` and `eval_step`, jitted and placed, and `abstract_state`."""
    unstacked = dataclasses.replace(config.features, lfr_m=1, lfr_n=1)
    applied = GatheredParameters(model, placement) if placement.is_spread else model
    trained_model = FrozenParts(applied, config.optimizer.freeze) if config.optimizer.freeze else applied
    train_frontend = make_train_frontend(config.features, config.data, cmvn)
    objective = custom.objective and custom.objective(trained_model, train_frontend, config)
    train_step = make_train_step(trained_model, optimizer, train_frontend, config, custom.loss, objective)
    eval_step = make_eval_step(
        applied, make_frontend(config.features, cmvn), make_frontend(unstacked, None), config, custom.loss
    )

    def init() -> TrainState:
        key = jax.random.key(config.seed)
        return init_state(model, config.model.input_dim, optimizer, key, with_ema=config.training.ema_decay > 0)

    shapes = jax.eval_shape(init)
    of_state, batch, everywhere = placement.of_state(shapes), placement.over_devices, placement.replicated
    return {
        "init": jax.jit(init, out_shardings=of_state),
        "train_step": jax.jit(
            train_step,
            donate_argnums=0,
            in_shardings=(of_state, batch, everywhere, batch),
            out_shardings=(of_state, everywhere, everywhere),
        ),
        "eval_step": jax.jit(eval_step, in_shardings=(of_state.variables, batch, batch), out_shardings=everywhere),
        "abstract_state": jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, of_state
        ),
    }


def with_widths(config: Config, tokenizer: Tokenizer) -> Config:
    """Return the config with the model's widths: of the tokenizer's vocabulary and of the features."""
    stated = config.model.vocab_size
    if stated not in (0, tokenizer.vocab_size):
        raise UserError(
            f"model.vocab_size is {stated}, but the tokenizer has {tokenizer.vocab_size} tokens, special ones counted; "
            "leave it 0 to take it from there"
        )
    widths = {"vocab_size": tokenizer.vocab_size, "input_dim": config.features.input_dim}
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **widths))


def with_selection(config: Config, tokenizer: Tokenizer, val_texts: Sequence[str]) -> Config:
    """Return the config with the error rate that chooses the best checkpoint, `auto` resolved by the texts."""
    select_by = config.training.select_by
    unspaced = suit_characters(tokenizer, val_texts)
    if select_by == "auto":
        select_by = "cer" if unspaced else "wer"
        log.info("the best checkpoint is the one with the lowest %s%s", select_by.upper(), WHY_CER if unspaced else "")
    elif select_by == "wer" and unspaced:
        log.warning("training.select_by: wer hardly distinguishes checkpoints%s; use training.select_by=cer", WHY_CER)
    return dataclasses.replace(config, training=dataclasses.replace(config.training, select_by=select_by))


def with_lengths(config: Config, durations_u: np.ndarray) -> Config:
    """Return the config with the lengths of the training utterances, by which `asr.infer` cuts long sound."""
    trained_s = tuple(round(float(seconds), 2) for seconds in np.quantile(durations_u, [0.5, 0.95, 1.0]))
    return dataclasses.replace(config, inference=dataclasses.replace(config.inference, trained_s=trained_s))


def with_row_multiple(config: Config, num_devices: int) -> Config:
    """Return the config with what the rows of a batch are a multiple of, so that other devices get the same batches."""
    multiple = config.training.row_multiple or num_devices
    if multiple % num_devices:
        raise UserError(
            f"training.row_multiple {multiple} cannot be spread evenly over {num_devices} devices; "
            f"training.row_multiple={math.lcm(multiple, num_devices)} can, but the batches are others from there on"
        )
    return dataclasses.replace(config, training=dataclasses.replace(config.training, row_multiple=multiple))


def build_cmvn(config: Config, train_set: SpeechDataset) -> Cmvn | None:
    """Return the normalisation that the config asks for."""
    match config.features.cmvn:
        case "none":
            return None
        case "file":
            return load_cmvn(Path(config.features.cmvn_file))
        case "init":
            return load_cmvn(Path(config.init) / "cmvn.txt")
        case _:
            log.info("computing mean and variance of the features of %d utterances", len(train_set))
            settings = {"max_seconds": config.data.max_seconds, "num_threads": max(config.data.num_threads, 1)}
            return compute_cmvn(train_set, config.features, **settings)
