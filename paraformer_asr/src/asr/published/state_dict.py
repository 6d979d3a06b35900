"""Finds the weights of a model in what a training program saved, and takes off what it put before their names.

Programs save the state dict alone, or under a key beside epochs, optimizers and copies (`WRAPPERS`); DataParallel and
the compiler put `module.` and `_orig_mod.` into names, a program that holds the network in an attribute puts that
attribute's name before all of them.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asr.errors import UserError
from asr.published.pickled_names import REMEDY, is_placeholder
from asr.untrusted import escaped, shown

log = logging.getLogger("asr")

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module")
WRAPPERS += ("ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema_state", "params_ema")
"""Keys that state dicts are saved under; of several that are there, the first one is taken."""

WRAPPING = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of names that torch's wrappers of modules put in, anywhere."""

NO_NETWORKS = ("optim", "sched", "lr_", "scaler", "amp")
"""Beginnings of keys that hold no network, but arrays."""

MAX_DEPTH = 3
MAX_SHOWN = 5


class TorchFile(NamedTuple):
    """The contents of a file.

    Attributes:
        tensors: the state dict: arrays by name, views into the file.
        extras: what else stands beside the tensors: numbers, texts, lists and dictionaries of them.
    """

    tensors: dict[str, np.ndarray]
    extras: dict[str, Any]


def find_state_dict(path: Path, content: Any) -> TorchFile:
    """Return the tensors of what was read, looked for within it if they are not on top.

    Raises:
        UserError: no state dict, several that are no copies of each other, or one with a tensor of a kind that is not
            read.
    """
    if is_placeholder(content):
        what = escaped(content.what)
        raise UserError(f"{path}: found one object, a whole model perhaps ({what}), not a state dict: {REMEDY}")
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a state dict (names → tensors), found {type(content).__name__}: {REMEDY}")
    chosen = _choose(path, dict(_candidates(content, set())))
    if chosen is None:
        raise UserError(f"{path}: expected a state dict (names → tensors), {_without_tensors(content)}: {REMEDY}")
    if strange := [name for name, value in chosen.items() if _is_strange(name, value)]:
        raise UserError(
            f"{path}: {len(strange)} of its tensors are of a kind that is not read (quantised, sparse, of numpy), "
            f"{escaped(strange[0])} by {escaped(chosen[strange[0]].what)}: {REMEDY} in float32"
        )
    tensors = {name: value for name, value in chosen.items() if isinstance(value, np.ndarray)}
    around = {} if chosen is content else {key: value for key, value in content.items() if not isinstance(value, dict)}
    beside = {**around, **chosen}.items()
    return TorchFile(tensors, {key: x for key, x in beside if not isinstance(x, np.ndarray) and not is_placeholder(x)})


def plain_names(tensors: Mapping[str, np.ndarray], anchor: str, path: Path) -> dict[str, np.ndarray]:
    """Return the tensors under the names that the network gives them.

    Args:
        tensors: a state dict.
        anchor: name of a tensor that every such network has; what stands before it is taken off all names. Tensors
            without it, as those of a loss, are left out.
        path: of the file, for messages.

    Raises:
        UserError: the network is there several times.
    """
    plain = {".".join(part for part in name.split(".") if part not in WRAPPING): x for name, x in tensors.items()}
    if len(plain) < len(tensors):
        plain = dict(tensors)  # a network that has parts of those names itself
    prefixes = sorted(name.removesuffix(anchor) for name in plain if f".{name}".endswith(f".{anchor}"))
    prefix = prefixes[0] if prefixes else ""
    if prefix and len(prefixes) > 1:
        found = ", ".join(escaped(prefix) for prefix in prefixes[:MAX_SHOWN])
        raise UserError(f"{path}: holds the network {len(prefixes)} times, under {found}: {REMEDY} of one of them")
    inside = {name: x for name, x in plain.items() if name.startswith(prefix) and not _is_counter(name, x)}
    if left := [name for name in plain if not name.startswith(prefix)]:
        log.warning("%s: left out %d tensors that are no part of %s: %s", path, len(left), prefix, _some(left))
    return {name.removeprefix(prefix): x for name, x in inside.items()}


def _candidates(
    content: Mapping, seen: set[int], place: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield (keys that lead to it, dictionary) of all that hold tensors by name; each once, wherever it stands."""
    seen.add(id(content))
    tensors = [isinstance(value, np.ndarray) or _is_parted(key, value) for key, value in content.items()]
    if any(tensors) and all(isinstance(key, str) for key in content):
        yield place, content
    for key, value in content.items():
        inside = isinstance(key, str) and isinstance(value, dict) and id(value) not in seen
        if inside and len(place) < MAX_DEPTH and not key.lower().startswith(NO_NETWORKS):
            yield from _candidates(value, seen, (*place, key))


def _choose(path: Path, candidates: Mapping[tuple[str, ...], dict[str, Any]]) -> dict[str, Any] | None:
    """Return the dictionary with the weights of the network: their names have parts, that of a lone tensor has none."""
    parted = [place for place, names in candidates.items() if any(_is_parted(*item) for item in names.items())]
    places = parted or [place for place in candidates if _rank(place) < len(WRAPPERS)]
    if not places:
        return None
    first, *others = sorted(places, key=_rank)
    names = [escaped(".".join(place)) or "no key" for place in (first, *others)]
    if others and _rank(first) in (_rank(others[0]), len(WRAPPERS)):
        raise UserError(f"{path}: holds several state dicts, under {_some(names)}: {REMEDY} of one of them")
    if others:
        log.warning("%s: took the weights under %s; those under %s are not used", path, names[0], _some(names[1:]))
    return candidates[first]


def _rank(place: tuple[str, ...]) -> int:
    """Return how early the dictionary at a place is chosen: first that on top, last those under an unknown key."""
    if not place:
        return -1
    return WRAPPERS.index(place[-1]) if place[-1] in WRAPPERS else len(WRAPPERS)


def _is_parted(name: Any, value: Any) -> bool:
    return isinstance(name, str) and "." in name.strip(".") and (isinstance(value, np.ndarray) or is_placeholder(value))


def _is_strange(name: str, value: Any) -> bool:
    return is_placeholder(value) and "." in name and not name.endswith("_extra_state")


def _is_counter(name: str, value: np.ndarray) -> bool:
    """Return whether a tensor is a number beside the weights, such as an epoch or `n_averaged`."""
    return "." not in name and value.size == 1


def _without_tensors(content: Mapping) -> str:
    """Return what a dictionary without a state dict holds."""
    models = [f"{shown(key)} is an object, {escaped(v.what)}" for key, v in content.items() if is_placeholder(v)]
    keys = escaped(", ".join(str(key) for key in list(content)[:10])) or "nothing"
    return f"found no tensor but: {keys}" + (f" ({'; '.join(models[:2])})" if models else "")


def _some(names: list[str]) -> str:
    """Return the first few names."""
    more = [f"and {len(names) - MAX_SHOWN} more"] if len(names) > MAX_SHOWN else []
    return ", ".join([escaped(name) for name in names[:MAX_SHOWN]] + more)
