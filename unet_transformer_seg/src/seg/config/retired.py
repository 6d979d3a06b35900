"""Settings of earlier versions: a config that has one still opens, unless it asks for behaviour that is gone."""

import functools
import logging

from seg.errors import UserError
from seg.untrusted import escaped

log = logging.getLogger("seg")

RETIRED = {"training.compile_cache": ("false", "set JAX_COMPILATION_CACHE_DIR=FOLDER to keep compiled programs")}
"""Setting → (value whose behaviour is the only one left, what to do instead of another value)."""

IGNORED = ("training.compile_cache",)
"""Retired settings that do not change the results: another value is ignored with a warning."""


def is_retired(key: str, value: str, where: str) -> bool:
    """Return whether a key is a retired setting; refuse a value that asks for behaviour that is gone."""
    if key not in RETIRED:
        return False
    kept, advice = RETIRED[key]
    if value != kept:
        if key not in IGNORED:
            raise UserError(f"{where}: {key}: {escaped(value)} is no longer supported; {advice}")
        warn_once(f"{where}: {key}: {escaped(value)} is ignored, as this setting no longer exists; {advice}")
    return True


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, the first time only: a command reads its config several times."""
    log.warning("%s", message)
