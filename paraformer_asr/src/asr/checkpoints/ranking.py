"""Which checkpoint: the order in which they are tried, and the ones that stay."""

from typing import Any, Literal

from asr.checkpoints.manifest import Manifest

Which = Literal["last", "best"] | int
"""The newest checkpoint, the one with the lowest score, or the one of this step."""


def is_rank(details: dict[str, Any]) -> bool:
    """Return whether the details of a manifest hold what checkpoints are ranked by."""
    match details:
        case {"score": None}:
            return True
        case {"score": list(score)}:
            return all(isinstance(value, int | float) for value in score)
    return False


def candidates(which: Which, manifests: dict[int, Manifest]) -> list[int]:
    """Return the steps to try, in order."""
    if isinstance(which, int):
        return [which] if which in manifests else []
    newest_first = sorted(manifests, reverse=True)
    if which == "last":
        return newest_first
    return _by_score(manifests) + [step for step in newest_first if manifests[step].details["score"] is None]


def retained(manifests: dict[int, Manifest], keep: int, keep_best: int) -> set[int]:
    """Return the steps of the newest `keep` checkpoints, and of the `keep_best` with the lowest scores."""
    return {*_by_score(manifests)[:keep_best], *sorted(manifests)[-keep:]}


def _by_score(manifests: dict[int, Manifest]) -> list[int]:
    """Return the steps that have a score, the lowest first; of equal scores, the earlier step first."""
    scores = {step: manifest.details["score"] for step, manifest in manifests.items()}
    return sorted((step for step in scores if scores[step] is not None), key=lambda step: (scores[step], step))
