"""Groups of parameters, by their names: which are frozen, and the factor on the learning rate of the others.

A name is a path below `params`, such as `encoder/block0/qkv/kernel`. A pattern is the beginning of a path, in whole
parts: `encoder/block1` means all arrays of that block and none of `encoder/block10`. Within a part `*` stands for any
characters: `encoder/*/norm1`. Stacked layers (`model.encoder.scan`, one array for all equal blocks) have two names:
`blocks` for all of them, and `block0`, `block1`, … for each, as if the encoder were unrolled.
"""

import difflib
import fnmatch
import re
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from asr.checkpoints.arrays import named_arrays
from asr.config import OptimizerConfig
from asr.errors import UserError
from asr.models import count_parameters

STACK = "blocks"  # name of the module whose arrays have a leading axis of layers
BLOCK = re.compile(r"encoder/block(\d+)/")


def matches(pattern: str, name: str) -> bool:
    """Return whether a name begins with the pattern's parts."""
    patterns, parts = pattern.split("/"), name.split("/")
    return len(patterns) <= len(parts) and all(map(fnmatch.fnmatchcase, parts, patterns))


def layer_names(params: Any) -> dict[str, list[tuple[str, ...]]]:
    """Return for each array, by name, the names of each of its layers; an array that is not stacked is one layer."""
    arrays = named_arrays(params)
    first = len({match[1] for match in map(BLOCK.match, arrays) if match})  # blocks before the stacked ones
    layers_of = {}
    for name, leaf in arrays.items():
        parent, stacked, rest = name.partition(f"/{STACK}/")
        layers = range(first, first + leaf.shape[0]) if stacked else ()
        layers_of[name] = [(name, f"{parent}/block{layer}/{rest}") for layer in layers] if stacked else [(name,)]
    return layers_of


def frozen_mask(patterns: tuple[str, ...], params: Any) -> Any:
    """Return for each parameter, in their tree, whether it is frozen."""
    values = []
    for name, layers in layer_names(params).items():
        frozen = [any(matches(p, n) for p in patterns for n in names) for names in layers]
        if any(frozen) != all(frozen):
            raise UserError(
                f"optimizer.freeze: {name} holds {len(layers)} layers in one array, of which only "
                f"{sum(frozen)} would be frozen; freeze all of them, or set model.encoder.scan=false"
            )
        values.append(all(frozen))
    return jax.tree.unflatten(jax.tree.structure(params), values)


class FrozenParts:
    """Applies `model` with the parameters that `patterns` name cut off from the gradient.

    The compiler then leaves out the backward pass of a frozen encoder: nothing depends on it.
    """

    def __init__(self, model: nn.Module, patterns: tuple[str, ...]):
        self.model, self.patterns = model, patterns

    def apply(self, variables: dict[str, Any], *args, **kwargs) -> Any:
        """Return what `model.apply` returns."""
        params = variables["params"]
        mask = frozen_mask(self.patterns, params)
        params = jax.tree.map(lambda x, is_frozen: jax.lax.stop_gradient(x) if is_frozen else x, params, mask)
        return self.model.apply({**variables, "params": params}, *args, **kwargs)


def exclude_frozen(rule: optax.GradientTransformation, patterns: tuple[str, ...]) -> optax.GradientTransformation:
    """Return the update rule for the other parameters alone: a frozen one has no moments, decay or share of a norm."""

    def frozen(params: Any) -> Any:
        return frozen_mask(patterns, params)

    def trained(params: Any) -> Any:
        return jax.tree.map(lambda is_frozen: not is_frozen, frozen(params))

    # Updates of −0.0 change no bit: x + (−0.0) is x for every x, −0.0 too.
    keep = optax.stateless(lambda updates, _: jax.tree.map(lambda update: jnp.full_like(update, -0.0), updates))
    return optax.chain(optax.masked(rule, trained), optax.masked(keep, frozen))


