"""Layouts of torch's one-dimensional convolutions.

Letters: i input channels, o output channels, k taps.
"""

from asr.published.mapping import Layout

DEPTHWISE = Layout(lambda w_o1k: w_o1k[:, 0].T, lambda w_ko: w_ko.T[:, None])
"""`Conv1d.weight` with one group for each channel."""
CONV1D = Layout(lambda w_oik: w_oik.transpose(2, 1, 0), lambda w_kio: w_kio.transpose(2, 1, 0))
"""`Conv1d.weight`."""
