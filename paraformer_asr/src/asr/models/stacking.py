"""Encoder parameters in their two forms: a block by its own name, or all equal blocks stacked for the scanned encoder.

    encoder/block0 … encoder/block49        model.encoder.scan: false
    encoder/block0, encoder/blocks[49, …]    model.encoder.scan: true; the first block has another width

A deep encoder compiles sooner as a loop and often runs faster unrolled: train it in one form, use it in the other.
"""

from typing import Any

import jax
import jax.numpy as jnp


def unstack_blocks(params: Any) -> Any:
    """Return the parameters of the unrolled model from those of the scanned one; others are returned as they are."""
    encoder = dict(params.get("encoder", {}))
    stacked = encoder.pop("blocks", None)
    if stacked is None:
        return params
    first = _count_named(encoder)
    for layer in range(jax.tree.leaves(stacked)[0].shape[0]):
        encoder[f"block{first + layer}"] = jax.tree.map(lambda leaf, layer=layer: leaf[layer], stacked)
    return {**params, "encoder": encoder}


def stack_blocks(params: Any) -> Any:
    """Return the parameters of the scanned model from those of the unrolled one; others are returned as they are."""
    encoder = dict(params["encoder"])
    if "blocks" in encoder:
        return params
    layers = [encoder.pop(f"block{layer}") for layer in range(_count_named(encoder))]
    # Only blocks of equal shapes can be stacked; the first may take wider frames.
    alike = layers[1:] if _shapes(layers[0]) != _shapes(layers[-1]) else layers
    if len(alike) < len(layers):
        encoder["block0"] = layers[0]
    encoder["blocks"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alike)
    return {**params, "encoder": encoder}


def _count_named(encoder: dict) -> int:
    return sum(name.removeprefix("block").isdigit() for name in encoder)


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(tree)]
