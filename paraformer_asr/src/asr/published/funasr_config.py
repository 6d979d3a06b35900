"""The settings of a FunASR model, `config.yaml`, and ours: one table, read in both directions.

Neither jax nor numpy is imported here, so that a mistake is answered in well under a second.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, get_args, get_type_hints

from asr.config import Config
from asr.config.reader import load_config, override_config
from asr.config.rules import check_config
from asr.errors import UserError
from asr.folder_contents import CONFIG, explain_folder
from asr.funasr_folder import (
    ONNX,
    FunasrFiles,
    find_sherpa_model,
    is_funasr_folder,
    open_folder,
)
from asr.published import funasr_sense_voice, funasr_settings
from asr.published.funasr_variants import DECODER_SHIFT, INNER_DIM, INNER_DIM_DEFAULT, VARIANTS, Table
from asr.published.kinds import check_recognises
from asr.untrusted import escaped, shown

MAX_BITS = 63  # largest integer accepted, in bits
WHOLE_UP_TO_S = 20.0
"""Longest sound that is not split, in seconds. FunASR splits none, though the network was trained on utterances."""


def read_settings(folder: Path, overrides: Sequence[str] = (), *, writes_text: bool = True) -> Config:
    """Return the config of a run directory, an exported model or a FunASR model folder, changed by `key=value`.

    With `writes_text` the run of a voice activity detector is refused.
    """
    if writes_text or is_funasr_folder(folder):
        check_recognises(folder)
    if is_funasr_folder(folder):
        return override_config(read_funasr_config(folder), overrides)
    if not (folder / CONFIG).is_file():
        raise UserError(explain_folder(folder))
    return load_config(folder / CONFIG, overrides)


def read_funasr_config(folder: Path) -> Config:
    """Return our settings for a FunASR model folder; `model.vocab_size` and `model.input_dim` are left 0."""
    return open_funasr_folder(folder)[0]


def open_funasr_folder(folder: Path) -> tuple[Config, FunasrFiles]:
    """Return our settings for a FunASR model folder, and the paths of its files.

    Raises:
        UserError: a file that is missing or cannot be read, or a model other than that of `asr.models`, naming
            section and key.
    """
    files, content = _open_any(folder)
    path = files.config
    changes = _translate(path, content)
    if files.weights.suffix == ONNX and changes.get("model.name") != "sense_voice":
        # Paraformer's CTC head serves training alone, and is not exported.
        changes |= {"model.ctc_head": False, "loss.ctc_weight": 0.0}
    changes |= {"name": folder.resolve().name, "features.cmvn": "none"}
    case = "lower" if files.seg_dict else "keep"  # FunASR lower-cases the words that it looks up there
    changes |= {"tokenizer.kind": "funasr", "tokenizer.file": str(folder), "tokenizer.text_case": case}
    changes["inference.whole_up_to_s"] = WHOLE_UP_TO_S
    if files.cmvn:
        changes |= {"features.cmvn": "file", "features.cmvn_file": str(files.cmvn)}
    config = Config()
    for ours, value in changes.items():
        config = _replaced(config, ours, value)
    try:
        check_config(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return config, files


def _open_any(folder: Path) -> tuple[FunasrFiles, dict[str, Any]]:
    """Return the files of a folder of FunASR or sherpa-onnx, and the content of its config."""
    model = find_sherpa_model(folder)
    if model is None:
        return open_folder(folder)
    from asr.published.sherpa_folder import read_sherpa_config  # needs numpy

    return FunasrFiles(model, model, folder / "tokens.txt", None, model, ()), read_sherpa_config(model)


def _translate(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the file, by the paths of our settings."""
    if content.get("model") == funasr_sense_voice.MODEL:
        _check_fixed(path, content, funasr_sense_voice)
        _refuse_unknown(path, content, funasr_sense_voice)
        return _follow(path, content, funasr_sense_voice) | funasr_sense_voice.CONSTANTS
    variant = VARIANTS.get(content["model"]) if isinstance(content.get("model"), str) else None
    table = variant or funasr_settings
    _check_fixed(path, content, table)
    predictor = _one_of(path, content, "predictor", tuple(table.PREDICTORS))
    _one_of(path, content, "tokenizer", funasr_settings.TOKENIZERS)
    _refuse_unknown(path, content, table)
    changes = _follow(path, content, table, tail_threshold=funasr_settings.TAIL_DEFAULTS[predictor])
    if variant:
        changes["model.name"] = variant.NAME
        _check_variant(path, content, variant, changes)
    num_blocks = (content.get("decoder_conf") or {}).get("num_blocks", 6)
    num_blocks = _checked(path, "decoder_conf.num_blocks", num_blocks, 0)
    changes["model.decoder.num_memory_layers"] = max(num_blocks - changes["model.decoder.num_layers"], 0)
    if changes.get("model.name") == "streaming" and changes["model.decoder.num_memory_layers"]:
        raise UserError(
            f"{path}: decoder_conf.num_blocks: expected {changes['model.decoder.num_layers']} as att_layer_num, found "
            f"{num_blocks}; the memories of further blocks hear later tokens, which a stream does not have"
        )
    changes |= {"model.decoder.num_ffn_layers": 1, "model.predictor.kind": table.PREDICTORS[predictor]}
    changes["model.ctc_head"] = changes["loss.ctc_weight"] > 0
    changes["loss.ctc_normaliser"] = "utterances"
    return changes


