"""A voice activity detector of one's own: frame labels, the network as a recogniser, and the example of the docs."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asr
from asr.config import ModelConfig, PredictorConfig
from asr.custom import check_model
from asr.errors import UserError
from asr.inference.loading import load_parts
from asr.models.frame_labeller import BEFORE, FrameLabeller
from asr.published.funasr_vad import load_funasr_vad, save_funasr_vad
from asr.published.kinds import kind_of
from drawn import draw, draw_like

DOCS = Path(__file__).parents[1] / "docs" / "voice_activity.md"
SIZES = asr.FsmnConfig(5, 6, 2, 4, 3, 5, 2)
SIZES_OF_DOCS = asr.FsmnConfig(16, 24, 2, 12, output_affine_width=16, num_classes=2)
RATE_HZ = 16000


class Beeps(asr.SpeechDataset):
    """Half a second of silence, half a second of a tone."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        wave_n = np.concatenate([np.zeros(8000), np.sin(np.arange(8000 + 800 * index))]).astype(np.float32)
        return asr.Utterance(wave_n, RATE_HZ, "", self.names()[index])

    def durations_s(self):
        return np.array([1.0, 1.05])

    def texts(self):
        return ["", ""]

    def names(self):
        return ["a", "b"]


def features(**changes):
    return asr.load_config("toy", ["features.lfr_n=1", *changes]).features


def test_labels_come_from_the_level_or_from_known_stretches(tmp_path):
    # The window of frame t has its middle at 10·t + 12.5 ms.
    by_level = asr.SpeechLabels(Beeps(), features())
    assert by_level.texts() == ["0" * 49 + "1" * 49, "0" * 49 + "1" * 54]
    (tmp_path / "all.rttm").write_text(
        "SPKR-INFO a 1 <NA>\nSPEAKER a 1 0.5 0.2 <NA> <NA> x <NA> <NA>\nSPEAKER a 1 0.6 0.2 <NA> <NA> y <NA> <NA>\n"
    )
    speech = asr.read_rttm(tmp_path / "all.rttm")
    assert speech == {"a": [(0.5, 0.7), (0.6, pytest.approx(0.8))]}
    known = asr.SpeechLabels(Beeps(), features(), speech=speech)
    assert known.texts() == ["0" * 49 + "1" * 30 + "0" * 19, "0" * 103]
    assert known[0].text == known.texts()[0] and known.names() == ["a", "b"]
    np.testing.assert_array_equal(known.durations_s(), [1.0, 1.05])


@pytest.mark.parametrize("line", ["SPEAKER a 1 0.5", "SPEAKER a 1 x 0.2", "SPEAKER a 1 -1 0.2", "SPEAKER a 1 0 inf"])
def test_a_line_of_rttm_that_says_no_stretch_is_refused(tmp_path, line):
    (tmp_path / "bad.rttm").write_text(f"\n{line}\n")
    with pytest.raises(UserError, match=r"bad\.rttm:2: expected SPEAKER name channel start duration"):
        asr.read_rttm(tmp_path / "bad.rttm")


def config_of(vocab_size=6, append_eos=False):
    return ModelConfig(vocab_size=vocab_size, input_dim=10, predictor=PredictorConfig(append_eos=append_eos))


def test_texts_that_are_no_labels_are_refused():
    assert isinstance(asr.FrameLabelling(SIZES)(config_of()), FrameLabeller)
    with pytest.raises(UserError, match=r"set model\.predictor\.append_eos=false"):
        asr.FrameLabelling(SIZES)(config_of(append_eos=True))
    with pytest.raises(UserError, match="expected texts of 2 different labels, .*found 1"):
        asr.FrameLabelling(SIZES)(config_of(vocab_size=5))


def test_a_config_alone_does_not_make_the_network():
    with pytest.raises(UserError, match=r"model\.name: vad: the network comes from outside the package"):
        asr.build_model(dataclasses.replace(config_of(), name="vad"))


def test_training_and_transcription_see_the_scores_of_the_frames():
    model = FrameLabeller(SIZES)
    check_model(model, asr.Config(model=config_of()))
    features_bti, lengths_b = jnp.asarray(draw(2, 8, 10)), jnp.array([8, 4])
    tokens_bu = jnp.array([[3, 3, 4, 4, 3, 3, 4, 4], [3, 4, 3, 4, 0, 0, 0, 0]])
    inputs = features_bti, lengths_b, tokens_bu, lengths_b
    variables = draw_like(jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, train=False)))
    outputs = model.apply(variables, *inputs, train=True)
    acoustics = model.apply(variables, features_bti, lengths_b, method="encode")
    np.testing.assert_allclose(outputs.logits_buv[0], acoustics.hidden_btd[0], atol=1e-6)
    np.testing.assert_allclose(outputs.logits_buv[1, :4], acoustics.hidden_btd[1, :4], atol=1e-6)
    hypotheses = model.apply(variables, acoustics, 10, method="decode")
    np.testing.assert_allclose(hypotheses.logits_buv[:, :8], acoustics.hidden_btd, atol=1e-6)
    assert hypotheses.logits_buv.shape == (2, 10, 6) and hypotheses.token_lengths_b.tolist() == [8, 4]
    # With half as many labels each stands for two frames, of which the second one counts.
    stretched = model.apply(variables, features_bti, lengths_b, tokens_bu, jnp.array([4, 2]), train=True)
    np.testing.assert_allclose(stretched.logits_buv[0, :4], acoustics.hidden_btd[0, 1::2], atol=1e-6)
    # The loss is the cross-entropy between the two labels.
    log_p_btc = jax.nn.log_softmax(acoustics.hidden_btd[..., BEFORE:-1])
    expected = -sum(log_p_btc[b, t, tokens_bu[b, t] - BEFORE] for b, n in ((0, 8), (1, 4)) for t in range(n))
    np.testing.assert_allclose(asr.frame_loss(outputs, tokens_bu, lengths_b), expected, rtol=1e-5)


def test_the_example_of_the_docs_learns_and_is_loaded_and_published(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = (text for text in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S) if "asr.train(" in text)
    names = {"asr": asr}
    exec(example, names)
    run, detector, config = names["run"], names["detector"], names["config"]
    assert run.best_score < 0.1  # the share of wrong frames; 0.4 of them are silence
    assert kind_of(run.path) == "vad"
    heard = 0
    data = asr.build_dataset(config, "test")
    for index in range(4):
        (start_s, *_), (*_, end_s) = data.letter_times(index)[:, 0], data.letter_times(index)[:, 1]
        for segment in detector.segments(data[index].wave, RATE_HZ):
            heard += 1
            assert start_s - 0.5 < segment.start_s < start_s + 0.1 and abs(segment.end_s - end_s) < 0.3
    assert heard >= 2
    (tmp_path / "published").mkdir()
    save_funasr_vad(tmp_path / "published", detector.stored)
    published = load_funasr_vad(tmp_path / "published")
    assert (published.network, published.features.lfr_m) == (SIZES_OF_DOCS, 5)
    jax.tree.map(np.testing.assert_array_equal, published.variables, detector.stored.variables)
    with pytest.raises(UserError, match="found a voice activity detector"):
        load_parts(run.path)
    with pytest.raises(UserError, match=r"the loss comes from outside the package, .*pass it: asr\.train"):
        asr.train(resume=run.path)
