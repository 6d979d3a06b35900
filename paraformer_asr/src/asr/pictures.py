"""Draws a learned alignment: spectrogram, weights and firing, and the share of each frame in each token.

Letters: t frames of the encoder, m mel filters, u tokens.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from asr.files import replacing
from asr.fonts import find_fonts, without

BLUE, ORANGE, VERMILION, GREY = "#0072B2", "#E69F00", "#D55E00", "#DDDDDD"
"""Distinct for any colour vision (Okabe and Ito, 2008); vermilion marks a firing in every panel."""

INCHES_PER_S, INCHES_PER_TOKEN, MIN_WIDTH, MAX_WIDTH = 1.6, 0.22, 8.0, 24.0
MAX_TOKENS_NAMED = 60  # most tokens that the axis of the matrix names; more would overlap
SPACE, SHOWN_SPACE = "▁", "␣"
"""The tokenizer's sign for a space, a stroke below the line, and a sign that is visible in a picture."""


def draw_alignment(
    mel_tm: np.ndarray,
    alignment_ut: np.ndarray,
    tokens: Sequence[str],
    frame_shift_s: float,
    path: Path,
    title: str = "",
    mel_shift_s: float | None = None,
    token_ids: Sequence[int] = (),
) -> None:
    """Write one picture of three panels over a common time axis.

    Top: the spectrogram, each token above it at the mean time of its frames, and lines where the tokens fire. Middle:
    the weight of each frame in these tokens, and the running sum, which fires a token at every integer. Bottom: the
    overlap matrix, the weight of each frame in each token.

    The times are in seconds, `alignment_ut` has a row for each token and may have a last column for the tail, and
    `mel_tm` holds log energies on any scale. The PNG file is replaced at once. `token_ids` are drawn in place of tokens
    that no installed font can write.
    """
    mel_shift_s = frame_shift_s if mel_shift_s is None else mel_shift_s
    tokens = [token.replace(SPACE, SHOWN_SPACE) for token in tokens]
    families, missing = find_fonts([*tokens, title])
    numbers = token_ids or range(1, len(tokens) + 1)
    tokens = [f"#{i}" if missing & set(token) else token for i, token in zip(numbers, tokens, strict=True)]
    num_tokens, num_frames = alignment_ut.shape
    duration_s = max(num_frames * frame_shift_s, mel_shift_s)
    width = np.clip(max(INCHES_PER_S * duration_s, INCHES_PER_TOKEN * num_tokens), MIN_WIDTH, MAX_WIDTH)
    figure = Figure(figsize=(width, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    spectrogram, weights, matrix = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1.6, 2.4))
    fired_s = firing_times_s(alignment_ut, frame_shift_s)
    _draw_spectrogram(spectrogram, mel_tm, mel_shift_s)
    _write_tokens(spectrogram, tokens, mean_times_s(alignment_ut, frame_shift_s), fired_s, families)
    _draw_weights(weights, alignment_ut.sum(0), fired_s, frame_shift_s)
    _draw_matrix(matrix, alignment_ut, tokens, frame_shift_s, families)
    for axes in (spectrogram, weights, matrix):
        axes.set_xlim(0, duration_s)
    matrix.set_xlabel("time in s")
    figure.suptitle(without(title, missing), x=0.01, ha="left", fontsize=11, parse_math=False, family=families)
    with replacing(path) as aside, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)  # drawn as a box
        figure.savefig(aside, format="png", dpi=100)


def firing_times_s(alignment_ut: np.ndarray, frame_shift_s: float) -> np.ndarray:
    """Return float64[u], the time when the running sum of the weights of float[u, t] passes u + 1.

    It is linear within a frame; an incomplete token has the end of the frames.
    """
    weight_t = alignment_ut.sum(0).astype(np.float64)
    sum_t = np.cumsum(weight_t)
    whole_u = np.arange(1, len(alignment_ut) + 1) - 1e-4  # float32 sums may end just below the last integer
    frame_u = np.searchsorted(sum_t, whole_u)
    complete_u = frame_u < len(weight_t)
    inside_u = frame_u[complete_u]
    times_u = np.full(len(whole_u), float(len(weight_t)))
    before_u = sum_t[inside_u] - weight_t[inside_u]
    times_u[complete_u] = inside_u + (whole_u[complete_u] - before_u) / weight_t[inside_u]
    return times_u * frame_shift_s


