"""FSMN-VAD of FunASR, built here from random seeds: the same scores, starts and ends.

Random weights find no speech, so the rules are compared on random scores that both sides are handed, and the network
and the front end by their scores.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

from speech_scores import cut, draw_frames, draw_rules, draw_segments, make_sound

torch = pytest.importorskip("torch")
pytest.importorskip("funasr")

from funasr import AutoModel  # noqa: E402
from funasr.models.fsmn_vad_streaming.model import FsmnVADStreaming  # noqa: E402
from funasr.utils.vad_utils import merge_vad  # noqa: E402

import asr  # noqa: E402
from asr.config.voice_activity import VoiceActivityConfig  # noqa: E402
from asr.data.cmvn import save_cmvn  # noqa: E402
from asr.data.frontend import Cmvn  # noqa: E402
from asr.inference.frame_scores import ScoredSound  # noqa: E402
from asr.inference.speech_pieces import MergedSpeech  # noqa: E402
from asr.inference.speech_segments import SpeechSegments  # noqa: E402
from asr.published.funasr_vad import load_funasr_vad, save_funasr_vad  # noqa: E402
from asr.published.funasr_vad_settings import CLASS, read_vad_settings  # noqa: E402

ENCODER = {
    "input_dim": 40,
    "input_affine_dim": 12,
    "fsmn_layers": 2,
    "linear_dim": 14,
    "proj_dim": 6,
    "lorder": 7,
    "rorder": 0,
    "lstride": 1,
    "rstride": 0,
    "output_affine_dim": 10,
    "output_dim": 5,
}
FRONTEND = {"fs": 16000, "window": "hamming", "n_mels": 8, "frame_length": 25, "frame_shift": 10, "dither": 0.0}
FRONTEND |= {"lfr_m": 5, "lfr_n": 1}


class Echo(torch.nn.Module):
    """A network whose scores are known."""

    def __init__(self, silence_t):
        super().__init__()
        self.scores_1tc = torch.stack([silence_t, 1 - silence_t], dim=1)[None]

    def forward(self, feats, cache):
        return self.scores_1tc


class Handed(FsmnVADStreaming):
    """FunASR's rules on scores and levels that are handed over."""

    def hand(self, silence_t, level_db_t):
        self.encoder, self.level_db_t = Echo(torch.tensor(silence_t)), level_db_t.tolist()
        return torch.zeros(1, len(silence_t), 4), torch.zeros(1, 400 + 160 * (len(silence_t) - 1))

    def ComputeDecibel(self, frame_count=None, cache=None):  # noqa: N802
        super().ComputeDecibel(frame_count=frame_count, cache=cache)
        cache["stats"].decibel[-len(self.level_db_t) :] = self.level_db_t


def run_funasr(rules, silence_t, level_db_t, ends):
    """Return FunASR's times in ms, call by call."""
    model, cache, calls = Handed("FSMN", ENCODER, **rules), {}, []
    model.init_cache(cache)
    for start, stop in zip(ends[:-1], ends[1:], strict=True):
        if start == stop:  # FunASR's front end gives no frame then, and the rules are not asked
            calls.append([])
            continue
        feats, waveform = model.hand(silence_t[start:stop], level_db_t[start:stop])
        segments = model.forward(feats, waveform, cache, stop == ends[-1], is_streaming_input=True)
        calls.append([time for batch in segments for segment in batch for time in segment if time != -1])
    return calls


def run_ours(rules, silence_t, level_db_t, ends):
    """Return our times in ms, call by call."""
    content = {"model": CLASS, "encoder": "FSMN", "frontend": "WavFrontend", "model_conf": rules}
    segments = SpeechSegments(read_vad_settings("config.yaml", content)[0])
    return [
        [event.time_ms for event in segments.accept(silence_t[a:b], level_db_t[a:b], b == ends[-1])]
        for a, b in zip(ends[:-1], ends[1:], strict=True)
    ]


def test_the_rules_give_the_same_times_for_random_scores():
    num_events = num_left_open = 0
    for seed in range(400):
        frames, rules = draw_frames(seed), draw_rules(seed)
        ends = cut(len(frames[0]), seed)
        theirs, ours = run_funasr(rules, *frames, ends), run_ours(rules, *frames, ends)
        if sum(map(len, theirs)) % 2:  # a segment that starts with the last frame: FunASR never ends it
            assert ours[-1].pop() == 10 * len(frames[0]), seed
            num_left_open += 1
        assert ours == theirs, (seed, rules)
        num_events += sum(map(len, ours))
    assert num_events > 1000 and num_left_open


