"""Groups of parameters, by their names: which are frozen, and the factor on the learning rate of the others.

A name is a path below `params`, such as `encoder/stage0/conv1/kernel`. A pattern is the beginning of a path, in whole
parts: `encoder/stage1` means all arrays of that stage and none of `encoder/stage10`. Within a part `*` stands for any
characters: `encoder/*/norm1`. `encoder` and `heads` alone mean those parts of every model, whatever it calls them.
Stacked layers (one array for all blocks of a transformer) are called by either name, `blocks` for all of them or
`block0`, `block1`, … for each.
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

from seg.checkpoints.arrays import named_arrays
from seg.config import OptimizerConfig
from seg.errors import UserError
from seg.models import count_parameters
from seg.models.layers import BatchNorm

STACK = "blocks"  # name of the module whose arrays have a leading axis of layers

PARTS = {"encoder": ("encoder", "resnet", "tokens"), "heads": ("heads", "head"), "head": ("heads", "head")}
"""What the models call a part; the encoder of a TransUNet is a ResNet and the transformer of its tokens."""

STAGE = re.compile(r"(?:encoder/stage|encoder/layer|resnet/block)(\d+)")
BLOCK = re.compile(r"(?:bottleneck|tokens)/transformer/block(\d+)/")


def matches(pattern: str, name: str) -> bool:
    """Return whether a name begins with the pattern's parts."""
    patterns, parts = pattern.split("/"), name.split("/")
    if pattern in PARTS:
        return parts[0] in PARTS[pattern]
    return len(patterns) <= len(parts) and all(map(fnmatch.fnmatchcase, parts, patterns))


def layer_names(params: Any) -> dict[str, list[tuple[str, ...]]]:
    """Return for each array, by name, the names of each of its layers; an array that is not stacked is one layer."""
    layers_of = {}
    for name, leaf in named_arrays(params).items():
        parent, stacked, rest = name.partition(f"/{STACK}/")
        count = leaf.shape[0] if stacked else 0
        layers_of[name] = [(name, f"{parent}/block{layer}/{rest}") for layer in range(count)] if stacked else [(name,)]
    return layers_of


def frozen_mask(patterns: tuple[str, ...], params: Any) -> Any:
    """Return for each parameter whether it is frozen; a stacked array with some frozen layers is refused."""
    values = []
    for name, layers in layer_names(params).items():
        frozen = [any(matches(p, n) for p in patterns for n in names) for names in layers]
        if any(frozen) != all(frozen):
            raise UserError(
                f"optimizer.freeze: {name} holds {len(layers)} layers in one array, of which only "
                f"{sum(frozen)} would be frozen; freeze all of them, or slow some down with optimizer.rate_factors"
            )
        values.append(all(frozen))
    return jax.tree.unflatten(jax.tree.structure(params), values)


class FrozenParts:
    """Applies `model` with the parameters that `patterns`, beginnings of names, cut off from the gradient.

    The compiler then leaves out the backward pass of a frozen encoder: nothing depends on it. A batch norm whose
    parameters are all frozen uses its running statistics in training too and does not change them; otherwise the frozen
    part would answer differently from step to step.
    """

    def __init__(self, model: nn.Module, patterns: tuple[str, ...]):
        self.model, self.patterns = model, patterns

    def apply(self, variables: dict[str, Any], *args, **kwargs) -> Any:
        """Return what `model.apply` returns."""
        params = variables["params"]
        mask = frozen_mask(self.patterns, params)
        params = jax.tree.map(lambda x, is_frozen: jax.lax.stop_gradient(x) if is_frozen else x, params, mask)
        with nn.intercept_methods(self._keep_statistics):
            return self.model.apply({**variables, "params": params}, *args, **kwargs)

    def _keep_statistics(self, call, args, kwargs, context) -> Any:
        """Call a module's method; a frozen batch norm as in inference."""
        module = context.module
        if isinstance(module, BatchNorm) and context.method_name == "__call__":
            names = [f"{'/'.join(module.path)}/{name}" for name in ("scale", "bias")]
            if all(any(matches(pattern, name) for pattern in self.patterns) for name in names):
                return call(args[0], train=False)
        return call(*args, **kwargs)


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

    The distance counts stages and blocks from the output: 0 for the decoder and the heads, 1 for the last block of the
    transformer, and so on through the encoder's stages to its stem.

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
    """Refuse patterns that name nothing, with names that resemble them, and a frozen model; shapes do for `params`."""
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
    """Return for each layer, by its own name, the number of stages and blocks between it and the decoder."""
    each = [layer[-1] for layers in names.values() for layer in layers]
    stages = [int(match[1]) for match in map(STAGE.match, each) if match]
    blocks = [int(match[1]) for match in map(BLOCK.match, each) if match]
    num_blocks, last_stage = max(blocks, default=-1) + 1, max(stages, default=0)

    def distance(name: str) -> int:
        if match := BLOCK.match(name):
            return num_blocks - int(match[1])
        if match := STAGE.match(name):
            return num_blocks + 1 + last_stage - int(match[1])
        if name.startswith(("encoder/", "resnet/")):  # the stem, before all stages
            return num_blocks + 2 + last_stage - min(stages, default=0)
        before_blocks = name.startswith(("bottleneck/", "tokens/")) and "/transformer/" not in name
        return num_blocks + 1 if before_blocks else 0

    return {name: distance(name) for name in each}


def _near(pattern: str, names: Iterable[str]) -> str:
    """Return a hint: beginnings of names that resemble the pattern."""
    beginnings = {"/".join(name.split("/")[:count]) for name in names for count in range(1, name.count("/") + 2)}
    close = difflib.get_close_matches(pattern, sorted(beginnings), n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"names begin with {', '.join(sorted(name for name in beginnings if '/' not in name))}"