def mean_times_s(alignment_ut: np.ndarray, frame_shift_s: float) -> np.ndarray:
    """Return float64[u], the mean time of each token's frames by their weights, or the end of the frames."""
    num_frames = alignment_ut.shape[1]
    sum_u = alignment_ut.sum(1, dtype=np.float64)
    mean_u = alignment_ut @ (np.arange(num_frames) + 0.5) / np.where(sum_u > 0, sum_u, 1.0)
    return np.where(sum_u > 0, mean_u, num_frames) * frame_shift_s


def _draw_spectrogram(axes: Axes, mel_tm: np.ndarray, mel_shift_s: float) -> None:
    num_frames, num_mels = mel_tm.shape
    axes.set_facecolor(GREY)  # after the end of the sound
    axes.set_ylabel("mel filter")
    if not num_frames:
        return
    extent = (0, num_frames * mel_shift_s, 0, num_mels)
    low, high = np.percentile(mel_tm, [5, 99.5])
    axes.imshow(
        mel_tm.T, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=low, vmax=high, interpolation="none"
    )


def _write_tokens(
    axes: Axes, tokens: Sequence[str], mean_s: np.ndarray, fired_s: np.ndarray, families: list[str]
) -> None:
    size = np.clip(14 - 0.08 * len(tokens), 7, 13)
    for token, time_s, end_s in zip(tokens, mean_s, fired_s, strict=True):
        axes.axvline(end_s, color="white", linewidth=1, alpha=0.8)
        axes.text(
            time_s,
            1.02,
            token,
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=size,
            rotation=90 if len(token) > 2 and len(tokens) > 12 else 0,
            parse_math=False,
            family=families,
        )


def _draw_weights(axes: Axes, weight_t: np.ndarray, fired_s: np.ndarray, frame_shift_s: float) -> None:
    edges_s = np.arange(len(weight_t) + 1) * frame_shift_s
    axes.stairs(weight_t, edges_s, fill=True, color=BLUE, alpha=0.7, label="weight α of a frame")
    axes.set_ylabel("weight α", color=BLUE)
    axes.set_ylim(0, max(1.0, 1.05 * weight_t.max(initial=0)))
    total = axes.twinx()
    total.plot(edges_s, np.concatenate([[0.0], np.cumsum(weight_t)]), color=ORANGE, linewidth=1.8)
    total.plot(fired_s, np.arange(1, len(fired_s) + 1), "o", color=VERMILION, markersize=4)
    total.set_ylabel("sum of α; ● a token fires", color=ORANGE)
    total.set_ylim(bottom=0)
    total.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    for time_s in fired_s:
        axes.axvline(time_s, color=VERMILION, linewidth=0.7, alpha=0.6)


def _draw_matrix(
    axes: Axes, alignment_ut: np.ndarray, tokens: Sequence[str], frame_shift_s: float, families: list[str]
) -> None:
    num_tokens, num_frames = alignment_ut.shape
    axes.set_ylabel("token")
    if not num_tokens:
        axes.set_yticks([])
        return
    extent = (0, num_frames * frame_shift_s, num_tokens - 0.5, -0.5)
    axes.imshow(alignment_ut, aspect="auto", extent=extent, cmap="Blues", vmin=0, interpolation="none")
    if num_tokens <= MAX_TOKENS_NAMED:
        size = np.clip(150 / num_tokens, 4, 9)
        axes.set_yticks(range(num_tokens), tokens, fontsize=size, parse_math=False, family=families)
    axes.grid(axis="x", alpha=0.3)
