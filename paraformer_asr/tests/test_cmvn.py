"""CMVN: the statistics of a data set, and its file, read and written, with every mistake named."""

import numpy as np
import pytest

from asr.config import FeaturesConfig
from asr.data.cmvn import Cmvn, compute_cmvn, load_cmvn, save_cmvn
from asr.data.dataset import SpeechDataset, Utterance
from asr.data.frontend import make_frontend
from asr.errors import UserError

FEATURES = FeaturesConfig(sample_rate_hz=8000, num_mels=8, lfr_m=3, lfr_n=2)


class Waves(SpeechDataset):
    """Given waves; remembers which of them were read."""

    def __init__(self, waves):
        self.waves, self.read = waves, set()

    def __len__(self):
        return len(self.waves)

    def __getitem__(self, index):
        self.read.add(index)
        return Utterance(self.waves[index], 8000, "", f"wave {index}")

    def durations_s(self):
        return np.array([len(wave) / 8000 for wave in self.waves])

    def texts(self):
        return [""] * len(self)

    def names(self):
        return [f"wave {index}" for index in range(len(self))]


def make_waves(lengths):
    rng = np.random.default_rng(0)
    return [(rng.uniform(0.01, 0.5) * rng.standard_normal(length)).astype(np.float32) for length in lengths]


def all_features(waves, cmvn):
    """Return float64[t, i], the frames of all waves, each computed alone."""
    frontend = make_frontend(FEATURES, cmvn)
    waves = [wave for wave in waves if len(wave) >= 200]
    return np.concatenate([frontend(w[None], np.array([len(w)], np.int32))[0][0] for w in waves]).astype(np.float64)


def test_statistics_are_those_of_all_frames():
    waves = make_waves([8000, 3000, 1200, 17_000, 100, *[2000] * 6])
    cmvn = compute_cmvn(Waves(waves), FEATURES)
    frames_ti = all_features(waves, None)
    assert cmvn.shift.dtype == cmvn.scale.dtype == np.float32
    np.testing.assert_allclose(cmvn.shift, -frames_ti.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(cmvn.scale, 1 / frames_ti.std(axis=0), rtol=1e-4)
    normalised_ti = all_features(waves, cmvn)
    np.testing.assert_allclose(normalised_ti.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(normalised_ti.std(axis=0), 1, atol=1e-3)


def test_a_constant_feature_is_not_blown_up():
    cmvn = compute_cmvn(Waves([np.zeros(4000, np.float32)]), FEATURES)
    np.testing.assert_allclose(cmvn.scale, 100)
    np.testing.assert_allclose(cmvn.shift, 15.9424, rtol=1e-4)


def test_of_many_utterances_some_are_taken_evenly_and_long_ones_left_out():
    dataset = Waves(make_waves([400] * 101))
    compute_cmvn(dataset, FEATURES, max_utterances=5)
    assert dataset.read == {0, 25, 50, 75, 100}
    dataset = Waves(make_waves([400, 8001, 8000]))
    compute_cmvn(dataset, FEATURES, max_seconds=1.0)
    assert dataset.read == {0, 2}


@pytest.mark.parametrize("lengths", [[], [199, 10], [80_000]])
def test_a_data_set_without_a_frame_is_named(lengths):
    with pytest.raises(UserError, match=f"expected utterances of 25 ms to 5 s, found none among {len(lengths)}"):
        compute_cmvn(Waves(make_waves(lengths)), FEATURES, max_seconds=5.0)


def test_a_file_keeps_the_values_bit_by_bit(tmp_path):
    rng = np.random.default_rng(0)
    cmvn = Cmvn(rng.normal(size=24).astype(np.float32), np.exp(20 * rng.normal(size=24)).astype(np.float32))
    save_cmvn(tmp_path / "cmvn.txt", cmvn)
    found = load_cmvn(tmp_path / "cmvn.txt")
    np.testing.assert_array_equal(found.shift, cmvn.shift)
    np.testing.assert_array_equal(found.scale, cmvn.scale)
    assert found.shift.dtype == np.float32


AM_MVN = """<Nnet>
<Splice> 3 3
[ 0 ]
<AddShift> 3 3
<LearnRateCoef> 0 [ -1.5 2 3e-1 ]
<Rescale> 3 3
<LearnRateCoef> 0 [ 0.25 1
  4 ]
</Nnet>
"""


def test_kaldis_form_is_read(tmp_path):
    for number, text in enumerate((AM_MVN, AM_MVN.replace("<LearnRateCoef> 0 ", ""), AM_MVN.replace("\n", " \r\n"))):
        path = tmp_path / f"{number}.mvn"
        path.write_text(text)
        cmvn = load_cmvn(path)
        np.testing.assert_array_equal(cmvn.shift, np.float32([-1.5, 2, 0.3]))
        np.testing.assert_array_equal(cmvn.scale, np.float32([0.25, 1, 4]))


BAD = {
    "no shift": (("<AddShift>", "<Shift>"), "one component <AddShift> .*found none"),
    "two scales": (("</Nnet>", "<Rescale> 1 1 [ 1 ]"), "one component <Rescale> .*found 2, the last in line 9"),
    "a word": (("3e-1", "three"), "line 5: expected a finite number, found 'three'"),
    "nan": (("0.25", "nan"), "line 7: expected a finite number, found 'nan'"),
    "too large": (("4 ]", "4e40 ]"), "line 8: expected a finite number, found '4e40'"),
    "one less": ((" 2 3e-1", " 2"), "line 4: <AddShift> says 3 3, but 2 values follow"),
    "no brackets": (("  4 ]", "  4"), r"line 6: expected values in brackets, \[ … \], after <Rescale>"),
    "widths differ": (("<Rescale> 3 3\n<LearnRateCoef> 0 [ 0.25", "<Rescale> 2 2\n["), "3 and 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_named_with_their_line(name, tmp_path):
    (old, new), message = BAD[name]
    assert old in AM_MVN
    (tmp_path / "bad.mvn").write_text(AM_MVN.replace(old, new))
    with pytest.raises(UserError, match=f"bad.mvn.*{message}"):
        load_cmvn(tmp_path / "bad.mvn")


def test_missing_and_binary_files_are_named(tmp_path):
    with pytest.raises(UserError, match="none.mvn: cannot be read .*No such file"):
        load_cmvn(tmp_path / "none.mvn")
    (tmp_path / "a.mvn").write_bytes(b"\0B\xff\xfe")
    with pytest.raises(UserError, match="a.mvn: not a text"):
        load_cmvn(tmp_path / "a.mvn")
