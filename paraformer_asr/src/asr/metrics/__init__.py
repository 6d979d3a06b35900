"""Metrics: errors are counted in each utterance, added up, and divided once.

To add one, write a function of `ErrorCounts` or of `Alignment`s.
"""

from asr.metrics.error_rate import (
    Alignment,
    ErrorCounts,
    align,
    bootstrap_interval,
    character_errors,
    characters,
    count_errors,
    sum_counts,
    word_errors,
    words,
)
from asr.metrics.error_report import Confusions, count_confusions, format_alignment, format_report, format_table

__all__ = [
    "Alignment",
    "Confusions",
    "ErrorCounts",
    "align",
    "bootstrap_interval",
    "character_errors",
    "characters",
    "count_confusions",
    "count_errors",
    "format_alignment",
    "format_report",
    "format_table",
    "sum_counts",
    "word_errors",
    "words",
]
