"""Which checkpoint: the order in which they are tried, and the ones that stay."""

from typing import Any, Literal

from seg.checkpoints.manifest import Manifest

Which = Literal["last", "best"] | int
"""The newest checkpoint, the one with the best score, or the one of this step."""


def is_rank(details: dict[str, Any]) -> bool:
    """Return whether the details of a manifest hold what checkpoints are ranked by."""
    return type(details.get("best")) is bool


def candidates(which: Which, manifests: dict[int, Manifest]) -> list[int]:
    """Return the steps to try, in order."""
    if isinstance(which, int):
        return [which] if which in manifests else []
    newest_first = sorted(manifests, reverse=True)
    return newest_first if which == "last" else sorted(newest_first, key=lambda s: not manifests[s].details["best"])


def retained(manifests: dict[int, Manifest], keep: int) -> set[int]:
    """Return the steps of the newest `keep` checkpoints, and of the best."""
    return {*candidates("best", manifests)[:1], *sorted(manifests)[-keep:]}
