"""FSMN-VAD: FunASR's recorded scores and segments, streams in any cut, folders, and its use for a recogniser.

`recorded/vad_tiny` is a small model in FunASR's layout; `answers.json` has what funasr 1.4.16 finds in
`speech_scores.make_sound()`: whole, with its dynamic end silence, and in calls of 60, 200 and 600 ms.
"""

import dataclasses
import functools
import json
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

import asr
from asr import segments as segments_command
from asr.arguments import part_vad_settings
from asr.config import Config, InferenceConfig
from asr.config.voice_activity import FsmnConfig, VoiceActivityConfig
from asr.errors import UserError
from asr.inference.done_record import digest_transcriber
from asr.inference.frame_scores import BLOCK_FRAMES, ScoredSound
from asr.inference.loading import load_parts
from asr.inference.segmentation import Segment, cut_to_length
from asr.inference.transcription import Source, read_segments
from asr.published.funasr_config import read_settings
from asr.published.funasr_vad import load_funasr_vad, save_funasr_vad, vad_variables
from asr.published.kinds import KINDS, kind_of
from asr.published.torch_file import read_torch_file
from speech_scores import make_sound

RECORDED = Path(__file__).parent / "recorded" / "vad_tiny"
RECOGNISER = RECORDED.with_name("funasr_tiny")
ANSWERS = json.loads((RECORDED / "answers.json").read_text())["sound"]
SCORES = np.load(RECORDED / "scores.npz")
RATE_HZ = 16000
SOUND = make_sound()
NOTHING = np.zeros(0, np.float32)


@pytest.fixture(scope="module")
def detector():
    return asr.load(RECORDED)


def with_rules(detector, **changes):
    """Return a detector with the same compiled programs and other rules."""
    changed = object.__new__(type(detector))
    changed.__dict__ = detector.__dict__ | {"settings": dataclasses.replace(detector.settings, **changes)}
    return changed


def blocks(wave_n, num_samples):
    return [wave_n[start : start + num_samples] for start in range(0, len(wave_n), num_samples)]


def in_ms(segments):
    return [round(1000 * time_s) for segment in segments for time_s in (segment.start_s, segment.end_s)]


def listen(stream, pieces):
    """Return the numbers of the calls that brought events, with these, in ms."""
    calls = [stream.accept(piece, final=number == len(pieces)) for number, piece in enumerate(pieces, 1)]
    return [[number, [event.time_ms for event in events]] for number, events in enumerate(calls) if events]


# Scores and segments.


def test_scores_and_levels_are_the_recorded_ones(detector):
    silence_t, level_db_t = ScoredSound(detector.scorer).push(SOUND, final=True)
    np.testing.assert_allclose(silence_t, SCORES["sound_silence_t"], atol=5e-6)
    np.testing.assert_allclose(level_db_t, SCORES["sound_level_db_t"], atol=1e-4)


def test_segments_are_the_recorded_ones_by_the_rules_of_the_config_and_by_the_dynamic_one(detector):
    assert in_ms(detector.segments(SOUND, RATE_HZ)) == ANSWERS["whole"]
    dynamic = with_rules(detector, dynamic_end_silence=True)
    assert in_ms(dynamic.segments(SOUND, RATE_HZ)) == ANSWERS["dynamic"] != ANSWERS["whole"]


@pytest.mark.parametrize("chunk_ms", [60, 200, 600])
def test_a_stream_tells_of_starts_and_ends_with_the_recorded_calls(detector, chunk_ms):
    pieces = blocks(SOUND, 16 * chunk_ms)
    assert listen(detector.stream(), pieces) == ANSWERS[str(chunk_ms)]


def test_16_bit_samples_are_those_of_the_floats(detector):
    pieces = [(32768 * piece).astype(np.int16) for piece in blocks(SOUND, 9600)]
    events = listen(detector.stream(), pieces)
    assert events and events == listen(detector.stream(), [piece / 32768 for piece in pieces])


