"""The settings of an FSMN-VAD model of FunASR, `config.yaml`, and ours: one table, read in both directions."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from asr.config import FeaturesConfig
from asr.config.parsing import MAX_INT
from asr.config.voice_activity import FRAME_MS, FsmnConfig, VoiceActivityConfig
from asr.errors import UserError
from asr.published import funasr_settings as table
from asr.untrusted import escaped, shown

CLASS, ENCODER = "FsmnVADStreaming", "FSMN"
FRONTENDS = ("WavFrontendOnline", "WavFrontend")

RULES = {
    "max_end_silence_time": "max_end_silence_ms",
    "max_start_silence_time": "max_start_silence_ms",
    "window_size_ms": "window_ms",
    "sil_to_speech_time_thres": "speech_onset_ms",
    "speech_to_sil_time_thres": "speech_offset_ms",
    "lookback_time_start_point": "lookback_ms",
    "lookahead_time_end_point": "lookahead_ms",
    "max_single_segment_time": "max_segment_ms",
    "speech_noise_thres": "min_speech_margin",
    "speech_2_noise_ratio": "silence_exponent",
    "decibel_thres": "min_level_db",
    "snr_thres": "min_snr_db",
    "noise_frame_num_used_for_snr": "noise_frames",
    "do_extend": "extend",
    "detect_mode": "mode",
    "sil_pdf_ids": "silence_classes",
}
"""Keys of `model_conf` → fields of `VoiceActivityConfig`."""

MODES = {0: "one", 1: "many"}

SIZES = {
    "input_affine_dim": "input_affine_width",
    "fsmn_layers": "num_layers",
    "linear_dim": "width",
    "proj_dim": "projection",
    "lorder": "taps",
    "output_affine_dim": "output_affine_width",
    "output_dim": "num_classes",
}
"""Keys of `encoder_conf` → fields of `FsmnConfig`."""

FIXED = {
    "model_conf": {"frame_in_ms": FRAME_MS},
    "encoder_conf": {"rorder": 0, "lstride": 1, "rstride": (0, 1)},
    "frontend_conf": {"frame_shift": FRAME_MS, "lfr_n": 1},
}
"""Section → key → the only value (or values) that can be read here; published models have no other."""

WITHOUT_EFFECT = {
    "model_conf": (
        *("sample_rate", "snr_mode", "do_start_point_detection", "do_end_point_detection", "fe_prior_thres"),
        *("silence_pdf_num", "speech_noise_thresh_low", "speech_noise_thresh_high", "output_frame_probs"),
        *("frame_length_ms", "nn_eval_block_size", "dcd_block_size"),
    ),
    "encoder_conf": ("input_dim", "use_softmax", "activation"),
    "frontend_conf": ("cmvn_file", "dither", "snip_edges", "upsacle_samples", "filter_length_min", "filter_length_max"),
}
"""Section → keys that do not change the segments, or repeat what another one says."""


def read_vad_settings(
    path: Path, content: Mapping[str, Any]
) -> tuple[VoiceActivityConfig, FeaturesConfig, dict[str, int]]:
    """Return (rules, front end, the sizes of the network that are stated) of the content of a `config.yaml`.

    Raises:
        UserError: another model, or a setting of unknown effect, wrong type or out of range, naming section and key.
    """
    for key, expected in (("model", (CLASS,)), ("encoder", (ENCODER,)), ("frontend", FRONTENDS)):
        if content.get(key) not in expected:
            raise UserError(f"{path}: {key}: expected {' or '.join(expected)}, found {shown(content.get(key))}")
    _check_fixed(path, content)
    frontend = {key: (ours, "frontend_conf") for key, ours in _frontend_table().items()}
    known = {"model_conf": RULES, "encoder_conf": SIZES, "frontend_conf": frontend}
    for section, keys in known.items():
        for key in (content.get(section) or {}).keys() - {*keys, *FIXED[section], *WITHOUT_EFFECT[section]}:
            raise UserError(
                f"{path}: {section}.{escaped(str(key))}: not known here; it might change the segments. If FunASR "
                "finds the same segments without it, remove the line from the file"
            )
    rules = _read(path, "model_conf", content, RULES, VoiceActivityConfig)
    sizes = _read(path, "encoder_conf", content, SIZES, FsmnConfig)
    features = _read(path, "frontend_conf", content, _frontend_table(), FeaturesConfig)
    return VoiceActivityConfig(**rules), FeaturesConfig(**{"lfr_m": 1, "lfr_n": 1} | features), sizes


def make_vad_config(settings: VoiceActivityConfig, features: FeaturesConfig, network: FsmnConfig) -> dict[str, Any]:
    """Return the content of a `config.yaml` of FunASR: the inverse of `read_vad_settings`.

    Raises:
        UserError: a front end, or rules, that FunASR does not have.
    """
    for name in ("dynamic_end_silence", "join_up_to_s", "keep_silence"):
        if getattr(settings, name):
            raise UserError(
                f"{name}: FunASR's config.yaml has no such setting; leave it out, and set it where you load"
            )
    for name, value in {"lfr_n": 1, "frame_shift_ms": FRAME_MS, "low_frequency_hz": 20, "preemphasis": 0.97}.items():
        if getattr(features, name) != value:
            raise UserError(f"features.{name}: FunASR's FSMN-VAD has {value}, this model {getattr(features, name)}")
    frontend = {key: getattr(features, ours) for key, ours in _frontend_table().items()}
    frontend["window"] = {ours: theirs for theirs, ours in table.WINDOWS.items()}.get(features.window, features.window)
    model = {key: _to_theirs(key, getattr(settings, ours)) for key, ours in RULES.items()}
    model |= {"sample_rate": features.sample_rate_hz, "silence_pdf_num": len(settings.silence_classes)}
    model |= {"frame_in_ms": FRAME_MS, "frame_length_ms": _plain(features.frame_length_ms)}
    encoder = {"input_dim": features.input_dim} | {key: getattr(network, ours) for key, ours in SIZES.items()}
    return {
        "frontend": FRONTENDS[0],
        "frontend_conf": {key: _plain(value) for key, value in frontend.items()} | {"dither": 0.0},
        "model": CLASS,
        "model_conf": model,
        "encoder": ENCODER,
        "encoder_conf": encoder | {"rorder": 0, "lstride": 1, "rstride": 0},
    }


def _frontend_table() -> dict[str, str]:
    """Return keys of `frontend_conf` → fields of `FeaturesConfig`, but for the noise that only training adds."""
    return {
        setting.key: setting.ours.removeprefix("features.")
        for setting in table.SETTINGS
        if setting.section == "frontend_conf" and setting.key != "dither"
    }


def _check_fixed(path: Path, content: Mapping[str, Any]) -> None:
    for section, fixed in FIXED.items():
        for key, expected in fixed.items():
            choices = expected if isinstance(expected, tuple) else (expected,)
            value = (content.get(section) or {}).get(key, choices[0])
            if value not in choices or isinstance(value, bool):
                raise UserError(
                    f"{path}: {section}.{key}: expected {choices[0]}, the only value that is read here, "
                    f"found {shown(value)}"
                )
    rules, frontend = content.get("model_conf") or {}, content.get("frontend_conf") or {}
    for key, beside in (("sample_rate", "fs"), ("frame_length_ms", "frame_length")):
        default = {"fs": 16000, "frame_length": 25}[beside]
        if rules.get(key, default) != frontend.get(beside, default):
            raise UserError(
                f"{path}: model_conf.{key} is {shown(rules.get(key, default))}, but frontend_conf.{beside} is "
                f"{shown(frontend.get(beside, default))}; the two mean the same: correct one"
            )


def _read(
    path: Path, section: str, content: Mapping[str, Any], names: Mapping[str, str], target: type
) -> dict[str, Any]:
    """Return field → value of the settings in a section, checked against type and range of the target's fields."""
    fields = {field.name: field for field in dataclasses.fields(target)}
    values = {}
    for key, value in (content.get(section) or {}).items():
        if key in names:
            values[names[key]] = _checked(f"{path}: {section}.{key}", key, value, fields[names[key]])
    return values


