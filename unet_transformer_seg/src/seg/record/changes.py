"""The settings that a resume changes: what differs, what the data decided, and what is refused."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from seg.config import Config
from seg.errors import UserError
from seg.record.resume_rules import FREE, LEFT_TO_THE_DATA, LENGTH, REFUSED
from seg.untrusted import shown


@dataclasses.dataclass(frozen=True)
class Change:
    """A setting that differs from that of the run."""

    key: str  # with dots between sections
    before: Any  # value in the run
    after: Any  # value now

    def __str__(self):
        return f"{self.key} {_to_text(self.before)} → {_to_text(self.after)}"


def flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Return key → value of all settings, such as `training.num_epochs` → 20."""
    values = {}
    for field in dataclasses.fields(settings):
        value, key = getattr(settings, field.name), f"{prefix}{field.name}"
        values |= flatten(value, f"{key}.") if dataclasses.is_dataclass(value) else {key: value}
    return values


def list_changes(before: Config, after: Config) -> list[Change]:
    """Return the settings that differ, except those that `after` leaves to the data."""
    old, new = flatten(before), flatten(after)
    return [
        Change(key, old[key], value) for key, value in new.items() if value != old[key] and not _is_left(key, value)
    ]


def keep_decided(before: Config, after: Config) -> Config:
    """Return `after` with the values that the data decided in `before`, where `after` leaves them to the data."""
    for key in LEFT_TO_THE_DATA:
        if _is_left(key, flatten(after)[key]):
            after = _replaced(after, key.split("."), flatten(before)[key])
    return after


def check_changes(changes: list[Change], run_path: Path) -> None:
    """Refuse changes that no run can make, each with its reason."""
    lines = [f"  {change}: {reason}" for change in changes if (reason := reason_against(change.key))]
    if lines:
        raise UserError(
            f"{run_path}: settings that cannot change once a run has started:\n" + "\n".join(lines) + "\nLeave them "
            f"out to resume, or start a new run with them: --config FILE, and --init {shlex.quote(str(run_path))} "
            "to take the weights of this run"
        )


def reason_against(key: str) -> str:
    """Return why a setting cannot change, or an empty string."""
    rule = find_rule(key)
    return "" if rule in FREE or rule in LENGTH else REFUSED.get(rule, "no rule allows it")


def find_rule(key: str) -> str:
    """Return the rule of a setting: its own name, else the longest section with a rule, else an empty string."""
    rules = FREE | LENGTH | REFUSED.keys()
    names = [key, *(key[: end + 1] for end in range(len(key) - 1, -1, -1) if key[end] == ".")]
    return next((name for name in names if name in rules), "")


def _is_left(key: str, value: Any) -> bool:
    return key in LEFT_TO_THE_DATA and value == LEFT_TO_THE_DATA[key]


def _replaced(settings: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    return dataclasses.replace(settings, **{name: _replaced(getattr(settings, name), rest, value) if rest else value})


def _to_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) and value else shown(list(value) if isinstance(value, tuple) else value)
