"""Settings of earlier versions: a config that has one still opens, unless it asks for behaviour that is gone."""

import functools
import logging
from typing import NamedTuple

import yaml

from asr.errors import UserError
from asr.untrusted import escaped

log = logging.getLogger("asr")


class Retired(NamedTuple):
    """A setting that is gone.

    Attributes:
        kept: value whose behaviour is the only one left, as YAML writes it.
        advice: what to do instead of another value.
        ignored: another value gets a warning instead of an error.
    """

    kept: str
    advice: str
    ignored: bool = False


RETIRED = {
    "model.predictor.keep_last_fire": Retired("true", "every token keeps its embedding in training; start a new run"),
    "training.compile_cache": Retired(
        "false", "to keep compiled programs, set JAX_COMPILATION_CACHE_DIR=FOLDER in the environment", ignored=True
    ),
}


def accept_retired(key: str, node: yaml.Node, where: str) -> bool:
    """Return whether a key of a config file is a retired setting, whose value can be ignored.

    Raises:
        UserError: it asks for behaviour that is gone.
    """
    if key not in RETIRED:
        return False
    kept, advice, ignored = RETIRED[key]
    value = node.value if isinstance(node, yaml.ScalarNode) else "a list or a mapping"
    if value != kept:
        message = f"{where}: {key}: this setting is gone, and {escaped(value)!r} with it; {advice}"
        if not ignored:
            raise UserError(message)
        warn_once(message)
    return True


def refuse_retired(key: str, where: str) -> None:
    """Refuse an override of a retired setting.

    Raises:
        UserError: it is one.
    """
    if key in RETIRED:
        raise UserError(f"{where}: {key}: this setting is gone; {RETIRED[key].advice}")


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, the first time only: a command reads its config several times."""
    log.warning("%s", message)
