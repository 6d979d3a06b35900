"""Metrics: errors are counted in each utterance, added up, and divided once.

To add one, write a function of `ErrorCounts` or of `Alignment`s.
"""

from asr.metrics.error_rate import Alignment as Alignment
from asr.metrics.error_rate import ErrorCounts as ErrorCounts
from asr.metrics.error_rate import align as align
from asr.metrics.error_rate import bootstrap_interval as bootstrap_interval
from asr.metrics.error_rate import character_errors as character_errors
from asr.metrics.error_rate import characters as characters
from asr.metrics.error_rate import count_errors as count_errors
from asr.metrics.error_rate import sum_counts as sum_counts
from asr.metrics.error_rate import word_errors as word_errors
from asr.metrics.error_rate import words as words
from asr.metrics.error_report import Confusions as Confusions
from asr.metrics.error_report import count_confusions as count_confusions
from asr.metrics.error_report import format_alignment as format_alignment
from asr.metrics.error_report import format_report as format_report
from asr.metrics.error_report import format_table as format_table
from asr.metrics.hotword_counts import HotwordCounts as HotwordCounts
from asr.metrics.hotword_counts import count_hotwords as count_hotwords
from asr.metrics.hotword_counts import sum_hotword_counts as sum_hotword_counts
