"""Trains as asr.train does, but by the rule of the published code that misses some last fires.

    python scripts/train_losing_fires.py --config configs/an4_small.yaml data.root=FOLDER_OF_AN4

A loop adds scaled weights to a float32 level and fires where it is ≥ 1. Where rounding leaves the level just below 1 at
the end, the last token gets no embedding. `cif.scaled_cumulative` never loses one; this shows what that is worth.
"""

import unittest.mock

import jax
import jax.numpy as jnp

from asr.cli import run_training_command
from asr.ops import cif
from asr.train import main as train

EXACT = cif.scaled_cumulative


def lose_last_fire(alpha_bt, valid_bt, num_tokens_b):
    """Return what `cif.scaled_cumulative` does, cut off where the loop stops firing; same arguments."""
    exact_bt = EXACT(alpha_bt, valid_bt, num_tokens_b)
    scaled_bt = alpha_bt * (num_tokens_b / jnp.maximum(alpha_bt.sum(1), 1e-9))[:, None]

    def integrate(carry, weight_b):
        level_b, fired_b = carry
        level_b = level_b + weight_b
        return (level_b - (level_b >= 1), fired_b + (level_b >= 1)), None

    zero_b = jnp.zeros(len(alpha_bt), jnp.float32)
    (_, fired_b), _ = jax.lax.scan(integrate, (zero_b, zero_b), jax.lax.stop_gradient(scaled_bt).T)
    return jnp.minimum(exact_bt, fired_b[:, None])


def main() -> int:
    """Train; return the exit code."""
    with unittest.mock.patch.object(cif, "scaled_cumulative", lose_last_fire):
        return train()


if __name__ == "__main__":
    run_training_command(main)