def test_scores_do_not_depend_on_the_cut(detector):
    whole_t, levels_t = ScoredSound(detector.scorer).push(SOUND, final=True)
    rng = np.random.default_rng(0)
    for longest in (300, 5_000, 40_000):
        ends = np.cumsum(rng.integers(0, longest, 4 * len(SOUND) // longest))
        pieces = np.split(SOUND, ends[ends < len(SOUND)])
        sound, scores = ScoredSound(detector.scorer), []
        for piece in pieces:
            scores.append(sound.push(piece))
        scores.append(sound.push(NOTHING, final=True))
        silence_t, level_db_t = (np.concatenate(parts) for parts in zip(*scores, strict=True))
        np.testing.assert_allclose(silence_t, whole_t, atol=2e-6)
        np.testing.assert_allclose(level_db_t, levels_t, atol=1e-4)


def test_a_long_sound_takes_the_memory_of_a_block(detector):
    sound = ScoredSound(detector.scorer)
    for block in blocks(SOUND, 7000) * 3:
        sound.push(block)
        assert len(sound._wave_n) < 7000 + 1000
    assert sound.num_samples == 3 * len(SOUND) and BLOCK_FRAMES[-1] * 160 > len(SOUND)


def test_two_streams_do_not_disturb_each_other(detector):
    pieces, streams = blocks(SOUND, 3200), (detector.stream(), detector.stream())
    silent = [np.zeros_like(piece) for piece in pieces]
    events = []
    for number, (piece, silence) in enumerate(zip(pieces, silent, strict=True)):
        if new := streams[0].accept(piece, final=number == len(pieces) - 1):
            events.append([number, [event.time_ms for event in new]])
        assert not streams[1].accept(silence)
    assert events == ANSWERS["200"]


def test_silence_noise_and_sound_shorter_than_a_window(detector):
    assert detector.segments(np.zeros(RATE_HZ, np.float32), RATE_HZ) == ()
    assert detector.segments(np.zeros(399, np.float32), RATE_HZ) == ()
    assert detector.stream().accept(SOUND[:100], final=True) == ()
    assert detector.stream().accept(NOTHING, final=True) == ()


def test_a_stream_ends_what_is_open_and_then_refuses_sound(detector):
    stream = detector.stream()
    (start,) = stream.accept(SOUND[:4000])
    assert (start.kind, start.time_s) == ("start", 0.0)
    (end,) = stream.accept(SOUND[4000:4800], final=True)
    assert end.kind == "end" and end.time_ms == 10 * ((4800 - 400) // 160 + 1)
    with pytest.raises(UserError, match=r"the stream has ended: detector\.stream\(\) begins a new one"):
        stream.accept(SOUND)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (np.zeros((100, 2), np.float32), r"expected samples of one channel, int16 or floats .*found float32\[100, 2\]"),
        (np.zeros(100, np.int32), r"found int32\[100\]"),
        (np.full(3000, np.nan, np.float32), "expected samples in −1…1, found nan"),
    ],
)
def test_samples_that_cannot_be_scored_are_refused(detector, samples, said):
    with pytest.raises(UserError, match=said):
        detector.stream().accept(samples, final=True)


# Folders.


def test_every_class_has_its_kind(tmp_path):
    assert kind_of(RECORDED) == "vad"
    for name, kind in KINDS.items():
        (tmp_path / "config.yaml").write_text(f"model: {name}\n")
        (tmp_path / "model.pt").touch()
        assert kind_of(tmp_path) == kind
    (tmp_path / "config.yaml").write_text("model: {name: vad}\n")
    assert kind_of(tmp_path) == "vad"
    for text in ("model: {name: custom}", "model: [1]", "model: Other", "- a", "a: b: c", ""):
        (tmp_path / "config.yaml").write_text(text)
        assert kind_of(tmp_path) == "paraformer"
    assert kind_of(tmp_path / "nowhere") == "paraformer"


def test_what_is_written_is_read(tmp_path):
    stored = load_funasr_vad(RECORDED)
    changed = stored._replace(
        settings=VoiceActivityConfig(mode="one", extend=False, silence_classes=(1, 3), min_speech_margin=0.25)
    )
    save_funasr_vad(tmp_path, changed)
    again = load_funasr_vad(tmp_path)
    assert (again.settings, again.features, again.network) == (changed.settings, stored.features, stored.network)
    tensors = [read_torch_file(folder / "model.pt").tensors for folder in (RECORDED, tmp_path)]
    assert tensors[0].keys() == tensors[1].keys() and len(tensors[0]) == 8 + 4 * 3
    for name, tensor in tensors[0].items():
        np.testing.assert_array_equal(tensors[1][name], tensor)
    np.testing.assert_array_equal(again.cmvn.scale, stored.cmvn.scale)


def test_a_detector_is_saved_with_its_rules_if_funasr_has_them(detector, tmp_path):
    asr.save(with_rules(detector, max_segment_ms=5000), tmp_path / "saved")
    assert load_funasr_vad(tmp_path / "saved").settings.max_segment_ms == 5000
    with pytest.raises(UserError, match="saved: exists already"):
        asr.save(detector, tmp_path / "saved")
    with pytest.raises(UserError, match=r"join_up_to_s: FunASR's config\.yaml has no such setting"):
        asr.save(with_rules(detector, join_up_to_s=5.0), tmp_path / "joined")
    with pytest.raises(UserError, match=r"keep_silence: FunASR's config\.yaml has no such setting"):
        asr.save(with_rules(detector, keep_silence=True), tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_the_network_is_as_large_as_its_tensors_wherever_they_come_from():
    tensors = read_torch_file(RECORDED / "model.pt").tensors
    sizes, variables = vad_variables(tensors, 400, Path("other.onnx"))
    assert sizes == FsmnConfig(20, 24, 3, 12, 20, 20, 12)
    assert variables["params"]["block2"]["memory_kernel"].shape == (20, 12)
    del tensors["encoder.fsmn.1.affine.linear.bias"]
    with pytest.raises(UserError, match=r"other\.onnx: 1 of .*\n  encoder\.fsmn\.1\.affine\.linear\.bias: missing"):
        vad_variables(tensors, 400, Path("other.onnx"))


def edited(folder, change):
    """Return a copy of the recorded folder whose config is changed."""
    shutil.copytree(RECORDED, folder, ignore=shutil.ignore_patterns("answers.json", "scores.npz"))
    content = yaml.safe_load((RECORDED / "config.yaml").read_text())
    change(content)
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("model_conf", "max_end_silence_tme", 3, r"model_conf\.max_end_silence_tme: not known here"),
        ("model_conf", "max_end_silence_time", "800", r"max_end_silence_time: expected a value like 800, 0 to 600000"),
        ("model_conf", "window_size_ms", 5, "window_size_ms: expected a value like 200, 10 to 10000, found 5"),
        ("model_conf", "speech_noise_thres", float("nan"), "speech_noise_thres: .*found nan"),
        (
            "model_conf",
            "max_start_silence_time",
            10**400,
            "expected a value like 3000, at least 0",
        ),
        ("model_conf", "detect_mode", [1], "detect_mode: expected 0 or 1"),
        ("model_conf", "do_extend", {}, "do_extend: expected 0 or 1"),
        ("model_conf", "detect_mode", 2, "detect_mode: expected 0 or 1, found 2"),
        ("model_conf", "sil_pdf_ids", [12], "sil_pdf_ids: expected classes below 12"),
        ("model_conf", "sil_pdf_ids", 0, "sil_pdf_ids: expected a value like"),
        ("model_conf", "sil_pdf_ids", [], "sil_pdf_ids: expected a value like"),
        ("model_conf", "sample_rate", 8000, r"model_conf\.sample_rate is 8000, but frontend_conf\.fs is 16000"),
        ("model_conf", "frame_in_ms", 20, r"frame_in_ms: expected 10, the only value that is read here, found 20"),
        ("encoder_conf", "rorder", 2, r"encoder_conf\.rorder: expected 0"),
        ("encoder_conf", "proj_dim", 13, "its tensors have projection 12, but config.yaml says 13"),
        ("frontend_conf", "lfr_n", 6, r"frontend_conf\.lfr_n: expected 1"),
        ("frontend_conf", "lfr_m", 3, r"am\.mvn|expected floats \[20, 240\]"),
        ("frontend_conf", "window", "kaiser", "window: expected one of hamming, hann, povey, found 'kaiser'"),
    ],
)
def test_settings_that_change_the_segments_in_an_unknown_way_are_refused(tmp_path, section, key, value, said):
    folder = edited(tmp_path / "model", lambda content: content[section].update({key: value}))
    with pytest.raises(UserError, match=said):
        load_funasr_vad(folder)


