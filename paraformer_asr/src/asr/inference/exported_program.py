"""The whole recognition as one program in StableHLO, which any jax program can run on a CPU or a GPU.

    (weights, wave float32[b, n], lengths int32[b]) → tokens, confidence, start, end, counts

The number of utterances b is free; n is fixed, the longest segment. Batches are made with `jax.vmap` over programs of
one utterance, so that no function inside has to handle an unknown size.

Letters: b utterances, n samples, u token positions.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from asr.config import Config
from asr.data.frontend import Cmvn, num_feature_frames
from asr.inference.ctc_programs import make_best_path
from asr.inference.programs import Heard, Spelling, make_listen, make_spell
from asr.inference.segmentation import longest_segment
from asr.inference.shapes import row_counts
from asr.models import CustomModel, build_model

PLATFORMS = ("cpu", "cuda")
OUTPUTS = ("ids_bu", "confidence_bu", "start_s_bu", "end_s_bu", "lengths_b")


def export_program(
    config: Config, cmvn: Cmvn | None, weights: dict[str, Any], custom: CustomModel | None = None
) -> bytes:
    """Return the serialised program; the parallel decoder, or SenseVoice's best path, whatever `inference.decoder` is.

    The attention is explicit, as jax promises no compatibility for the fused kernels. The weights are arrays by name,
    concrete or abstract; `cmvn` is a constant of the program.
    """
    import jax.export

    encoder = dataclasses.replace(config.model.encoder, attention="explicit")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, encoder=encoder))
    recognise = _make_recognise(config, cmvn, build_model(config.model, custom))

    def program(weights: dict[str, jax.Array], wave_bn: jax.Array, lengths_b: jax.Array) -> tuple[jax.Array, ...]:
        spelling = recognise(nested(weights), wave_bn, lengths_b)
        return tuple(getattr(spelling, name) for name in OUTPUTS)

    b, n = jax.export.symbolic_shape(f"b, {num_samples(config)}")
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}
    export = jax.export.export(jax.jit(program), platforms=PLATFORMS)
    sound = jax.ShapeDtypeStruct((b, n), jnp.float32), jax.ShapeDtypeStruct((b,), jnp.int32)
    return bytes(export(shapes, *sound).serialize())


def num_samples(config: Config) -> int:
    """Return n, the samples of an utterance in the exported program."""
    return longest_segment(config.features.sample_rate_hz, config.inference)


def nested(weights: dict[str, Any]) -> dict[str, Any]:
    """Return the tree of variables from arrays by name: `params/a/b` becomes `["params"]["a"]["b"]`."""
    return {"params": {}, **flax.traverse_util.unflatten_dict(weights, sep="/")}


def _make_recognise(config: Config, cmvn: Cmvn | None, model: nn.Module) -> Callable[..., Spelling]:
    """Return `recognise(variables, wave_bn, lengths_b) → Spelling` with as many rows as tokens can fire."""
    if config.model.name == "sense_voice":
        return _for_each(functools.partial(make_best_path(config, cmvn, model), automaton=None))
    counts = row_counts(num_feature_frames(num_samples(config), config.features), config.model.predictor.smooth_factor)
    listen = _for_each(make_listen(config, cmvn, model))
    spells = [_for_each(_filled_up(make_spell(config, model), rows, counts[-1])) for rows in counts]

    def recognise(variables: Any, wave_bn: jax.Array, lengths_b: jax.Array) -> Spelling:
        heard = listen(variables, wave_bn, lengths_b)
        smallest_that_fits = (heard.acoustics.token_count_b.max() > jnp.array(counts[:-1])).sum()
        return jax.lax.switch(smallest_that_fits, spells, variables, heard)

    return recognise


def _for_each(function: Callable) -> Callable:
    """Return a function of a batch of any size that calls `function` with batches of one."""

    def batch(variables: Any, *arguments: Any) -> Any:
        def one(*parts: Any) -> Any:
            result = function(variables, *jax.tree.map(lambda x: x[None], parts))
            return jax.tree.map(lambda x: x[0], result)

        return jax.vmap(one)(*arguments)

    return batch


def _filled_up(spell: Callable[..., Spelling], num_rows: int, most: int) -> Callable[..., Spelling]:
    """Return `spell` with `num_rows` rows, its result padded with zeros to `most` rows."""

    def filled(variables: Any, heard: Heard) -> Spelling:
        spelling = spell(variables, heard, num_rows)
        return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, most - num_rows))) if x.ndim == 2 else x, spelling)

    return filled
