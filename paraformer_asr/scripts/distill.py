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

Teachers are Paraformers with the student's features, all with the same settings of `model`, the same tokens and the
same normalisation, which the student gets, too. With --resume they are given again, as the message of a stopped run
says.

Letters: b batch, t frames, u token positions, v vocabulary, k teachers.

Reference: Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network"; for the frames, Kurata and
Audhkhasi 2019, "Guiding CTC Posterior Spike Timings for Improved Posterior Fusion and Knowledge Distillation".
"""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from asr.allocator import keep_freed
from asr.api import check_max_minutes, load_initial, read_config
from asr.checkpoints.arrays import describe_arrays
from asr.cli import run_training_command
from asr.config import Config
from asr.custom import CustomParts, MakeObjective
from asr.data.frontend import Cmvn
from asr.data.text.tokenizer import Tokenizer
from asr.errors import UserError
from asr.inference.loading import load_parts
from asr.losses import ctc, divisor
from asr.models import build_model
from asr.ops.masks import length_mask
from asr.profiling.memory import MemoryAdvisor
from asr.record.run_dir import load_run
from asr.training.run import train
from asr.training.step import Batch, Counts, Metrics, training_loss

BLANK = 0


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

    def check(self, config: Config, trained: tuple[Tokenizer, Cmvn | None]) -> None:
        """Refuse a student with other features, or another tokenizer and normalisation: `trained`, of its run."""
        if not config.model.ctc_head or config.model.predictor.append_eos:
            raise UserError("a student needs model.ctc_head=true and model.predictor.append_eos=false")
        for folder, (teacher, tokenizer, cmvn, _) in zip(self.folders, self.parts, strict=True):
            differing = {
                name
                for name, value in vars(teacher.features).items()
                if name not in ("cmvn", "cmvn_file") and value != getattr(config.features, name)
            }
            if differing:
                raise UserError(f"{folder}: features.{', features.'.join(sorted(differing))} differ from this run's")
            if tokenizer.tokens != trained[0].tokens:
                raise UserError(f"{folder}: its tokens are not those of this run")
            if not same_cmvn(cmvn, trained[1]) or (cmvn is None) != (config.features.cmvn == "none"):
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


def make_distilling_objective(teachers: Teachers, weight: float) -> MakeObjective:
    """Return the objective of training with the teachers' loss beside that of the config."""
    listen = teachers.make_listen()

    def make_objective(model: nn.Module, frontend: Callable, config: Config) -> Callable:
        def objective(params, part: Batch, counts: Counts, key) -> tuple[jax.Array, Metrics]:
            augment_key, dropout_key, sampler_key, loss_key, teacher_key = jax.random.split(key, 5)
            features_bti, lengths_b = frontend(augment_key, part["wave"], part["wave_lengths"])
            rngs, targets = {"dropout": dropout_key, "sampler": sampler_key}, (part["tokens"], part["token_lengths"])
            outputs = model.apply({"params": params}, features_bti, lengths_b, *targets, train=True, rngs=rngs)
            value, metrics = training_loss(outputs, *targets, config, counts, loss_key)
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


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--teacher", type=Path, action="append", metavar="RUN", required=True, help="once for each")
    parser.add_argument("--weight", type=float, default=1.0, help="of the teachers' labels (default: 1)")
    average = "the mean of a teacher's last checkpoints (default: 5)"
    parser.add_argument("--average", type=int, default=5, metavar="N", help=average)
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--config", help="YAML file, or the name of a packaged config")
    start.add_argument("--resume", type=Path, metavar="RUN", help="continue this run; give the teachers again")
    parser.add_argument("--max-minutes", type=float, help="save and stop after this time")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example training.num_epochs=5")
    arguments = parser.parse_intermixed_args()
    if not 0 < arguments.weight < float("inf"):
        raise UserError(f"--weight: expected a positive number, found {arguments.weight}")
    check_max_minutes(arguments.max_minutes)
    return arguments


def main() -> int:
    """Train; return the exit code."""
    arguments = parse_arguments()
    config = read_config(arguments.config, arguments.resume, arguments.overrides)
    if config.training.keep_freed:
        keep_freed()
    teachers = Teachers.load(arguments.teacher, arguments.average)
    trained = load_run(arguments.resume)[1:] if arguments.resume else teachers.parts[0][1:3]
    teachers.check(config, trained)
    folders = [word for folder in arguments.teacher for word in ("--teacher", str(folder.absolute()))]
    command = ["python", sys.argv[0], *folders, "--weight", str(arguments.weight), "--average", str(arguments.average)]
    objective = make_distilling_objective(teachers, arguments.weight)
    return train(
        config,
        custom=CustomParts(objective=objective, trained=trained, resume_with=shlex.join(command)),
        hooks=[MemoryAdvisor()],
        resume=arguments.resume,
        load_initial=load_initial,
        max_minutes=arguments.max_minutes,
        owns_process=True,
    ).exit_code


if __name__ == "__main__":
    run_training_command(main)