def test_a_config_that_says_little_has_the_defaults_of_funasr(tmp_path):
    def strip(content):
        content["model_conf"], content["encoder_conf"] = {}, {"lorder": 20}

    assert load_funasr_vad(edited(tmp_path / "model", strip)).settings == VoiceActivityConfig()


def test_overrides_change_the_rules_and_contradictions_are_refused():
    assert asr.load(RECORDED, overrides=["max_end_silence_ms=300"]).settings.max_end_silence_ms == 300
    with pytest.raises(UserError, match="unknown key 'max_end_silence'; did you mean 'max_end_silence_ms'"):
        asr.load(RECORDED, overrides=["max_end_silence=300"])
    with pytest.raises(UserError, match="speech_onset_ms 300 is above window_ms 200: no speech could start"):
        asr.load(RECORDED, overrides=["speech_onset_ms=300"])
    with pytest.raises(UserError, match="keep_silence=true needs the length of the pieces: .*join_up_to_s=15"):
        asr.load(RECORDED, overrides=["keep_silence=true"])
    with pytest.raises(UserError, match=r"silence_classes: expected classes below 12, .*found \[12\]"):
        asr.load(RECORDED, overrides=["silence_classes=[12]"])
    with pytest.raises(UserError, match="average 2: .*holds one set of weights"):
        asr.load(RECORDED, average=2)


