"""Metrics, all from one matrix of summed pixel counts.

To add one, write a function of the matrix; docs/losses_and_metrics.md shows how.
"""

from seg.metrics.seg_metrics import (
    SegMetrics,
    compute_metrics,
    confusion_matrix,
    count_pairs,
    format_table,
    warn_never_predicted,
)

__all__ = ["SegMetrics", "compute_metrics", "confusion_matrix", "count_pairs", "format_table", "warn_never_predicted"]
