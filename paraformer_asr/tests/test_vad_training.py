"""A voice activity detector of one's own: frame labels, the network as a recogniser, a run of the packaged config."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

import asr
from asr import check, convert, segments
from asr import eval as eval_command
from asr.config import FsmnSizes, ModelConfig
from asr.config.reader import override_config
from asr.custom import CustomParts, check_model
from asr.data.speech_labels import SpeechLabels, check_label_tokens, read_rttm
from asr.data.text.building import build_tokenizer
from asr.data.toy_seq2seq import ToySeq2Seq
from asr.errors import UserError
from asr.losses import paraformer_loss
from asr.models.frame_labeller import BEFORE, FrameLabeller, network_sizes
from asr.published.funasr_config import read_settings
from asr.published.funasr_vad import load_funasr_vad
from asr.training.setup import build_setup
from drawn import draw, draw_like

CONFIG = asr.load_config("toy_vad")
SIZES = FsmnSizes(5, 6, 2, 4, 3, 5)
RATE_HZ = 16000
QUICK = ["data.toy.num_train=48", "data.toy.num_val=8", "training.num_epochs=3", "training.eval_every_epochs=3"]
QUICK += ["model.vad.width=24", "model.vad.num_layers=2", "training.ema_decay=0", "data.num_threads=0"]


class Beeps(asr.SpeechDataset):
    """Half a second of silence, half a second of a tone."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        wave_n = np.concatenate([np.zeros(8000), np.sin(np.arange(8000 + 800 * index))]).astype(np.float32)
        return asr.Utterance(wave_n, RATE_HZ, "beep", self.names()[index])

    def durations_s(self):
        return np.array([1.0, 1.05])

    def texts(self):
        return ["beep", "beep"]

    def names(self):
        return ["a", "b"]


BY_LEVEL = ["0" * 49 + "1" * 49, "0" * 49 + "1" * 54]
"""The window of frame t has its middle at 10·t + 12.5 ms."""


def test_labels_come_from_the_level_or_from_known_stretches(tmp_path):
    by_level = SpeechLabels(Beeps(), CONFIG)
    assert by_level.texts() == [by_level[0].text, by_level[1].text] == BY_LEVEL
    (tmp_path / "all.rttm").write_text(
        "SPKR-INFO a 1 <NA>\nSPEAKER a 1 0.5 0.2 <NA> <NA> x <NA> <NA>\nSPEAKER a 1 0.6 0.2 <NA> <NA> y <NA> <NA>\n"
    )
    speech = read_rttm(tmp_path / "all.rttm")
    assert speech == {"a": [(0.5, 0.7), (0.6, pytest.approx(0.8))]}
    known = SpeechLabels(Beeps(), CONFIG, speech)
    assert known.texts() == ["0" * 49 + "1" * 30 + "0" * 19, "0" * 103]
    assert known[0].text == known.texts()[0] and known.names() == ["a", "b"]
    np.testing.assert_array_equal(known.durations_s(), [1.0, 1.05])


@pytest.mark.parametrize("line", ["SPEAKER a 1 0.5", "SPEAKER a 1 x 0.2", "SPEAKER a 1 -1 0.2", "SPEAKER a 1 0 inf"])
def test_a_line_of_rttm_that_says_no_stretch_is_refused(tmp_path, line):
    (tmp_path / "bad.rttm").write_text(f"\n{line}\n")
    with pytest.raises(UserError, match=r"bad\.rttm:2: expected SPEAKER name channel start duration"):
        read_rttm(tmp_path / "bad.rttm")


@pytest.fixture
def folder(tmp_path):
    """Two splits with a beep each, as JSON lines, and the speech of the first one."""
    for name, beep in zip(("train", "val"), (Beeps()[0], Beeps()[1]), strict=True):
        soundfile.write(tmp_path / f"{name}.wav", beep.wave * 0.5, RATE_HZ)
        line = {"key": name, "source": f"{name}.wav", "target": "beep"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "train.rttm").write_text("SPEAKER train 1 0.5 0.2 <NA> <NA> x <NA> <NA>\n")
    return tmp_path


def own_data(folder, *changes):
    splits = ["data.train_split=train.jsonl", "data.val_split=val.jsonl"]
    return ["data.dataset=jsonl", f"data.root={folder}", *splits, *changes]


def test_files_get_labels_by_level_and_from_a_file_for_each_split(folder):
    config = override_config(CONFIG, own_data(folder))
    assert [asr.build_dataset(config, split).texts() for split in ("train", "val")] == [[text] for text in BY_LEVEL]
    rttm = [f"data.speech_labels.{setting}" for setting in ("source=rttm", "train_rttm=train.rttm")]
    config = override_config(config, rttm)
    labels = asr.build_dataset(config, "train")
    assert labels.texts() == [labels[0].text] == ["0" * 49 + "1" * 20 + "0" * 29]
    assert labels.where(0).endswith("train.jsonl:1") and labels.sound_files() == [str(folder / "train.wav")]
    with pytest.raises(UserError, match=r"speech_labels\.val_rttm is empty; with source: rttm it names the RTTM file"):
        asr.build_dataset(config, "val")
    config = override_config(config, ["data.speech_labels.val_rttm=train.rttm"])
    with pytest.raises(UserError, match=r"val_rttm: train\.rttm: expected speech in .*'val'.*, found .train"):
        asr.build_dataset(config, "val")