# Beside a recogniser.


def test_a_detector_is_no_recogniser(detector):
    with pytest.raises(UserError, match=r"finds speech and writes no text: call its segments\(\)"):
        detector.transcribe("talk.wav")
    for open_as_recogniser in (read_settings, load_parts):
        with pytest.raises(UserError, match="found a voice activity detector, .*--vad FOLDER or asr.load"):
            open_as_recogniser(RECORDED)
    with pytest.raises(UserError, match="leave vad, punct and model out"):
        asr.load(RECORDED, vad=detector)
    for part, said in ((Path("nowhere"), "nowhere: no such folder"), (3, "or its folder, found int")):
        with pytest.raises(UserError, match=said):
            asr.api.load_part("vad", part)


def test_a_transcriber_keeps_its_detector_and_its_results_are_others_with_it(detector):
    plain, cutting = asr.load(RECOGNISER), asr.load(RECOGNISER, vad=detector)
    assert plain.vad is None and cutting.vad is detector and cutting.punctuator is None
    assert asr.load(RECOGNISER, vad=RECORDED).vad.settings == detector.settings
    digests = [digest_transcriber(each, "text") for each in (plain, cutting)]
    cutting.vad = with_rules(detector, max_end_silence_ms=300)
    digests.append(digest_transcriber(cutting, "text"))
    assert len(set(digests)) == 3


def test_the_settings_of_the_detector_have_a_prefix():
    settings = ["inference.batch_size=2", "vad.window_ms=100"]
    assert part_vad_settings(settings, Path("vad")) == (settings[:1], ["window_ms=100"])
    with pytest.raises(UserError, match=r"vad.window_ms=100: .*name it by --vad FOLDER"):
        part_vad_settings(settings, None)


def check_pieces(pieces, wave_n):
    for piece in pieces:
        np.testing.assert_array_equal(piece.wave, wave_n[piece.start : piece.start + len(piece.wave)])


def spans_ms(pieces):
    return [round(sample / 16) for piece in pieces for sample in (piece.start, piece.start + len(piece.wave))]


@pytest.mark.parametrize("num_samples", [len(SOUND), 4321])
def test_a_recogniser_gets_the_segments(detector, num_samples):
    pieces = list(detector.split(blocks(SOUND, num_samples), RATE_HZ, InferenceConfig()))
    assert spans_ms(pieces) == ANSWERS["whole"]
    check_pieces(pieces, SOUND)


def test_neighbours_are_joined_up_to_a_length(detector):
    start = ANSWERS["whole"][0]
    for limit_s, expected in ((2.9, ANSWERS["whole"]), (3.0, [start, 2990, 5390, 6000]), (6.0, [start, 6000])):
        joining = with_rules(detector, join_up_to_s=limit_s)
        for num_samples in (len(SOUND), 4321):
            pieces = list(joining.split(blocks(SOUND, num_samples), RATE_HZ, InferenceConfig()))
            assert spans_ms(pieces) == expected
            check_pieces(pieces, SOUND)


@pytest.mark.parametrize(
    ("limit_s", "expected"),
    [(1.0, ANSWERS["whole"]), (3.0, [0, 2990, 5390, 6000]), (6.0, [0, 5390, 5390, 6000]), (6.01, [0, 6000])],
)
def test_pieces_adjoin_if_silence_is_kept_but_hold_speech(detector, limit_s, expected):
    """FunASR's `merge_vad` also has the pieces (330, 2380) and (2990, 5390) of the first two, without speech."""
    merging = with_rules(detector, join_up_to_s=limit_s, keep_silence=True)
    for num_samples in (len(SOUND), 4321):
        pieces = list(merging.split(blocks(SOUND, num_samples), RATE_HZ, InferenceConfig()))
        assert spans_ms(pieces) == expected
        check_pieces(pieces, SOUND)


