"""SenseVoice: the logits, texts and tags that FunASR's own module gave, in any batch, and what is refused.

`recorded/sense_voice_tiny` is a folder that FunASR wrote with random weights (width 16, two blocks in each stack), and
its answers to two sounds, each alone: int8 samples, of 512 steps of 16 bits.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import asr
from asr.config import Config
from asr.errors import UserError
from asr.inference.ctc_programs import make_read
from asr.inference.loading import load_parts
from asr.inference.shapes import Shape
from asr.inference.tags import read_tags, rich_text
from asr.published.funasr import save_funasr
from asr.published.torch_file import read_torch_file
from asr.training.setup import build_setup

RECORDED = Path(__file__).parent / "recorded" / "sense_voice_tiny"
ANSWERS = json.loads((RECORDED / "answers.json").read_text())
ARRAYS = np.load(RECORDED / "answers.npz")
NAMES = ("long", "short")
WAVES = [ARRAYS[name].astype(np.float32) / 64 for name in NAMES]


@pytest.fixture(scope="module")
def transcriber():
    transcriber = asr.load(RECORDED, overrides=["inference.batch_size=2"])
    transcriber.warm_up([Shape(2, len(WAVES[0]))])
    return transcriber


def test_text_tags_and_emoji_are_those_of_funasr(transcriber):
    found = transcriber.transcribe(WAVES, rate=16000)
    assert [transcript.tagged for transcript in found] == [ANSWERS[f"{name}_auto"]["text"] for name in NAMES]
    assert [transcript.rich for transcript in found] == [ANSWERS[f"{name}_auto"]["rich"] for name in NAMES]
    assert found[1].text == "we今endodwe今go"
    assert found[1].to_rich() == "😊we今endodwe今go\n"
    content = json.loads(found[1].to_json())
    (segment,) = content["segments"]
    assert (segment["language"], segment["emotion"], segment["event"]) == ("en", "HAPPY", "")
    assert (segment["tagged"], content["rich"]) == (found[1].tagged, found[1].rich)


def test_each_token_of_text_has_its_time_and_no_tag_is_a_token(transcriber):
    for name, transcript in zip(NAMES, transcriber.transcribe(WAVES, rate=16000), strict=True):
        path = np.array(ANSWERS[f"{name}_auto"]["raw_ids"][4:])  # the four queries are no sound
        first, last = transcript.tokens[-2:]
        for token in (first, last):
            row = np.flatnonzero(path == transcriber.tokenizer.tokens.index(token.text))[-1]
            assert token.start_s < row * 0.06 + 0.0125 < token.end_s
        assert not any("<" in token.text for token in transcript.tokens)
        assert "".join(token.text for token in transcript.tokens).replace("▁", "") == transcript.text.replace(" ", "")
        times_s = np.array([(token.start_s, token.end_s) for token in transcript.tokens]).ravel()
        assert (np.diff(times_s) >= 0).all() and 0 <= times_s[0] < times_s[-1] <= transcript.duration_s


def test_an_utterance_has_the_same_answer_alone(transcriber):
    before = transcriber.compilations
    (alone,) = transcriber.start(WAVES[1:])()
    together = transcriber.start(WAVES)()[1]
    assert transcriber.compilations == before
    np.testing.assert_array_equal(alone.ids, together.ids)
    np.testing.assert_allclose(alone.confidence, together.confidence, rtol=1e-5)
    np.testing.assert_array_equal(alone.start_s, together.start_s)


def test_logits_follow_the_language_and_the_normalisation_that_are_asked_for():
    options = ["language=yue", "use_itn=true", "ban_emo_unk=true"]
    config, tokenizer, cmvn, variables = load_parts(RECORDED, overrides=[f"model.sense_voice.{o}" for o in options])
    wave_bn = np.stack([WAVES[0], np.pad(WAVES[1], (0, len(WAVES[0]) - len(WAVES[1])))])
    read = jax.jit(make_read(config, cmvn))(variables, wave_bn, np.array([len(wave) for wave in WAVES], np.int32))
    banned = tokenizer.tokens.index("<|EMO_UNKNOWN|>")
    for name, logits_tv, length in zip(NAMES, read.logits_btv, read.frame_lengths_b, strict=True):
        expected_tv = ARRAYS[f"{name}_yue_itn_logits"]
        assert length == len(expected_tv)
        assert np.isneginf(logits_tv[:, banned]).all()
        others = np.arange(config.model.vocab_size) != banned
        np.testing.assert_allclose(logits_tv[:length, others], expected_tv[:, others], atol=1e-4)


def test_utterances_of_a_batch_may_have_different_languages(transcriber):
    before = transcriber.compilations
    for languages in (["en", ""], ["", "en"], ["en"], []):
        answers = transcriber.start(WAVES, languages=languages)()
        names = [f"{name}_{language or 'auto'}" for name, language in zip(NAMES, [*languages, "", ""], strict=False)]
        written = [ANSWERS[name]["text"] for name in names]
        assert [transcriber.tokenizer.tagged(answer.ids) for answer in answers] == written
    assert transcriber.compilations == before


def test_the_beam_search_hears_the_language_too():
    beam = ["inference.decoder=ctc_beam", "inference.beam_size=2"]
    plain, english = (asr.load(RECORDED, overrides=[*beam, *more]) for more in ([], ["model.sense_voice.language=en"]))
    expected = [answer.ids.tolist() for answer in english.start(WAVES)()]
    assert [answer.ids.tolist() for answer in plain.start(WAVES, languages=["en", "en"])()] == expected
    assert plain.start(WAVES)()[0].ids.tolist() != expected[0]


def test_the_way_to_funasr_is_the_way_back(tmp_path):
    save_funasr(tmp_path, *load_parts(RECORDED))
    before, after = (read_torch_file(path / "model.pt").tensors for path in (RECORDED, tmp_path))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor)
    (config, *_), (again, tokenizer, *_) = load_parts(RECORDED), load_parts(tmp_path)
    assert again.model == config.model and again.inference == config.inference
    assert tokenizer == load_parts(RECORDED)[1]


def test_a_model_folder_of_it_answers_alike(transcriber, tmp_path):
    folder = tmp_path / "saved"
    asr.save(transcriber, folder)
    config, tokenizer, _, variables = load_parts(folder)
    assert (config.model, tokenizer) == (transcriber.config.model, transcriber.tokenizer)
    jax.tree.map(np.testing.assert_array_equal, variables, transcriber.variables)
    with pytest.raises(UserError, match="train model.name: paraformer"):
        asr.load_config("toy", [f"init={folder}"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.sense_voice.language=de"], "auto, zh, en, yue, ja, ko, nospeech"),
        (["inference.decoder=cif"], "inference.decoder: ctc or ctc_beam"),
        (["model.encoder.scan=true"], "no scan"),
        (
            ["model.sense_voice.ban_emo_unk=true", "model.sense_voice.emo_unknown_id=0"],
            "no token of an unknown emotion",
        ),
    ],
)
def test_what_it_cannot_do_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        asr.load(RECORDED, overrides=overrides)


def test_its_settings_belong_to_no_other_model():
    with pytest.raises(UserError, match="this model is paraformer"):
        asr.load_config("toy", ["model.sense_voice.language=en"])


def test_it_is_not_trained():
    model = dataclasses.replace(Config().model, name="sense_voice", ctc_head=True)
    config = dataclasses.replace(asr.load_config("toy"), model=model)
    with pytest.raises(UserError, match="train model.name: paraformer"):
        build_setup(config)


def test_a_head_of_another_size_than_the_vocabulary_is_refused(tmp_path):
    folder = Path(shutil.copytree(RECORDED, tmp_path / "copy"))
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text().replace("tp_blocks: 2", "tp_blocks: 3"))
    with pytest.raises(UserError, match="encoder.tp_encoders.2.norm1.weight: missing"):
        asr.load(folder)


RICH = {
    "": "",
    "<|zh|><|NEUTRAL|><|Speech|><|woitn|>你好": "你好",
    "<|en|><|HAPPY|><|Laughter|><|withitn|>Good. <|en|><|HAPPY|><|Laughter|><|withitn|>Yes.": "😀Good.Yes.😊",
    "<|ja|><|SAD|><|BGM|><|woitn|>a <|ko|><|ANGRY|><|Applause|><|woitn|>b": "🎼a😔👏b😡",
    "<|nospeech|><|Event_UNK|>": "❓",
    "<|en|><|BGM|><|Applause|>hi": "👏🎼hi",
    "<|en|><|SAD|><|SAD|><|HAPPY|>The.": "😔",
}


@pytest.mark.parametrize("tagged", RICH)
def test_tags_become_emoji(tagged):
    assert rich_text(tagged) == RICH[tagged]


def test_the_first_tag_of_each_kind_counts():
    assert read_tags("<|yue|><|EMO_UNKNOWN|><|BGM|><|woitn|>a<|zh|><|SAD|>")[:3] == ("yue", "EMO_UNKNOWN", "BGM")
    assert read_tags("no tags") == ("", "", "", "no tags")
