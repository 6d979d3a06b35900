"""Mean and variance normalisation (CMVN): its statistics over a data set, and its file in Kaldi's text form.

The file is the nnet component list that FunASR's models carry as `am.mvn`:

    <Nnet>
    <Splice> 560 560
    [ 0 ]
    <AddShift> 560 560
    <LearnRateCoef> 0 [ minus the means … ]
    <Rescale> 560 560
    <LearnRateCoef> 0 [ one over the standard deviations … ]
    </Nnet>

Letters: b batch, n samples of sound, t stacked frames, i input width.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np

from asr.config import FeaturesConfig
from asr.data.dataset import SpeechDataset, Utterance, read_checked
from asr.data.frontend import Cmvn, make_frontend
from asr.errors import UserError
from asr.files import Reader, read_bounded, replace_text
from asr.untrusted import escaped, shown

MAX_UTTERANCES = 10_000  # most utterances that the statistics use, evenly spread over a larger data set
MIN_STD = 0.01
"""Smallest standard deviation that is divided by. Log energies of speech have 1 to 4; a feature that is constant in
training, such as a filter above the band of the recordings, must not amplify small deviations later."""

BATCH_SIZE = 8
MAX_FILE_BYTES = 1 << 22  # largest CMVN file accepted, in bytes; 560 features take 12 kilobytes
MAX_VALUE = float(np.finfo(np.float32).max)


def compute_cmvn(
    dataset: SpeechDataset,
    features: FeaturesConfig,
    *,
    max_seconds: float = 60.0,
    max_utterances: int = MAX_UTTERANCES,
    num_threads: int = 4,
) -> Cmvn:
    """Return the CMVN that gives each stacked feature mean 0 and variance 1 over a data set's frames.

    shift = −mean;  scale = 1 / max(standard deviation, 0.01)

    The features come from the same jitted front end as in training, without random changes; sums are float64. Longer
    utterances than `max_seconds` are left out; of a larger data set `max_utterances` are used, evenly spread.

    Raises:
        UserError: no utterance with a frame, or a file that cannot be read.
    """
    frontend = jax.jit(make_frontend(features, None))
    num_frames, sum_i, square_i = 0, np.zeros(features.input_dim), np.zeros(features.input_dim)
    for wave_bn, lengths_b in _batches(dataset, features, max_seconds, max_utterances, num_threads):
        features_bti, frame_lengths_b = jax.device_get(frontend(wave_bn, lengths_b))
        for features_ti, length in zip(features_bti, frame_lengths_b, strict=True):
            frames_ti = features_ti[:length].astype(np.float64)  # E[x²] − E[x]² would cancel in float32
            num_frames, sum_i = num_frames + length, sum_i + frames_ti.sum(axis=0)
            square_i += np.square(frames_ti).sum(axis=0)
    if num_frames == 0:
        raise UserError(
            f"CMVN: expected utterances of {features.frame_length_ms:g} ms to {max_seconds:g} s, found none among "
            f"{len(dataset)}; set features.cmvn: none, or give a file by features.cmvn_file"
        )
    mean_i = sum_i / num_frames
    std_i = np.sqrt(np.maximum(square_i / num_frames - np.square(mean_i), MIN_STD**2))
    return Cmvn((-mean_i).astype(np.float32), (1 / std_i).astype(np.float32))


def _batches(
    dataset: SpeechDataset, features: FeaturesConfig, max_seconds: float, max_utterances: int, num_threads: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (wave: float32[b, n], lengths: int32[b]) in few shapes, each compiled once: n is a power of 2 seconds."""
    durations_s = dataset.durations_s()
    indices = np.flatnonzero(durations_s <= max_seconds)
    # Evenly spread, as manifests are often sorted by speaker; sorted by length, as a batch has one shape.
    if len(indices) > max_utterances:
        indices = indices[np.linspace(0, len(indices) - 1, max_utterances).round().astype(int)]
    indices = indices[np.argsort(durations_s[indices], kind="stable")]

    def read(index: int) -> Utterance:
        return read_checked(dataset, index, features.sample_rate_hz)

    with ThreadPoolExecutor(num_threads) as pool:
        for start in range(0, len(indices), BATCH_SIZE):
            waves = [u.wave for u in pool.map(read, indices[start : start + BATCH_SIZE].tolist())]
            longest_s = max(max(map(len, waves)) / features.sample_rate_hz, 1.0)
            num_samples = 2 ** math.ceil(math.log2(longest_s)) * features.sample_rate_hz
            wave_bn = np.zeros((BATCH_SIZE, num_samples), np.float32)
            lengths_b = np.zeros(BATCH_SIZE, np.int32)
            for row, wave in enumerate(waves):
                wave_bn[row, : len(wave)], lengths_b[row] = wave, len(wave)
            yield wave_bn, lengths_b


def save_cmvn(path: Path, cmvn: Cmvn) -> None:
    """Write a CMVN in Kaldi's text form; reading it back gives the same float32 values."""
    widths = f"{len(cmvn.shift)} {len(cmvn.shift)}"
    text = f"<Nnet>\n<Splice> {widths}\n[ 0 ]\n"
    for name, values_i in (("<AddShift>", cmvn.shift), ("<Rescale>", cmvn.scale)):
        numbers = " ".join(f"{value:.9g}" for value in values_i)  # nine digits identify a float32
        text += f"{name} {widths}\n<LearnRateCoef> 0 [ {numbers} ]\n"
    replace_text(Path(path), text + "</Nnet>\n")


def load_cmvn(path: Path, read: Reader = read_bounded) -> Cmvn:
    """Return the CMVN of a file in Kaldi's text form: its components AddShift and Rescale, whatever else it has.

    Raises:
        UserError: naming the file, and the line of what is missing, malformed, not finite or of the wrong number.
    """
    try:
        text = read(Path(path), MAX_FILE_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text; expected CMVN statistics in Kaldi's text form (am.mvn)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    words = [(word, number) for number, line in enumerate(text.splitlines(), 1) for word in line.split()]
    shift, scale = (_read_component(path, words, name) for name in ("<AddShift>", "<Rescale>"))
    if len(shift) != len(scale):
        raise UserError(f"{path}: expected as many shifts as scales, found {len(shift)} and {len(scale)}")
    return Cmvn(shift, scale)


def _read_component(path: Path, words: list[tuple[str, int]], name: str) -> np.ndarray:
    """Return float32[i], the values between the brackets of a component `name out in … [ values ]`."""
    places = [place for place, (word, _) in enumerate(words) if word == name]
    if len(places) != 1:
        last = f"{len(places)}, the last in line {words[places[-1]][1]}" if places else "none"
        raise UserError(f"{path}: expected one component {name} of Kaldi's text form (am.mvn), found {last}")
    line, rest = words[places[0]][1], words[places[0] + 1 :]
    end = next((k for k, (word, _) in enumerate(rest) if word == "]"), None)
    start = next((k for k, (word, _) in enumerate(rest[:end]) if word == "["), None)
    if start is None or end is None:
        raise UserError(f"{path}, line {line}: expected values in brackets, [ … ], after {name}")
    values = np.array([_read_number(path, word, number) for word, number in rest[start + 1 : end]], np.float32)
    widths = [word for word, _ in rest[:2]]
    if widths != [str(len(values))] * 2:
        raise UserError(
            f"{path}, line {line}: {name} says {escaped(' '.join(widths))}, but {len(values)} values follow"
        )
    return values


def _read_number(path: Path, word: str, line: int) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not abs(value) <= MAX_VALUE:  # NaN as well
        raise UserError(f"{path}, line {line}: expected a finite number, found {shown(word)}")
    return value