def test_no_more_is_joined_than_the_recogniser_takes(detector):
    joining = with_rules(detector, join_up_to_s=100.0)
    pieces = list(joining.split([SOUND], RATE_HZ, InferenceConfig(max_segment_s=4.0)))
    assert spans_ms(pieces) == [*ANSWERS["whole"][:1], 2990, 5390, 6000]


def test_the_command_lists_the_segments_of_the_files_that_can_be_read(detector, tmp_path, monkeypatch, capsys):
    soundfile.write(tmp_path / "talk.wav", SOUND, RATE_HZ, "FLOAT")
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    rules = {(): {}, ("mode=one",): {"mode": "one"}}
    monkeypatch.setattr(asr.api, "load_part", lambda *part: with_rules(detector, **rules[tuple(part[2])]))

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["asr segments", *map(str, arguments)])
        code = segments_command.main()
        return code, *capsys.readouterr()

    path, (start_ms, end_ms, *_) = tmp_path / "talk.wav", ANSWERS["whole"]
    code, listed, _ = run("--vad", RECORDED, path)
    assert code == 0 and listed.splitlines()[0] == f"{path}\t{start_ms / 1000:.2f}\t{end_ms / 1000:.2f}"
    assert len(listed.splitlines()) == len(ANSWERS["whole"]) // 2
    code, listed, errors = run("--vad", RECORDED, tmp_path, "mode=one", "--format", "json")
    assert code == 2 and "broken.wav" in errors
    assert json.loads(listed) == {"file": str(path), "segments": [[start_ms / 1000, end_ms / 1000]]}
    soundfile.write(tmp_path / "still.wav", np.zeros(RATE_HZ), RATE_HZ)
    assert run("--vad", RECORDED, tmp_path / "still.wav") == (0, "", f"{tmp_path}/still.wav: no speech\n")
    with pytest.raises(UserError, match="expected at least one sound file"):
        run("--vad", RECORDED, "mode=one")


def test_a_segment_that_is_too_long_is_cut_where_it_is_quiet():
    level_n = np.repeat([1.0, 0.05, 1.0, 0.02, 1.0], [4000, 1600, 9000, 1600, 20000])
    wave_n = (level_n * np.sin(np.arange(len(level_n)))).astype(np.float32)
    pieces = list(cut_to_length(Segment(800, wave_n), RATE_HZ, InferenceConfig(max_segment_s=1.2)))
    np.testing.assert_array_equal(np.concatenate([piece.wave for piece in pieces]), wave_n)
    assert all(len(piece.wave) <= 1.2 * RATE_HZ for piece in pieces)
    assert [piece.start for piece in pieces][0] == 800
    assert any(14600 <= piece.start - 800 <= 16200 for piece in pieces)
    (whole,) = cut_to_length(Segment(800, wave_n), RATE_HZ, InferenceConfig())
    assert whole.start == 800 and len(whole.wave) == len(wave_n)


def test_sound_at_another_rate_is_resampled_for_the_detector_alone(detector):
    wave_n = SOUND[::2].copy()
    pieces = list(detector.split(blocks(wave_n, 3000), 8000, InferenceConfig()))
    check_pieces(pieces, wave_n)
    times = [sample / 8 for piece in pieces for sample in (piece.start, piece.start + len(piece.wave))]
    np.testing.assert_allclose(times, ANSWERS["whole"], atol=100)


def test_a_transcriber_is_handed_the_segments_and_says_why_there_is_none(detector):
    def read(detector):
        transcriber = types.SimpleNamespace(config=Config(), vad=detector)
        source = Source(functools.partial(iter, blocks(SOUND, 50_000)), "talk")
        return [place for place, _ in read_segments(transcriber, [source])]

    *places, end = read(detector)
    assert [round(sample / 16) for place in places for sample in (place.start, place.stop)] == ANSWERS["whole"]
    assert end.is_end and end.stop == len(SOUND)
    (end,) = read(with_rules(detector, min_level_db=100.0))
    peak_db = 20 * np.log10(np.abs(SOUND).max())
    assert end.heard.why_empty() == f"no speech: the detector found none in sound whose peak is {peak_db:.0f} dBFS"