def build(folder, seed):
    """Write a model of FunASR with random weights and return it."""
    folder.mkdir()
    torch.manual_seed(seed)
    rules = {"max_end_silence_time": 600, "speech_noise_thres": 0.3, "sil_pdf_ids": [0, 2], "silence_pdf_num": 2}
    content = {"frontend": "WavFrontendOnline", "frontend_conf": FRONTEND, "model": CLASS, "model_conf": rules}
    content |= {"encoder": "FSMN", "encoder_conf": ENCODER}
    model = FsmnVADStreaming("FSMN", ENCODER, **rules)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                torch.randn(parameter.shape) * (0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
            )
        for block in model.encoder.fsmn:
            block.fsmn_block.conv_left.weight.mul_(0.4)
    torch.save(model.state_dict(), folder / "model.pt")
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    rng = np.random.default_rng(seed)
    save_cmvn(folder / "am.mvn", Cmvn(*(rng.random((2, 40)).astype(np.float32) + [[-12.0], [0.1]]).astype(np.float32)))
    return AutoModel(model=str(folder), disable_update=True, disable_pbar=True, device="cpu")


def noise(seed, seconds=4):
    """Return noise whose level swells and sinks."""
    n = np.arange(16000 * seconds)
    wave_n = np.random.default_rng(seed).normal(size=len(n)) * np.exp(4 * np.sin(n / 9000) - 6)
    return wave_n.astype(np.float32).clip(-1, 1)


def their_scores(model, wave_n):
    """Return FunASR's silence_t and level_db_t."""
    kept, compute = {}, FsmnVADStreaming.ComputeScores

    def keep(self, feats, cache=None):
        compute(self, feats, cache=cache)
        kept.update(scores=cache["stats"].scores[0].numpy().copy(), level=list(cache["stats"].decibel))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FsmnVADStreaming, "ComputeScores", keep)
        model.generate(input=wave_n, cache={})
    return kept["scores"][:, [0, 2]].sum(axis=1), np.array(kept["level"])


@pytest.mark.parametrize("seed", range(3))
def test_scores_levels_and_segments_are_the_same(tmp_path, seed):
    model, wave_n = build(tmp_path / "model", seed), noise(seed)
    detector = asr.load(tmp_path / "model")
    silence_t, level_db_t = ScoredSound(detector.scorer).push(wave_n, final=True)
    theirs_t, their_level_t = their_scores(model, wave_n)
    np.testing.assert_allclose(silence_t, theirs_t, atol=2e-5)
    np.testing.assert_allclose(level_db_t, their_level_t, atol=1e-3)
    segments = [[round(1000 * s.start_s), round(1000 * s.end_s)] for s in detector.segments(wave_n, 16000)]
    assert segments == model.generate(input=wave_n, cache={}, dynamic_silence=False)[0]["value"]


def test_funasr_reads_what_is_written(tmp_path):
    build(tmp_path / "model", 7)
    stored = load_funasr_vad(tmp_path / "model")
    stored = stored._replace(settings=dataclasses.replace(stored.settings, max_end_silence_ms=500, extend=False))
    (tmp_path / "again").mkdir()
    save_funasr_vad(tmp_path / "again", stored)
    model = AutoModel(model=str(tmp_path / "again"), disable_update=True, disable_pbar=True, device="cpu")
    assert model.model.vad_opts.max_end_silence_time == 500 and not model.model.vad_opts.do_extend
    detector, wave_n = asr.load(tmp_path / "again"), noise(8)
    assert detector.settings == stored.settings and detector.settings != VoiceActivityConfig()
    np.testing.assert_allclose(
        ScoredSound(detector.scorer).push(wave_n, final=True)[0], their_scores(model, wave_n)[0], atol=2e-5
    )


def test_pieces_with_silence_are_those_of_merge_vad_that_hold_speech():
    num_pieces = num_silent = 0
    for seed in range(400):
        segments, limit_ms = draw_segments(seed, least=2), 10 * (1 + 37 * seed % 1500)
        merged, ours = MergedSpeech(limit_ms), []
        for segment in segments:
            ours += merged.accept(*segment)
        ours += merged.finish()
        theirs = [tuple(piece) for piece in merge_vad([list(segment) for segment in segments], limit_ms)]
        spoken = [(start, end) for start, end in theirs if any(a < end and b > start for a, b in segments)]
        assert ours == spoken, seed
        num_pieces, num_silent = num_pieces + len(ours), num_silent + len(theirs) - len(ours)
    assert num_pieces > 1000 and num_silent > 100


@pytest.mark.parametrize("limit_s", [6, 15])
def test_a_recogniser_writes_the_text_of_the_pieces_of_merge_vad(limit_s):
    """The length is set where FunASR's model is opened: in a call it changes nothing. No piece is without speech."""
    recorded, wave_n = Path(__file__).parents[1] / "recorded", make_sound()
    folders = {"model": str(recorded / "funasr_tiny"), "vad_model": str(recorded / "vad_tiny")}
    options = {"frontend_conf": {"dither": 0.0}, "disable_update": True, "disable_pbar": True, "device": "cpu"}
    theirs = AutoModel(**folders, **options, merge_length_s=limit_s)
    (expected,) = theirs.generate(input=wave_n, merge_vad=True, max_end_silence_time=800)
    vad = asr.load(recorded / "vad_tiny", overrides=[f"join_up_to_s={limit_s}", "keep_silence=true"])
    transcript = asr.load(recorded / "funasr_tiny", vad=vad).transcribe(wave_n, 16000)
    # Without a punctuation model FunASR puts a blank between any two pieces.
    assert "".join(transcript.text.split()) == "".join(expected["text"].split()) != ""
