"""The generated speech: pure in (seed, split, index), tones and pauses where its own times say they are."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from asr.config import DataConfig, FeaturesConfig, ToyConfig
from asr.data import toy_seq2seq
from asr.data.frontend import make_frontend
from asr.data.toy_seq2seq import ToySeq2Seq
from asr.errors import UserError
from asr.ops.fbank import log_mel_filterbank

CONFIG = DataConfig(toy=ToyConfig(num_train=300, num_val=20, num_test=10))
FEATURES = FeaturesConfig(num_mels=24, lfr_m=5, lfr_n=4)


def make_toy(split="train", seed=0, **toy):
    config = dataclasses.replace(CONFIG, toy=dataclasses.replace(CONFIG.toy, **toy))
    return ToySeq2Seq(config, FEATURES, split, seed)


def test_an_utterance_is_a_function_of_seed_split_and_index():
    one, other = make_toy(seed=3), make_toy(seed=3)
    with ThreadPoolExecutor(4) as pool:
        from_threads = list(pool.map(one.__getitem__, range(8)))
    for index in (7, 0, 3):
        np.testing.assert_array_equal(from_threads[index].wave, other[index].wave)
        assert from_threads[index].text == other[index].text


def test_no_two_utterances_are_alike_across_indices_splits_and_seeds():
    sets = [make_toy(split, seed) for split in ("train", "val", "test") for seed in (0, 1)]
    waves = {dataset[index].wave.tobytes() for dataset in sets for index in range(10)}
    assert len(waves) == len(sets) * 10


def test_lengths_types_and_names():
    for split, length in (("train", 300), ("val", 20), ("test", 10)):
        assert len(make_toy(split)) == length
    utterance = make_toy("val")[4]
    assert utterance.wave.dtype == np.float32 and utterance.wave.ndim == 1
    assert utterance.sample_rate_hz == 16000 and utterance.name == "val_00004"
    with pytest.raises(IndexError, match="20 val utterances, asked for index 20"):
        make_toy("val")[20]


def test_durations_texts_and_names_are_known_without_the_sound(monkeypatch):
    dataset = make_toy("val")
    utterances = [dataset[i] for i in range(20)]
    monkeypatch.setattr(toy_seq2seq, "render", lambda *_: pytest.fail("rendered"))
    np.testing.assert_array_equal(dataset.durations_s(), [u.duration_s for u in utterances])
    assert dataset.durations_s().dtype == np.float64
    assert dataset.texts() == [u.text for u in utterances]
    assert dataset.names() == [u.name for u in utterances]


def test_texts_are_words_of_the_letters_and_all_letters_and_lengths_occur():
    texts = make_toy(num_letters=5, max_words=3, max_word_letters=4).texts()
    words = [text.split(" ") for text in texts]
    assert {len(w) for w in words} == {1, 2, 3}
    assert {len(word) for w in words for word in w} == {1, 2, 3, 4}
    counts = [sum(text.count(letter) for text in texts) for letter in "abcde"]
    assert set("".join(texts)) == set("abcde ") and min(counts) > 0.7 * max(counts)
    assert len(set(texts)) > 200


def test_sound_is_as_long_as_speech_and_stays_below_full_scale():
    dataset = make_toy()
    durations_s = dataset.durations_s()
    assert 0.2 < durations_s.min() < 0.5 and 2.0 < durations_s.max() < 3.2
    levels = np.array([np.abs(dataset[i].wave).max() for i in range(40)])
    assert levels.max() < 0.8 and levels.max() > 2 * levels.min()


def test_letter_times_follow_each_other_within_the_utterance():
    dataset = make_toy()
    for index in range(30):
        text, times_c2 = dataset.texts()[index], dataset.letter_times(index)
        assert times_c2.shape == (len(text), 2)
        np.testing.assert_array_equal(times_c2[1:, 0], times_c2[:-1, 1])
        assert 0.05 <= times_c2[0, 0] <= 0.3 and 0.04 <= dataset.durations_s()[index] - times_c2[-1, 1] <= 0.31
        lengths_s = times_c2[:, 1] - times_c2[:, 0]
        for character, length_s in zip(text, lengths_s, strict=True):
            low_s, high_s = (0.12, 0.30) if character == " " else (0.09, 0.18)
            assert low_s - 1e-3 <= length_s <= high_s + 1e-3


def loudest_hz(wave_n):
    """Return the frequencies of the loudest places of the spectrum below and above 1100 Hz."""
    spectrum = np.abs(np.fft.rfft(wave_n * np.hanning(len(wave_n)), 16000))
    return float(spectrum[:1100].argmax()), float(1100 + spectrum[1100:4000].argmax())


def test_the_tones_of_each_letter_are_where_its_times_say():
    dataset = make_toy(noise=0.0, num_letters=26)
    heard = set()
    for index in range(25):
        utterance = dataset[index]
        for character, (start_s, end_s) in zip(utterance.text, dataset.letter_times(index), strict=True):
            middle = int((start_s + end_s) / 2 * 16000)
            piece_n = utterance.wave[middle - 350 : middle + 350]
            if character == " ":
                assert not piece_n.any()
                continue
            heard.add(character)
            np.testing.assert_allclose(loudest_hz(piece_n), dataset.tones_hz[character], rtol=0.03)
        assert not utterance.wave[: int(dataset.letter_times(index)[0, 0] * 16000)].any()
    assert len(heard) > 20


def test_neighbours_glide_and_the_level_dips_between_them():
    dataset = make_toy(noise=0.0)
    plan = toy_seq2seq.Plan("aad b", np.array([800, 2800, 4800, 6800, 9800, 11800]), 13000, 0.5)
    envelope_n = toy_seq2seq.envelope(plan, 16000)
    assert envelope_n[1800] == envelope_n[3800] == 1.0
    np.testing.assert_allclose(envelope_n[[2800, 4800]], 0.03, atol=0.01)
    assert (np.diff(envelope_n[2400:2800]) > -0.003).all() and envelope_n[2600] < 0.6
    assert not envelope_n[:800].any() and not envelope_n[6800:9800].any() and not envelope_n[11800:].any()
    low_hz = toy_seq2seq.gliding(plan, [250.0, 250.0, 900.0, np.nan, 430.0], 16000)
    assert (low_hz[:4400] == 250).all() and (low_hz[5200:6400] == 900).all() and (low_hz[10200:] == 430).all()
    np.testing.assert_allclose(low_hz[4800], 575, atol=1)
    assert np.abs(np.diff(low_hz)).max() < 2
    assert set(dataset.tones_hz) == set("abcdefghij")


def test_letters_have_well_separated_tones():
    for num_letters in (2, 10, 26):
        tones = list(make_toy(num_letters=num_letters).tones_hz.values())
        assert len(tones) == num_letters
        mel = 1127 * np.log1p(np.array(tones) / 700)
        distance = np.abs(mel[:, None] - mel[None]).max(axis=-1)[~np.eye(num_letters, dtype=bool)]
        assert distance.min() > 115  # a filter of 24 up to 8 kHz is 112 mel away from its neighbour


def test_letters_differ_in_few_filters():
    """The nearest mean of the filterbank names the letter in the middle of nearly every one, in the usual noise."""
    dataset, frames, letters = make_toy(), [], []
    for index in range(60):
        utterance = dataset[index]
        length_1 = np.array([len(utterance.wave)], np.int32)
        wave_1n = np.pad(utterance.wave, (0, 48_000 - len(utterance.wave)))[None]
        mel_tm = np.asarray(log_mel_filterbank(wave_1n, length_1, sample_rate_hz=16000, num_mels=24)[0][0])
        for character, (start_s, end_s) in zip(utterance.text, dataset.letter_times(index), strict=True):
            frame = round(((start_s + end_s) / 2 - 0.0125) / 0.01)
            frames.append(mel_tm[frame] - mel_tm[frame].mean())
            letters.append(character)
    frames, letters = np.array(frames), np.array(letters)
    alphabet = np.unique(letters)
    means = np.stack([frames[letters == letter].mean(axis=0) for letter in alphabet])
    found = alphabet[((frames[:, None] - means[None]) ** 2).sum(axis=-1).argmin(axis=1)]
    assert len(alphabet) == 11 and (found == letters).mean() > 0.97


def test_noise_is_the_setting():
    quiet, noisy = make_toy(noise=0.0), make_toy(noise=0.05)
    difference_n = noisy[0].wave - quiet[0].wave
    assert 0.047 < difference_n.std() < 0.053
    assert quiet[0].text == noisy[0].text


def test_generate_sample_gives_features_and_tokens_and_counts_up():
    dataset = make_toy("test", max_words=1)
    features_ti, tokens_u, num_frames, num_tokens = dataset.generate_sample(1)
    utterance = dataset[1]
    expected_bti, lengths_b = make_frontend(FEATURES, None)(
        utterance.wave[None], np.array([len(utterance.wave)], np.int32)
    )
    assert features_ti.shape == (num_frames, FEATURES.input_dim) and features_ti.dtype == np.float32
    assert num_frames == int(lengths_b[0])
    np.testing.assert_allclose(features_ti, expected_bti[0], atol=1e-4)
    assert tokens_u.dtype == np.int32 and tokens_u.shape == (num_tokens,)
    assert dataset.tokenizer.decode(tokens_u.tolist()) == utterance.text
    in_turn = [dataset.generate_sample()[0] for _ in range(11)]
    np.testing.assert_array_equal(in_turn[1], features_ti)
    np.testing.assert_array_equal(in_turn[10], in_turn[0])


def test_a_sample_rate_too_low_for_the_tones_is_refused():
    with pytest.raises(UserError, match=r"features.sample_rate_hz 6000: .*tones up to 3400 Hz"):
        ToySeq2Seq(CONFIG, FeaturesConfig(sample_rate_hz=6000), "train")
    assert ToySeq2Seq(CONFIG, FeaturesConfig(sample_rate_hz=8000), "train")[0].sample_rate_hz == 8000