def _one_of(path: Path, content: dict[str, Any], key: str, classes: Sequence[str]) -> str:
    """Return the class that a key names; refuse all but these."""
    value = content.get(key)
    if value not in classes:
        raise UserError(f"{path}: {key}: expected {' or '.join(classes)}, found {shown(value)}")
    return value


def _follow(path: Path, content: dict[str, Any], table: Any, **defaults: Any) -> dict[str, Any]:
    """Return the values of the settings in a table; `defaults` by key are used instead of the table's."""
    changes = {}
    for section, key, ours, default in table.SETTINGS:
        value = (content.get(section) or {}).get(key, defaults.get(key, default))
        value = funasr_settings.WINDOWS.get(value, value) if key == "window" and isinstance(value, str) else value
        if key == "length_normalized_loss":
            value = funasr_settings.NORMALISERS[_checked(path, _dotted(section, key), value, False)]
        changes[ours] = _checked(path, _dotted(section, key), value, attrgetter(ours)(Config()))
        _check_range(path, _dotted(section, key), changes[ours], _setting(ours))
    return changes


def _check_fixed(path: Path, content: dict[str, Any], table: Any) -> None:
    """Refuse settings that would change the transcripts or the loss."""
    model = content.get("model")
    if isinstance(model, str) and model in funasr_settings.OTHER_MODELS:
        raise UserError(
            f"{path}: model: {model} is {funasr_settings.OTHER_MODELS[model]}, which is not read here, expected one of "
            f"Paraformer, {', '.join(VARIANTS)}, {funasr_sense_voice.MODEL}; the plain large Paraformer is "
            f"{funasr_settings.PLAIN_MODEL} on ModelScope"
        )
    for section, key, expected in table.FIXED:
        values = (content.get(section) or {}) if section else content
        value = values.get(key, expected if section else None)
        if value != expected and not (section and value in (None, [], "")):
            raise UserError(
                f"{path}: {_dotted(section, key)}: expected {_in_yaml(expected)}, the only value that is read here, "
                f"found {_in_yaml(value)}"
            )


def _check_variant(path: Path, content: dict[str, Any], variant: Table, changes: dict[str, Any]) -> None:
    """Refuse settings left out of which FunASR's default is not read here, and those that do not fit the others."""
    for (section, key), default in variant.ABSENT.items():
        if key not in (content.get(section) or {}):
            expected = next(value for *place, value in variant.FIXED if place == [section, key])
            raise UserError(
                f"{path}: {_dotted(section, key)}: expected {_in_yaml(expected)}, the only value that is read here, "
                f"found none, which FunASR takes for {_in_yaml(default)}"
            )
    width, shift = changes["model.encoder.width"], (changes["model.decoder.kernel_size"] - 1) // 2
    wanted = {
        "seaco": (*INNER_DIM, INNER_DIM_DEFAULT, width, "the encoder's width"),
        "contextual": (*INNER_DIM, INNER_DIM_DEFAULT, width, "the encoder's width"),
        "streaming": (*DECODER_SHIFT, 0, shift, "half of kernel_size, so that no later token is heard"),
    }
    if variant.NAME not in wanted:
        return
    section, key, default, expected, why = wanted[variant.NAME]
    if (value := (content.get(section) or {}).get(key, default)) != expected:
        raise UserError(f"{path}: {_dotted(section, key)}: expected {expected}, {why}, found {shown(value)}")


def _in_yaml(value: Any) -> str:
    """Return a value for a message, null and booleans as YAML writes them."""
    return json.dumps(value) if value is None or isinstance(value, bool) else shown(value)


