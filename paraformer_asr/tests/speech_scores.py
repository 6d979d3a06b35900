"""Random scores of frames, rules and segments, for tests of voice activity detection; a seed draws the same ones."""

import numpy as np


def draw_frames(seed):
    """Return (silence_t, level_db_t): runs of speech and of silence, in which some frames look like the other."""
    rng = np.random.default_rng(seed)
    speech, labels = False, []
    for _ in range(2 + int(12 * rng.random())):
        labels += [speech] * (1 + int(150 * rng.random() ** 2))
        speech = not speech
    speech_t = np.array(labels)
    sure_t, doubt_t = 0.3 * rng.random(len(labels)), rng.random(len(labels))
    silence_t = np.where(rng.random(len(labels)) < 0.15, doubt_t, np.where(speech_t, sure_t, 1 - sure_t))
    return silence_t.astype(np.float32), (-60 * rng.random(len(labels))).astype(np.float32)


def draw_rules(seed):
    """Return FunASR's `model_conf` with times in whole frames."""
    rng = np.random.default_rng(1000 + seed)

    def draw(low, high):
        return 10 * int(low + (high - low + 1) * rng.random())

    window, offset = draw(1, 30), draw(0, 20)
    return {
        "window_size_ms": window,
        "sil_to_speech_time_thres": min(draw(1, 20), window),
        "speech_to_sil_time_thres": offset,
        "max_end_silence_time": offset + draw(0, 60),
        "max_start_silence_time": draw(10, 200),
        "lookback_time_start_point": draw(0, 40),
        "lookahead_time_end_point": draw(0, 20),
        "max_single_segment_time": draw(20, 400),
        "do_extend": int(rng.random() < 0.7),
        "detect_mode": int(rng.random() < 0.8),
        "speech_noise_thres": round(float(rng.random()), 2),
        "decibel_thres": -100.0 if rng.random() < 0.5 else -50.0,
        "snr_thres": -100.0 if rng.random() < 0.5 else -10.0,
    }


def draw_segments(seed, least=0):
    """Return random segments, in ms; some adjoin, and some silences are long."""
    rng = np.random.default_rng(seed)
    segments, time_ms = [], 0
    for _ in range(least + int(rng.integers(0, 12))):
        start_ms = time_ms + 10 * int(rng.choice([0, rng.integers(0, 100), rng.integers(0, 2000)]))
        time_ms = start_ms + 10 * int(rng.integers(1, rng.choice([30, 400])))
        segments.append((start_ms, time_ms))
    return segments


def cut(num_frames, seed):
    """Return the ends of pieces that `num_frames` frames come in; some pieces are empty."""
    rng = np.random.default_rng(2000 + seed)
    longest, ends = 1 + int(100 * rng.random()), [0]
    while ends[-1] < num_frames:
        ends.append(min(ends[-1] + int((longest + 1) * rng.random()), num_frames))
    return ends


def make_sound(seconds=8, rate_hz=16000):
    """Return float32[n], a voice that speaks syllables and pauses, over a little hum: made of sines, without chance."""
    t_n = np.arange(rate_hz * seconds) / rate_hz
    phase_n = 2 * np.pi * np.cumsum(110 + 20 * np.sin(2 * np.pi * 0.7 * t_n)) / rate_hz
    voice_n = sum(np.sin(k * phase_n) / k for k in range(1, 25))
    syllables_n = np.sqrt(np.maximum(np.sin(2 * np.pi * 3 * t_n), 0))
    speaks_n = np.sin(2 * np.pi * t_n / 2.7) + 0.3 * np.sin(2 * np.pi * t_n / 1.1) > 0
    hum_n = 0.001 * np.sin(2 * np.pi * 50 * t_n) + 0.0005 * np.sin(2 * np.pi * 1234.5 * t_n**2)
    return (0.15 * voice_n * syllables_n * speaks_n + hum_n).astype(np.float32)
