"""Writes the results of an evaluation: metrics.json, utterances.csv, errors.txt and pictures of alignments.

Letters: b batch, n samples, t frames, m mel filters, u token positions.
"""

import csv
import functools
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from asr.data import SpeechDataset
from asr.data.frontend import filterbank, num_feature_frames
from asr.decode import greedy
from asr.files import naming_the_file
from asr.inference.programs import make_listen
from asr.inference.scoring import UtteranceScore
from asr.inference.shapes import row_counts
from asr.inference.transcriber import Transcriber
from asr.inference.transcript import write_text
from asr.metrics import ErrorCounts, format_report
from asr.record.evaluation import Aligned
from asr.untrusted import harmless

COLUMNS = ("name", "seconds", "reference", "hypothesis", "substitutions", "deletions", "insertions", "words")
COLUMNS += ("text_in_training",)


def write_tables(
    folder: Path,
    scores: Sequence[UtteranceScore],
    totals: Mapping[str, ErrorCounts],
    intervals: Mapping[str, tuple[float, float]],
    facts: dict,
    *,
    by_characters: bool,
) -> None:
    """Write the numbers.

    The table has a line for each of `totals` and `intervals`; `facts`, the circumstances, come first in metrics.json;
    `by_characters`, errors.txt aligns characters instead of words.
    """
    parts = {name.replace(", ", "_").replace(" ", "_"): _as_json(c, intervals[name]) for name, c in totals.items()}
    write_text(folder / "metrics.json", json.dumps({**facts, **parts}, indent=1) + "\n")
    write_text(folder / "utterances.csv", _csv(scores))
    aligned = [(harmless(score.name, kept=""), score.align(by_characters=by_characters)) for score in scores]
    aligned.sort(key=lambda pair: -pair[1].counts.errors)
    write_text(folder / "errors.txt", harmless(format_report(aligned)))


def draw_extremes(
    folder: Path, transcriber: Transcriber, dataset: SpeechDataset, extremes: Sequence[tuple[str, UtteranceScore]]
) -> None:
    """Draw the alignments of ("best" or "worst", score): alignment_best_1.png and so on; not without a predictor."""
    if transcriber.config.model.name == "sense_voice":
        return
    waves = [dataset[score.index].wave for _, score in extremes]
    numbers = {"best": 0, "worst": 0}
    for (kind, score), aligned in zip(extremes, align_waves(transcriber, waves), strict=True):
        numbers[kind] += 1
        name, tokens = harmless(score.name, kept=""), score.tokens
        title = f"{kind}: {name}, {tokens.errors} errors in {tokens.reference_length} tokens\n"
        title += f"reference: {score.reference}\nhypothesis: {score.hypothesis}"
        path = folder / f"alignment_{kind}_{numbers[kind]}.png"
        with naming_the_file(path):
            aligned.draw(transcriber.config.features, path, title)


def _as_json(counts: ErrorCounts, interval: tuple[float, float]) -> dict:
    return {
        "error_rate": _number(counts.rate),
        "interval_95": [_number(limit) for limit in interval],
        "substitutions": counts.substitutions,
        "deletions": counts.deletions,
        "insertions": counts.insertions,
        "reference_length": counts.reference_length,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _csv(scores: Sequence[UtteranceScore]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for score in scores:
        c = score.words
        counts = c.substitutions, c.deletions, c.insertions, c.reference_length
        seconds, in_training = f"{score.duration_s:.3f}", int(score.in_training)
        name = harmless(score.name, kept="")
        writer.writerow([name, seconds, score.reference, score.hypothesis, *counts, in_training])
    return harmless(text.getvalue())


def align_waves(transcriber: Transcriber, waves: Sequence[np.ndarray]) -> list[Aligned]:
    """Return the alignment of each sound by the parallel decoder, from one program for the longest sound."""
    if not waves:
        return []
    longest = max(map(len, waves))
    align = functools.partial(jax.jit(_make_align(transcriber, longest)), transcriber.variables)
    return [_align_one(transcriber, align, wave, longest) for wave in waves]


def _make_align(transcriber: Transcriber, num_samples: int) -> Callable[..., tuple[jax.Array, ...]]:
    """Return `align(variables, wave_bn, wave_lengths_b) → (mel_btm, alignment_but, ids_bu, and their lengths)`."""
    config = transcriber.config
    model, listen = transcriber.model, make_listen(config, transcriber.cmvn, transcriber.model)
    *_, num_rows = row_counts(num_feature_frames(num_samples, config.features), config.model.predictor.smooth_factor)

    def align(variables: Any, wave_bn: jax.Array, wave_lengths_b: jax.Array) -> tuple[jax.Array, ...]:
        mel_btm, mel_lengths_b = filterbank(config.features, wave_bn, wave_lengths_b)
        acoustics = listen(variables, wave_bn, wave_lengths_b).acoustics
        hypotheses = model.apply(variables, acoustics, num_rows, method="decode")
        ids_bu, _ = greedy(hypotheses.logits_buv, hypotheses.token_lengths_b)
        lengths = mel_lengths_b, acoustics.frame_lengths_b, hypotheses.token_lengths_b
        return mel_btm, hypotheses.alignment_but, ids_bu, *lengths

    return align


def _align_one(transcriber: Transcriber, align: Callable, wave: np.ndarray, longest: int) -> Aligned:
    wave_1n = np.pad(wave, (0, longest - len(wave)))[None]
    arrays = jax.device_get(align(wave_1n, np.array([len(wave)], np.int32)))
    mel_tm, alignment_ut, ids_u, num_mels, num_frames, num_tokens = (values[0] for values in arrays)
    names = transcriber.tokenizer.tokens
    ids = tuple(ids_u[:num_tokens].tolist())
    return Aligned(mel_tm[:num_mels], alignment_ut[:num_tokens, : num_frames + 1], tuple(names[i] for i in ids), ids)