def _checked(where: str, key: str, value: Any, field: dataclasses.Field) -> Any:
    """Return a value as ours, of the type of the field's default and within its range."""
    default, low, high = field.default, field.metadata["low"], field.metadata["high"]
    if key == "window":
        shapes = get_args(get_type_hints(FeaturesConfig)["window"])
        if not isinstance(value, str) or table.WINDOWS.get(value, value) not in shapes:
            raise UserError(f"{where}: expected one of {', '.join(shapes)}, found {shown(value)}")
        return table.WINDOWS.get(value, value)
    if key == "detect_mode" or isinstance(default, bool):
        if not isinstance(value, int) or value not in (0, 1):
            raise UserError(f"{where}: expected 0 or 1, found {shown(value)}")
        return MODES[value] if key == "detect_mode" else bool(value)
    is_list = isinstance(default, tuple)
    numbers = value if isinstance(value, list) else [value]
    kinds = (int,) if isinstance(default, int | tuple) else (int, float)
    right = [
        isinstance(number, kinds)
        and not isinstance(number, bool)
        and low <= number <= (MAX_INT if high is None else high)
        for number in numbers
    ]
    if isinstance(value, list) != is_list or not right or not all(right):
        limits = f"at least {low}" if high is None else f"{low} to {high}"
        raise UserError(f"{where}: expected a value like {_to_theirs(key, default)}, {limits}, found {shown(value)}")
    return tuple(value) if is_list else type(default)(value)


def _to_theirs(key: str, value: Any) -> Any:
    if key == "detect_mode":
        return next(number for number, name in MODES.items() if name == value)
    if isinstance(value, bool):
        return int(value)
    return list(value) if isinstance(value, tuple) else value


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
