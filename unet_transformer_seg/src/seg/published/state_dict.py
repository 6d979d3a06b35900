"""Finds the state dict in what a training program saved, and strips prefixes from its names.

Programs save the state dict alone, or under a key beside epochs, optimizers and copies (`WRAPPERS`). DataParallel and
torch.compile insert `module.` and `_orig_mod.` into names; a program that keeps the network in an attribute prefixes
all names with that attribute's.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seg.errors import UserError
from seg.published.pickled_names import REMEDY, is_placeholder
from seg.untrusted import escaped, shown

log = logging.getLogger("seg")

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module")
WRAPPERS += ("ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema_state", "params_ema")
"""Keys that state dicts are saved under; the first one present is used."""

WRAPPING = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Name components that torch's module wrappers insert, anywhere in a name."""

KEPT = ("init_args",)
"""Keys of dictionaries beside the state dict that a converter needs: nnU-Net's plans. Others are dropped."""

NOT_NETWORKS = ("optim", "sched", "lr_", "scaler", "amp")
"""Prefixes of keys that hold arrays which are not a network's."""

MAX_DEPTH = 3
MAX_SHOWN = 5


class TorchFile(NamedTuple):
    """The contents of a file."""

    tensors: dict[str, np.ndarray]  # the state dict, as views of the file
    extras: dict[str, Any]  # other values beside the tensors: numbers, strings, lists and dictionaries of them


def find_state_dict(path: Path, content: Any) -> TorchFile:
    """Return the tensors of an unpickled file; nested dictionaries are searched."""
    if is_placeholder(content):
        what = escaped(content.what)
        raise UserError(f"{path}: expected a state dict, found one object, perhaps a whole model ({what}): {REMEDY}")
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a state dict (names → tensors), found {type(content).__name__}: {REMEDY}")
    chosen = _choose(path, dict(_candidates(content, set())))
    if chosen is None:
        models = [f"{shown(key)} is an object, {escaped(x.what)}" for key, x in content.items() if is_placeholder(x)]
        keys = escaped(", ".join(str(key) for key in list(content)[:10])) or "nothing"
        contents = f"found no tensors, only: {keys}" + (f" ({'; '.join(models[:2])})" if models else "")
        raise UserError(f"{path}: expected a state dict (names → tensors), {contents}: {REMEDY}")
    odd = (name for name, x in chosen.items() if is_placeholder(x) and "." in name)
    if unsupported := [name for name in odd if not name.endswith("_extra_state")]:
        raise UserError(
            f"{path}: {len(unsupported)} of its tensors are not plain tensors (quantised, sparse, numpy), such as "
            f"{escaped(unsupported[0])} ({escaped(chosen[unsupported[0]].what)}): {REMEDY} in float32"
        )
    tensors = {name: value for name, value in chosen.items() if isinstance(value, np.ndarray)}
    around = {} if chosen is content else content
    around = {key: value for key, value in around.items() if key in KEPT or not isinstance(value, dict)}
    beside = {**around, **chosen}.items()
    return TorchFile(tensors, {key: x for key, x in beside if not isinstance(x, np.ndarray) and not is_placeholder(x)})


def plain_names(tensors: Mapping[str, np.ndarray], anchor: str, path: Path) -> dict[str, np.ndarray]:
    """Return the tensors under the names that the network itself uses, which must occur once.

    Every such network has a tensor named `anchor`. Its prefix is stripped from all names; tensors without the prefix,
    such as those of a loss, are dropped.
    """
    plain = {".".join(part for part in name.split(".") if part not in WRAPPING): x for name, x in tensors.items()}
    if len(plain) < len(tensors):
        plain = dict(tensors)  # the network itself has modules of those names
    prefixes = sorted(name.removesuffix(anchor) for name in plain if f".{name}".endswith(f".{anchor}"))
    prefix = prefixes[0] if prefixes else ""
    if prefix and len(prefixes) > 1:
        raise UserError(f"{path}: contains the network {len(prefixes)} times, under {_some(prefixes)}: {REMEDY} of one")
    # Not the counters beside the weights, such as an epoch or `n_averaged`.
    weights = {name: x for name, x in plain.items() if "." in name or x.size != 1}
    inside = {name: x for name, x in weights.items() if name.startswith(prefix)}
    if outside := [name for name in plain if not name.startswith(prefix)]:
        log.warning("%s: dropped %d tensors outside %s: %s", path, len(outside), prefix, _some(outside))
    return {name.removeprefix(prefix): x for name, x in inside.items()}


def _candidates(
    content: Mapping, seen: set[int], place: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield (path of keys, dictionary) of each dictionary that holds tensors by name, once."""
    seen.add(id(content))
    tensors = [isinstance(value, np.ndarray) or _is_parted(key, value) for key, value in content.items()]
    if any(tensors) and all(isinstance(key, str) for key in content):
        yield place, content
    for key, value in content.items():
        inside = isinstance(key, str) and isinstance(value, dict) and id(value) not in seen
        if inside and len(place) < MAX_DEPTH and not key.lower().startswith(NOT_NETWORKS):
            yield from _candidates(value, seen, (*place, key))


def _choose(path: Path, candidates: Mapping[tuple[str, ...], dict[str, Any]]) -> dict[str, Any] | None:
    """Return the dictionary with the network's weights, whose names have dots; a lone tensor's has none."""
    parted = [place for place, names in candidates.items() if any(_is_parted(*item) for item in names.items())]
    places = parted or [place for place in candidates if _rank(place) < len(WRAPPERS)]
    if not places:
        return None
    first, *others = sorted(places, key=_rank)
    names = [escaped(".".join(place)) or "no key" for place in (first, *others)]
    if others and _rank(first) in (_rank(others[0]), len(WRAPPERS)):
        raise UserError(f"{path}: contains several state dicts, under {_some(names)}: {REMEDY} of one")
    if others:
        log.warning("%s: using the weights under %s, not those under %s", path, names[0], _some(names[1:]))
    return candidates[first]


def _rank(place: tuple[str, ...]) -> int:
    """Return the priority of the dictionary at a path: the outermost first, unknown keys last."""
    if not place:
        return -1
    return WRAPPERS.index(place[-1]) if place[-1] in WRAPPERS else len(WRAPPERS)


def _is_parted(name: Any, value: Any) -> bool:
    return isinstance(name, str) and "." in name.strip(".") and (isinstance(value, np.ndarray) or is_placeholder(value))


def _some(names: list[str]) -> str:
    """Return the first few names."""
    more = [f"and {len(names) - MAX_SHOWN} more"] if len(names) > MAX_SHOWN else []
    return ", ".join([escaped(name) for name in names[:MAX_SHOWN]] + more)