def make_funasr_config(config: Config) -> dict[str, Any]:
    """Return the content of a FunASR `config.yaml` for our settings: the inverse of `read_funasr_config`."""
    model, features = config.model, config.features
    constants = {"model.encoder.kind": "sanm", "model.encoder.position": "sincos", "model.encoder.causal": False}
    constants |= {"features.low_frequency_hz": 20.0, "features.preemphasis": 0.97}
    constants["features.utterance_mean"] = False
    name = "SenseVoice" if model.name == "sense_voice" else "Paraformer"
    if name == "Paraformer":
        constants["model.decoder.num_ffn_layers"] = 1
    if model.name == "streaming":  # FunASR's further blocks would hear later tokens
        constants["model.decoder.num_memory_layers"] = 0
    for path, value in constants.items():
        if (own := attrgetter(path)(config)) != value:
            raise UserError(f"{path}: FunASR's {name} has {value!r}, this model {own!r}")
    if features.high_frequency_hz not in (0.0, features.sample_rate_hz / 2):
        raise UserError("features.high_frequency_hz: FunASR's front end goes up to half the sample rate")
    if name == "SenseVoice":
        return _write(config, funasr_sense_voice)
    table = {variant.NAME: variant for variant in VARIANTS.values()}.get(model.name, funasr_settings)
    kinds = {kind: name for name, kind in table.PREDICTORS.items()}
    if model.predictor.kind not in kinds:
        raise UserError(f"model.predictor.kind: FunASR's model of the kind {model.name} has {', '.join(kinds)} only")
    content = _write(config, table) | {"tokenizer": funasr_settings.TOKENIZERS[0]}
    content["predictor"] = kinds[model.predictor.kind]
    if model.name in ("seaco", "contextual"):
        content[INNER_DIM[0]][INNER_DIM[1]] = model.encoder.width
    if model.name == "streaming":
        content[DECODER_SHIFT[0]][DECODER_SHIFT[1]] = (model.decoder.kernel_size - 1) // 2
    content["predictor_conf"]["idim"] = model.encoder.width
    if model.predictor.kind == "conv":
        del content["predictor_conf"]["dropout"]
    content["decoder_conf"]["num_blocks"] = model.decoder.num_layers + model.decoder.num_memory_layers
    return content


def _write(config: Config, table: Any) -> dict[str, Any]:
    """Return the settings in a table as FunASR writes them."""
    content: dict[str, Any] = {key: value for section, key, value in table.FIXED if not section}
    for section, key, value in table.FIXED:
        if section and value not in (None, []):
            content.setdefault(section, {})[key] = value
    windows = {name: theirs for theirs, name in funasr_settings.WINDOWS.items()}
    for section, key, ours, _ in table.SETTINGS:
        value = attrgetter(ours)(config)
        value = windows.get(value, value) if key == "window" else value
        value = value == funasr_settings.NORMALISERS[True] if key == "length_normalized_loss" else value
        content.setdefault(section, {})[key] = int(value) if key == "predictor_bias" else _plain(value)
    content.setdefault("tokenizer_conf", {})["split_with_space"] = True
    return content


def _refuse_unknown(path: Path, content: dict[str, Any], table: Any) -> None:
    """Refuse keys that are neither read nor known to be without effect: they might change the transcripts."""
    for section, without_effect in table.WITHOUT_EFFECT.items():
        known = {s.key for s in table.SETTINGS if s.section == section} | {
            key for of, key, _ in table.FIXED if of == section
        }
        known |= {key for keys in without_effect.values() for key in keys} | {*table.READ_ELSEWHERE.get(section, ())}
        values = (content.get(section) or {}) if section else {key: value for key, value in content.items() if value}
        for key in values.keys() - known:
            raise UserError(
                f"{path}: {_dotted(section, escaped(str(key)))}: not known here; it might change the "
                "transcripts. If FunASR writes the same texts without it, remove the line from the file"
            )


def _checked(path: Path, key: str, value: Any, like: Any) -> Any:
    kinds = {bool: (bool, int), int: (int,), float: (int, float), str: (str,)}[type(like)]
    if not isinstance(value, kinds) or (isinstance(value, bool) and not isinstance(like, bool)):
        raise UserError(f"{path}: {key}: expected a value like {like!r}, found {shown(value)}")
    if isinstance(like, bool) and value not in (0, 1):
        raise UserError(f"{path}: {key}: expected 0 or 1, found {value!r}")
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise UserError(f"{path}: {key}: expected a value like {like!r}, found {shown(value)}")
    return type(like)(value)


def _check_range(path: Path, key: str, value: Any, setting: tuple[Any, Mapping]) -> None:
    """Refuse a value outside of our setting's choices or range; `setting` is its (type, metadata)."""
    names, low, high = get_args(setting[0]), setting[1].get("low"), setting[1].get("high")
    if names and value not in names:
        raise UserError(f"{path}: {key}: expected one of {', '.join(names)}; found {shown(value)}")
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        raise UserError(f"{path}: {key}: expected {low} to {high}, found {shown(value)}")


def _setting(ours: str) -> tuple[Any, Mapping]:
    parent, _, name = ours.rpartition(".")
    section = type(attrgetter(parent)(Config()))
    return get_type_hints(section)[name], section.__dataclass_fields__[name].metadata


def _dotted(section: str, key: str) -> str:
    return f"{section}.{key}" if section else key


def _replaced(config: Any, path: str, value: Any) -> Any:
    name, _, rest = path.partition(".")
    return dataclasses.replace(config, **{name: _replaced(getattr(config, name), rest, value) if rest else value})


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