def rate_factors(config: OptimizerConfig, params: Any) -> Any:
    """Return for each parameter, in their tree, the factor on its learning rate.

    factor = rate_factors[longest pattern that matches] · layer_decay^distance

    The distance counts blocks from the encoder's end: 0 for its last norm, the predictor, the decoder and the CTC head,
    1 for the last block, and so on to the first block and the input map before it.

    Returns:
        A float, or for stacked layers a float32[l, 1, …] that is multiplied with the array.

    Reference: Bao et al., 2022 (BEiT), appendix, for the decay over the layers.
    """
    names, leaves = layer_names(params), jax.tree.leaves(params)
    distances = _distances(names)
    values = []
    for layers, leaf in zip(names.values(), leaves, strict=True):
        factors = [_stated_factor(config, layer) * config.layer_decay ** distances[layer[-1]] for layer in layers]
        stacked = np.array(factors, np.float32).reshape(-1, *(1,) * (len(leaf.shape) - 1))
        values.append(stacked if len(layers[0]) > 1 else factors[0])
    return jax.tree.unflatten(jax.tree.structure(params), values)


def check_groups(config: OptimizerConfig, params: Any) -> None:
    """Refuse patterns that name nothing, and a frozen model; `params` may be their shapes."""
    names = [name for layers in layer_names(params).values() for layer in layers for name in layer]
    for key, patterns in (("freeze", config.freeze), ("rate_factors", config.rate_factors)):
        for pattern in patterns:
            if not any(matches(pattern, name) for name in names):
                raise UserError(f"optimizer.{key}: no parameter is called {pattern!r}; {_near(pattern, names)}")
    if all(jax.tree.leaves(frozen_mask(config.freeze, params))):
        raise UserError(f"optimizer.freeze: {', '.join(config.freeze)} leaves no parameter to be trained")


def has_groups(config: OptimizerConfig) -> bool:
    """Return whether parameters are trained differently from each other."""
    return bool(config.freeze or config.rate_factors or config.layer_decay != 1)


def describe_groups(config: OptimizerConfig, params: Any) -> str:
    """Return a line on what is trained, and how fast."""
    frozen = jax.tree.leaves(frozen_mask(config.freeze, params))
    leaves, factors = jax.tree.leaves(params), jax.tree.leaves(rate_factors(config, params))
    trained = [i for i, is_frozen in enumerate(frozen) if not is_frozen]
    low, high = min(np.min(factors[i]) for i in trained), max(np.max(factors[i]) for i in trained)
    return (
        f"trained: {count_parameters([leaves[i] for i in trained]):,} of {count_parameters(leaves):,} parameters; "
        f"frozen: {', '.join(config.freeze) or 'none'} ({sum(frozen)} of {len(leaves)} arrays); "
        f"factors on the learning rate: {low:.3g} to {high:.3g}"
    )


def _stated_factor(config: OptimizerConfig, names: tuple[str, ...]) -> float:
    """Return the factor of the pattern with the most parts, of equal ones that with the most characters but `*`."""
    factors = [
        (pattern.count("/"), len(pattern.replace("*", "")), factor)
        for pattern, factor in config.rate_factors.items()
        if any(matches(pattern, name) for name in names)
    ]
    return max(factors)[-1] if factors else 1.0


def _distances(names: dict[str, list[tuple[str, ...]]]) -> dict[str, int]:
    """Return for each layer, by its own name, how many blocks lie between it and the end of the encoder."""
    each = [layer[-1] for layers in names.values() for layer in layers]
    num_blocks = max((int(match[1]) for match in map(BLOCK.match, each) if match), default=-1) + 1

    def distance(name: str) -> int:
        if match := BLOCK.match(name):
            return num_blocks - int(match[1])
        return num_blocks + 1 if name.startswith("encoder/input/") else 0

    return {name: distance(name) for name in each}


def _near(pattern: str, names: Iterable[str]) -> str:
    """Return a hint: beginnings of names that resemble the pattern."""
    beginnings = {"/".join(name.split("/")[:count]) for name in names for count in range(1, name.count("/") + 2)}
    close = difflib.get_close_matches(pattern, sorted(beginnings), n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"names begin with {', '.join(sorted(name for name in beginnings if '/' not in name))}"