def test_data_sets_of_ones_own_are_labelled_too():
    parts = CustomParts(train_set=Beeps(), val_set=Beeps())
    setup = build_setup(parts.mark(CONFIG), custom=parts)
    assert setup.train_set.texts() == BY_LEVEL


def test_a_vocabulary_that_is_not_the_labels_is_refused():
    check_label_tokens(build_tokenizer(CONFIG.tokenizer, ["0011"]))
    with pytest.raises(UserError, match=r"expected frames with speech and frames without .*found the tokens .*0"):
        check_label_tokens(build_tokenizer(CONFIG.tokenizer, ["000"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("features.lfr_n=2", r"features\.lfr_n: model\.name: vad needs 1, found 2"),
        ("features.frame_shift_ms=20", r"features\.frame_shift_ms: model\.name: vad needs 10, found 20"),
        ("model.predictor.append_eos=true", r"append_eos: model\.name: vad needs false, found true"),
        ("loss.label_smoothing=0.1", r"loss\.label_smoothing: model\.name: vad needs 0, found 0\.1"),
        ("model.name=paraformer", r"model\.vad, data\.speech_labels: settings of model\.name: vad, .* is paraformer"),
        ("inference.dtype=int8", r"inference\.dtype: model\.name: vad needs \"model\", found \"int8\""),
    ],
)
def test_contradictory_settings_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        override_config(CONFIG, [change])


def test_training_and_transcription_see_the_scores_of_the_frames():
    config = ModelConfig(name="vad", vocab_size=6, input_dim=10, vad=SIZES)
    model = FrameLabeller(config)
    check_model(model, asr.Config(model=config))
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
    log_p_btc = np.asarray(jax.nn.log_softmax(acoustics.hidden_btd[..., BEFORE:-1]))
    tokens_bu, lengths_b = np.asarray(tokens_bu), np.asarray(lengths_b)
    expected = -sum(log_p_btc[b, t, tokens_bu[b, t] - BEFORE] for b, n in ((0, 8), (1, 4)) for t in range(n)) / 12
    counts = {"append_eos": False, "normalizer": jnp.float32(12)}
    loss, parts = paraformer_loss(outputs, tokens_bu, lengths_b, CONFIG.loss, **counts)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert parts["quantity"] == 0


def run(monkeypatch, command, *arguments):
    monkeypatch.setattr(sys, "argv", ["asr", *map(str, arguments)])
    return command.main()


def test_a_run_learns_resumes_and_is_scored_loaded_and_published(tmp_path, monkeypatch, capsys):
    trained = asr.train("toy_vad", overrides=[*QUICK, f"runs_dir={tmp_path}"])
    assert trained.best_score < 0.1  # the share of wrong frames; 0.4 of them are silence
    again = asr.train(resume=trained.path)  # nothing is left to train, but all parts are built from its config
    assert again.finished and again.best_score == trained.best_score

    config = asr.load_config("toy_vad", [*QUICK, f"init={trained.path}"])
    plan = build_setup(config, initial=asr.api.load_initial(config.init)).warm_start
    assert len(plan.lines) == 1 and "params/network/block0/memory_kernel" in plan.arrays

    detector, toy, heard = asr.load(trained.path), ToySeq2Seq(CONFIG.data, CONFIG.features, "test"), 0
    for index in range(4):
        (start_s, *_), (*_, end_s) = toy.letter_times(index)[:, 0], toy.letter_times(index)[:, 1]
        for segment in detector.segments(toy[index].wave, RATE_HZ):
            heard += 1
            assert start_s - 0.5 < segment.start_s < start_s + 0.1 and abs(segment.end_s - end_s) < 0.3
    assert heard >= 2
    soundfile.write(tmp_path / "talk.wav", toy[1].wave, RATE_HZ)
    assert run(monkeypatch, segments, "--vad", trained.path, tmp_path / "talk.wav") == 0
    assert str(tmp_path / "talk.wav") in capsys.readouterr().out

    assert run(monkeypatch, convert, "--to", "funasr", trained.path, "--out", tmp_path / "published") == 0
    published = load_funasr_vad(tmp_path / "published")
    sizes = asr.load_config(trained.path / "config.yaml").model
    assert published.network == network_sizes(sizes) and published.features.lfr_m == 5
    jax.tree.map(np.testing.assert_array_equal, published.variables, detector.stored.variables)

    scored = ["--run", trained.path, "data.toy.num_val=4"]
    assert run(monkeypatch, eval_command, *scored) == 0
    tokens = json.loads((trained.path / "eval_val" / "metrics.json").read_text())["tokens"]
    assert tokens["error_rate"] < 0.1 and tokens["reference_length"] > 100
    with pytest.raises(UserError, match="expected a model that recognises speech, found a voice activity detector"):
        read_settings(trained.path)  # as asr infer does


def test_the_data_are_checked_with_their_labels(folder, monkeypatch, capsys):
    assert run(monkeypatch, check, "--config", "toy_vad", *own_data(folder)) == 0
    output = capsys.readouterr().out
    assert "vocabulary: 6 tokens" in output and "all lines are usable" in output
    (folder / "val.wav").write_bytes(b"no sound")
    assert run(monkeypatch, check, "--config", "toy_vad", *own_data(folder)) == 2
    assert "val.jsonl:1" in capsys.readouterr().out
