"""Trains as asr.train does, and learns from other models besides: what they doubt is part of the labels.

    python scripts/distill.py --teacher RUN --teacher RUN --teacher RUN --config configs/an4_medium.yaml data.root=…

In each step one teacher, drawn at random, hears what the student hears, augmentation included. For every token of the
transcript its CTC head tells what else the token could have been:

    q[u, v] ∝ Σ_t γ[t, u] · p[t, v]   for all v but the blank,   Σ_v q[u, v] = 1

p[t, v] is the head's probability of v at frame t, γ[t, u] that of token u of the transcript being said there, over all
alignments of the transcript (forward-backward). So the teachers agree about tokens. They need not agree about frames:
heads that were trained apart write the same token at different ones. The student's loss is

    loss of the config + weight · ((1 − w) · cross entropy of the decoder with q + w · ctc with q),  w = loss.ctc_weight
    ctc with q = −Σ_t (Σ_u γ'[t, u] · Σ_v q[u, v] · log p'[t, v] + (1 − Σ_u γ'[t, u]) · log p'[t, blank])

where p' and γ' are the student's, γ' without a gradient. If q were certain of the transcript, the last line would have
the gradient of the CTC loss.

Teachers are Paraformers with the student's tokens and features, all with the same settings of `model`. Give them again
with --resume, as the message of a stopped run does: asr.train --resume would go on without them.

Letters: b batch, t frames, u token positions, v vocabulary, k teachers.

Reference: Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network"; for the frames, Kurata and
Audhkhasi 2019, "Guiding CTC Posterior Spike Timings for Improved Posterior Fusion and Knowledge Distillation".
"""

import argparse
import dataclasses
import importlib
import shlex
import sys
import unittest.mock
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from asr.checkpoints.arrays import describe_arrays
from asr.cli import run_training_command
from asr.config import Config
from asr.data.frontend import Cmvn
from asr.errors import UserError
from asr.inference.loading import load_parts
from asr.losses import ctc, divisor
from asr.models import build_model
from asr.ops.masks import length_mask
from asr.record.run_dir import RunDir
from asr.training import run, step
from asr.training.setup import Setup, build_setup

BLANK = 0
train_command = importlib.import_module("asr.train")  # `asr.train` itself is the function


@dataclasses.dataclass(frozen=True)
class Teachers:
    """Several trained models of one kind."""

    folders: Sequence[Path]
    parts: Sequence[tuple[Config, Any, Any, Any]]  # config, tokenizer, CMVN, variables, as of `load_parts`

    @classmethod
    def load(cls, folders: Sequence[Path], average: int) -> "Teachers":
        """Read runs, each the mean of its last checkpoints.

        Raises:
            UserError: no Paraformer with a CTC head, or their models differ.
        """
        parts = [load_parts(folder, "last", average=average) for folder in folders]
        shapes = [describe_arrays(variables) for *_, variables in parts]
        for folder, (config, *_), shape in zip(folders, parts, shapes, strict=True):
            if config.model.name != "paraformer":
                raise UserError(f"{folder}: expected a model of the kind paraformer, found {config.model.name}")
            if not config.model.ctc_head:
                raise UserError(f"{folder}: a teacher needs a CTC head (model.ctc_head), and this model has none")
            if shape != shapes[0]:
                raise UserError(f"{folder}: its arrays are not those of {folders[0]}; teachers need the same model")
            if config.model != parts[0][0].model:
                raise UserError(f"{folder}: its settings of model are not those of {folders[0]}")
        return cls(folders, parts)

    def check(self, student: Setup) -> None:
        """Refuse teachers that write other tokens or hear other features than the student."""
        for folder, (config, tokenizer, cmvn, _) in zip(self.folders, self.parts, strict=True):
            if tokenizer.tokens != student.tokenizer.tokens:
                raise UserError(
                    f"{folder}: its tokens are not those of this run; both need the same texts to make them of"
                )
            differing = {
                name
                for name, value in vars(config.features).items()
                if name not in ("cmvn", "cmvn_file") and value != getattr(student.config.features, name)
            }
            if differing:
                raise UserError(f"{folder}: features.{', features.'.join(sorted(differing))} differ from this run's")
            if not same_cmvn(cmvn, student.cmvn):
                raise UserError(f"{folder}: its normalisation of the features (cmvn.txt) is not that of this run")

    def make_listen(self) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
        """Return `listen(k, features_bti, lengths_b) → logits_btv` of the CTC head of teacher k, int32[]."""
        config = self.parts[0][0]
        model = build_model(dataclasses.replace(config.model, input_dim=config.features.input_dim))
        stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *(variables for *_, variables in self.parts))

        def listen(k, features_bti, lengths_b):
            variables = jax.tree.map(lambda x: x[k], stacked)
            return model.apply(variables, features_bti, lengths_b, method="encode").ctc_logits_btv

        return listen


