"""Starts a run from the weights of another model: which arrays are copied, new or rejected."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from asr.checkpoints.arrays import describe_arrays, named_arrays
from asr.data.text.tokenizer import Tokenizer
from asr.errors import UserError
from asr.models.stacking import stack_blocks, unstack_blocks
from asr.training.state import TrainState

Shapes = dict[str, tuple[tuple[int, ...], str]]

OF_TOKENS = ("params/decoder/embedding", "params/decoder/output/", "params/ctc/")
"""Arrays with an axis that counts the tokens."""

CTC_HEAD = "params/ctc/"  # those that `model.ctc_head` adds


@dataclasses.dataclass(frozen=True)
class InitialModel:
    """The model that a run starts from."""

    folder: str  # where it was read from, for messages
    tokenizer: Tokenizer  # of the model
    variables: Any  # {"params": …}


class WarmStart:
    """The arrays that are copied, by name, until `apply` takes them; and lines for the log."""

    def __init__(self, arrays: dict[str, Any], lines: list[str]):
        self.arrays, self.lines = arrays, lines

    def apply(self, state: TrainState) -> TrainState:
        """Return the state with the arrays copied, in the moving average too; and drop them.

        Every array gets memory of its own: the train step donates that of its arguments.
        """
        variables = {"params": state.params}
        leaves = [
            jax.device_put(self.arrays.pop(name, leaf), leaf.sharding, may_alias=False)
            for name, leaf in named_arrays(variables).items()
        ]
        params = jax.tree.unflatten(jax.tree.structure(variables), leaves)["params"]
        average = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
        return state.replace(params=params, ema_params=average)


def plan_warm_start(initial: InitialModel, params: Any, tokenizer: Tokenizer) -> WarmStart:
    """Return what a run copies from another model.

    All arrays of equal name and shape are copied, whether the encoders are scanned or unrolled. What counts tokens
    is new where the tokens differ; a CTC head that only one of the two models has is new or not copied. Nothing else
    may differ.
    """
    as_in_params = stack_blocks if "blocks" in params.get("encoder", ()) else unstack_blocks
    variables = {"params": as_in_params(initial.variables["params"])}
    expected, theirs = describe_arrays({"params": params}), describe_arrays(variables)
    reason = differing_tokens(tokenizer, initial)

    def is_loose(name: str) -> bool:
        on_one_side = (name in expected) != (name in theirs)
        return name.startswith(OF_TOKENS) if reason else name.startswith(CTC_HEAD) and on_one_side

    names = sorted(expected | theirs)
    loose = set(filter(is_loose, names))
    if differing := [name for name in names if expected.get(name) != theirs.get(name) and name not in loose]:
        raise UserError(_refusal(differing, expected, theirs, initial.folder))
    arrays = {name: x for name, x in named_arrays(variables).items() if name in expected and name not in loose}
    lines = [f"copied from {initial.folder}: {len(arrays)} of {len(expected)} arrays"]
    lines += _line("new", loose & expected.keys(), expected, reason or f"{initial.folder} has no CTC head")
    lines += _line("not copied", loose - expected.keys(), theirs, "the model of this run has no CTC head")
    return WarmStart(arrays, lines)


def differing_tokens(tokenizer: Tokenizer, initial: InitialModel) -> str:
    """Return in what the tokens differ from those of the initial model, or an empty text."""
    ours, theirs = tokenizer.tokens, initial.tokenizer.tokens
    if len(ours) != len(theirs):
        return f"the vocabulary has {len(ours)} tokens, that of {initial.folder} {len(theirs)}"
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if one != other:
            return f"token {number} is {one!r}, that of {initial.folder} {other!r}"
    return ""


def shown(name: str, entry: tuple[tuple[int, ...], str]) -> str:
    """Return name, dtype and shape of an array, such as `params/decoder/output/bias float32[40]`."""
    shape, dtype = entry
    return f"{name} {dtype}[{', '.join(map(str, shape))}]"


def _line(what: str, names: set[str], arrays: Shapes, reason: str) -> list[str]:
    return [f"{what}: {', '.join(shown(name, arrays[name]) for name in sorted(names))}: {reason}"] if names else []


def _refusal(differing: list[str], expected: Shapes, theirs: Shapes, folder: str) -> str:
    lines = []
    for name in differing:
        if name not in theirs:
            lines.append(f"  only in this run: {shown(name, expected[name])}")
        elif name not in expected:
            lines.append(f"  only in {folder}: {shown(name, theirs[name])}")
        else:
            lines.append(f"  {name}: expected {shown('', expected[name])[1:]}, found {shown('', theirs[name])[1:]}")
    return (
        f"init: {folder} belongs to a different model than the config describes: {len(differing)} arrays differ.\n"
        + "\n".join(lines)
        + "\nLeave the section model out of the config to use its architecture."
    )
