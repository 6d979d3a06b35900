"""What metrics.json and the samples of a run hold of one evaluation."""

import dataclasses
import math

from asr.record.evaluation import Evaluation, Transcribed


def describe(evaluation: Evaluation, numbers: dict[str, float]) -> dict:
    """Return what metrics.json holds of one evaluation, NaN and infinities as null.

    Args:
        evaluation: what it found.
        numbers: its columns of results.csv that are not scores.
    """
    counts = {"words": evaluation.words, "characters": evaluation.characters, "tokens": evaluation.tokens}
    scores = evaluation.rates | {"quantity_error": evaluation.quantity_error}
    finite = {name: _json_number(value) for name, value in (numbers | scores).items()}
    losses = {name: _json_number(value) for name, value in evaluation.losses.items()}
    return finite | {"losses": losses} | {name: dataclasses.asdict(count) for name, count in counts.items()}


def format_transcript(transcribed: Transcribed) -> str:
    """Return name, reference and hypothesis as three lines."""
    return f"{transcribed.name}\n  REF: {transcribed.reference}\n  HYP: {transcribed.hypothesis}\n"


def _json_number(value: float) -> float | None:
    """Return `value`, or None for what JSON has no number for."""
    return value if math.isfinite(value) else None