def same_cmvn(one: Cmvn | None, other: Cmvn | None) -> bool:
    """Return whether two normalisations are the same, up to the digits of a text file."""
    if one is None or other is None:
        return one is other
    return all(np.allclose(getattr(one, x), getattr(other, x), rtol=1e-4, atol=1e-6) for x in ("shift", "scale"))


def occupancy(logits_btv, lengths_b, tokens_bu, token_lengths_b):
    """Return γ float32[b, t, u], the probability that frame t says token u, over all alignments of the transcript.

    It is the derivative of the transcript's log probability by the log probability of the token at the frame.
    """
    valid_bt, valid_bu = length_mask(lengths_b, logits_btv.shape[1]), length_mask(token_lengths_b, tokens_bu.shape[1])
    logits_btv = jnp.where(valid_bt[..., None], logits_btv, 0.0)
    tokens_bu = jnp.where(valid_bu, tokens_bu, BLANK)
    log_blank_bt, log_token_btu = ctc.log_probabilities(logits_btv, tokens_bu, BLANK)

    def log_likelihood(log_token_btu):
        repeated_bu = ctc.repeated(tokens_bu) & valid_bu
        return ctc.log_likelihood(log_blank_bt, log_token_btu, repeated_bu, valid_bt, token_lengths_b).sum()

    return jax.grad(log_likelihood)(log_token_btu) * valid_bt[..., None] * valid_bu[:, None]


def token_labels(logits_btv, lengths_b, tokens_bu, token_lengths_b):
    """Return q float32[b, u, v], what a CTC head takes each token of the transcript for; 0 at padding."""
    logits_btv = jnp.where(length_mask(lengths_b, logits_btv.shape[1])[..., None], logits_btv, 0.0)
    gamma_btu = occupancy(logits_btv, lengths_b, tokens_bu, token_lengths_b)
    tokens_btv = jax.nn.softmax(logits_btv).at[..., BLANK].set(0.0)
    heard_buv = jnp.einsum("btu,btv->buv", gamma_btu, tokens_btv)
    return heard_buv / jnp.maximum(heard_buv.sum(axis=-1, keepdims=True), 1e-30)


def soft_cross_entropy(logits_buv, labels_buv):
    """Return −Σ_bu Σ_v labels · log softmax(logits); a row of zeros counts nothing."""
    real_bu1 = labels_buv.any(axis=-1, keepdims=True)
    return -jnp.sum(labels_buv * jax.nn.log_softmax(jnp.where(real_bu1, logits_buv, 0.0)))


def soft_ctc(logits_btv, lengths_b, tokens_bu, token_lengths_b, labels_buv):
    """Return the CTC loss with a distribution in place of each token, as defined at the top, summed over the batch."""
    inputs = jax.lax.stop_gradient(logits_btv), lengths_b, tokens_bu, token_lengths_b
    gamma_btu = occupancy(*inputs)
    labels_btv = jnp.einsum("btu,buv->btv", gamma_btu, labels_buv)
    valid_bt = length_mask(lengths_b, logits_btv.shape[1])
    labels_btv = labels_btv.at[..., BLANK].set((1 - gamma_btu.sum(axis=-1)) * valid_bt)
    return soft_cross_entropy(logits_btv, labels_btv)


def make_distilling_objective(teachers: Teachers, weight: float) -> Callable:
    """Return what replaces `step.make_objective`: its loss, and the teachers' beside it."""
    listen = teachers.make_listen()

    def make_objective(model: nn.Module, frontend: Callable, config: Config, loss: Any = None) -> Callable:
        def objective(params, part: step.Batch, counts: step.Counts, key) -> tuple[jax.Array, step.Metrics]:
            augment_key, dropout_key, sampler_key, loss_key, teacher_key = jax.random.split(key, 5)
            features_bti, lengths_b = frontend(augment_key, part["wave"], part["wave_lengths"])
            rngs, targets = {"dropout": dropout_key, "sampler": sampler_key}, (part["tokens"], part["token_lengths"])
            outputs = model.apply({"params": params}, features_bti, lengths_b, *targets, train=True, rngs=rngs)
            value, metrics = step.training_loss(outputs, *targets, config, counts, loss_key, loss)
            teacher = jax.random.randint(teacher_key, (), 0, len(teachers.folders))
            labels_buv = token_labels(listen(teacher, features_bti, lengths_b), lengths_b, *targets)
            of_head = soft_ctc(outputs.ctc_logits_btv, outputs.frame_lengths_b, *targets, labels_buv)
            of_decoder = soft_cross_entropy(outputs.logits_buv, labels_buv)
            w = config.loss.ctc_weight
            soft = (1 - w) * of_decoder / counts[divisor("cross_entropy", config.loss)]
            soft += w * of_head / counts[divisor("ctc", config.loss)]
            return value + weight * soft, metrics | {"loss": value + weight * soft}

        return objective

    return make_objective


def main() -> int:
    """Train; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="All other arguments are those of asr train: see asr train --help.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--teacher", type=Path, action="append", metavar="RUN", default=[], help="once for each teacher"
    )
    parser.add_argument("--weight", type=float, default=1.0, help="of the teachers' labels (default: 1)")
    parser.add_argument(
        "--average", type=int, default=5, metavar="N", help="of a teacher's last checkpoints (default: 5)"
    )
    own, rest = parser.parse_known_args()
    with unittest.mock.patch.object(sys, "argv", [sys.argv[0], *rest]):
        arguments = train_command.parse_arguments()
    if not own.teacher:
        raise UserError("give --teacher RUN, once for each teacher")
    if not 0 < own.weight < float("inf"):
        raise UserError(f"--weight: expected a positive number, found {own.weight}")
    teachers = Teachers.load(own.teacher, own.average)

    def build_checked(*args: Any, **kwargs: Any) -> Setup:
        student = build_setup(*args, **kwargs)
        model = student.config.model
        if not model.ctc_head or model.predictor.append_eos:
            raise UserError("a student needs model.ctc_head=true and model.predictor.append_eos=false")
        teachers.check(student)
        return student

    teacher_options = [word for folder in own.teacher for word in ("--teacher", str(folder.absolute()))]
    options = shlex.join([*teacher_options, "--weight", str(own.weight), "--average", str(own.average)])

    plain_init = RunDir.__init__

    def init(self: RunDir, path: Path) -> None:
        plain_init(self, path)
        self.resume_command = f"python {sys.argv[0]} {options} --resume {path}"

    with (
        unittest.mock.patch.object(RunDir, "__init__", init),
        unittest.mock.patch.object(train_command, "parse_arguments", lambda: arguments),
        unittest.mock.patch.object(run, "build_setup", build_checked),
        unittest.mock.patch.object(step, "make_objective", make_distilling_objective(teachers, own.weight)),
    ):
        return train_command.main()


if __name__ == "__main__":
    run_training_command(main)
