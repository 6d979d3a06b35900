"""The settings of a FunASR punctuation model, `config.yaml`, and ours: read and written.

Neither jax nor numpy is imported here, so that a mistake is answered in well under a second.
"""

from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from asr.config import EncoderConfig
from asr.config.punctuation import NO_SIGN, PunctuationConfig
from asr.errors import UserError
from asr.folder_contents import CONFIG
from asr.funasr_folder import FunasrFiles, is_funasr_folder, open_folder
from asr.published import funasr_settings
from asr.published.kinds import check_kind, kind_of
from asr.untrusted import escaped, is_printable, shown


class Setting(NamedTuple):
    """One number under both names."""

    section: str  # in FunASR's file
    key: str  # in that section
    ours: str  # path in `PunctuationConfig`
    default: float  # FunASR's, if the file does not state it
    low: float  # smallest value accepted
    high: float  # largest


SETTINGS = (
    Setting("model_conf", "embed_unit", "embedding_width", 128, 2, 4096),
    Setting("model_conf", "sentence_end_id", "full_stop", 3, 0, 255),
    Setting("encoder_conf", "output_size", "encoder.width", 256, 4, 4096),
    Setting("encoder_conf", "attention_heads", "encoder.num_heads", 4, 1, 64),
    Setting("encoder_conf", "linear_units", "encoder.ffn_width", 2048, 4, 16384),
    Setting("encoder_conf", "num_blocks", "encoder.num_layers", 6, 1, 200),
    Setting("encoder_conf", "kernel_size", "encoder.kernel_size", 11, 1, 127),
)
"""The numbers that both sides have."""

ENCODERS = {"CTTransformer": "SANMEncoder", "CTTransformerStreaming": "SANMVadEncoder"}
"""FunASR's class → that of its encoder."""

FIXED = (
    ("", "tokenizer", "CharTokenizer"),
    ("tokenizer_conf", "unk_symbol", "<unk>"),
    *(row for row in funasr_settings.FIXED if row[0] == "encoder_conf" and row[1] != "sanm_shfit"),
)
"""(section, key, value): another value would change the signs. All may be absent but the first."""

WITHOUT_EFFECT = {
    "model_conf": ("ignore_id", "dropout_rate", "punc_weight", "sos", "eos"),
    "encoder_conf": ("dropout_rate", "attention_dropout_rate"),
    "tokenizer_conf": ("token_list",),
}
"""Section → keys of training, and the list of words, which `asr.funasr_folder` finds."""

READ_ELSEWHERE = {
    "model_conf": ("punc_list", "att_unit"),
    "encoder_conf": ("sanm_shfit", "input_size"),
    "": ("model", "encoder", "init_param", "model_conf", "encoder_conf", "tokenizer_conf"),
}


def open_punctuation_folder(folder: Path) -> tuple[PunctuationConfig, FunasrFiles]:
    """Return our settings for a punctuation model of FunASR, `vocab_size` left 0, and the paths of its files.

    Raises:
        UserError: a file that is missing or cannot be read, or a setting that would change the signs, naming its key.
    """
    folder = Path(folder)
    is_own = (folder / CONFIG).is_file() and not is_funasr_folder(folder)
    if is_own or kind_of(folder) != "paraformer":  # of others the reader says what is wrong
        check_kind(folder, "punctuation")
    files, content = open_folder(folder)
    return read_punctuation_config(files.config, content), files


def read_punctuation_config(path: Path, content: Mapping[str, Any]) -> PunctuationConfig:
    """Return our settings for the content of the file `path`; errors as of `open_punctuation_folder`."""
    model = content.get("model")
    if not isinstance(model, str) or model not in ENCODERS:
        raise UserError(f"{path}: model: expected {' or '.join(ENCODERS)}, found {shown(model)}")
    if content.get("encoder") != ENCODERS[model]:
        raise UserError(f"{path}: encoder: {model} has a {ENCODERS[model]}, found {shown(content.get('encoder'))}")
    _check_keys(path, content)
    values = {setting.ours: _number(path, content, setting) for setting in SETTINGS}
    sizes = {name.partition(".")[2]: value for name, value in values.items() if name.startswith("encoder.")}
    encoder = EncoderConfig(dropout=0.0, causal=_is_causal(path, content, sizes["kernel_size"]), **sizes)
    _check_sizes(path, content, encoder, values["embedding_width"])
    signs = _read_signs(path, content)
    if values["full_stop"] >= len(signs):
        raise UserError(f"{path}: model_conf.sentence_end_id: expected a class of punc_list, below {len(signs)}")
    return PunctuationConfig(
        embedding_width=values["embedding_width"],
        encoder=encoder,
        streaming=model == "CTTransformerStreaming",
        signs=signs,
        full_stop=values["full_stop"],
    )


def make_punctuation_config(config: PunctuationConfig) -> dict[str, Any]:
    """Return the content of FunASR's `config.yaml` for our settings: the inverse of `read_punctuation_config`."""
    model = "CTTransformerStreaming" if config.streaming else "CTTransformer"
    content: dict[str, Any] = {"model": model, "encoder": ENCODERS[model], "model_conf": {}, "encoder_conf": {}}
    for section, key, value in FIXED:
        if section and value not in (None, []):
            content.setdefault(section, {})[key] = value
        elif not section:
            content[key] = value
    for setting in SETTINGS:
        content[setting.section][setting.key] = attrgetter(setting.ours)(config)
    content["model_conf"] |= {"att_unit": config.encoder.width, "punc_list": list(config.signs), "ignore_id": 0}
    shift = (config.encoder.kernel_size - 1) // 2 if config.encoder.causal else 0
    content["encoder_conf"] |= {"input_size": config.embedding_width, "sanm_shfit": shift}
    return content


def _number(path: Path, content: Mapping[str, Any], setting: Setting) -> int:
    value = (content.get(setting.section) or {}).get(setting.key, setting.default)
    if type(value) is not int or not setting.low <= value <= setting.high:
        expected = f"a whole number from {setting.low} to {setting.high}"
        raise UserError(f"{path}: {setting.section}.{setting.key}: expected {expected}, found {shown(value)}")
    return value


def _check_keys(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse another value of what is fixed, and keys that might change the signs."""
    for section, key, expected in FIXED:
        values = (content.get(section) or {}) if section else content
        value = values.get(key, expected if section else None)
        if value != expected and not (section and value in (None, [], "")):
            name = f"{section}.{key}" if section else key
            raise UserError(
                f"{path}: {name}: expected {shown(expected)}, the only value read here, found {shown(value)}"
            )
    for section in ("", "model_conf", "encoder_conf", "tokenizer_conf"):
        known = {key for of, key, _ in FIXED if of == section} | {s.key for s in SETTINGS if s.section == section}
        known |= {*READ_ELSEWHERE.get(section, ()), *WITHOUT_EFFECT.get(section, ())}
        known |= {key for keys in funasr_settings.WITHOUT_EFFECT[section].values() for key in keys}
        values = (content.get(section) or {}) if section else {key: value for key, value in content.items() if value}
        for key in values.keys() - known:
            name = f"{section}.{escaped(str(key))}" if section else escaped(str(key))
            raise UserError(
                f"{path}: {name}: not known here; it might change the signs. If FunASR writes the same texts without "
                "it, remove the line from the file"
            )


def _is_causal(path: Path, content: Mapping[str, Any], kernel_size: int) -> bool:
    """Return whether all taps of the memory lie before the present word; a shift in between is refused."""
    if kernel_size % 2 == 0:
        raise UserError(f"{path}: encoder_conf.kernel_size: expected an odd number, found {kernel_size}")
    shift, whole = (content.get("encoder_conf") or {}).get("sanm_shfit", 0), (kernel_size - 1) // 2
    if shift not in (0, whole):
        expected = f"0 or {whole}, half of the kernel"
        raise UserError(f"{path}: encoder_conf.sanm_shfit: expected {expected}, found {shown(shift)}")
    return shift > 0


def _check_sizes(path: Path, content: Mapping[str, Any], encoder: EncoderConfig, embedding_width: int) -> None:
    """Refuse widths that contradict each other."""
    if encoder.width % encoder.num_heads:
        raise UserError(
            f"{path}: encoder_conf.attention_heads {encoder.num_heads} does not divide output_size {encoder.width}"
        )
    if embedding_width % 2:
        raise UserError(f"{path}: model_conf.embed_unit: expected an even number, found {embedding_width}")
    equals = (("encoder_conf", "input_size", embedding_width), ("model_conf", "att_unit", encoder.width))
    for section, key, expected in equals:
        value = (content.get(section) or {}).get(key, expected)
        if value != expected:
            raise UserError(
                f"{path}: {section}.{key}: expected {expected} as elsewhere in the file, found {shown(value)}"
            )


def _read_signs(path: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    signs = (content.get("model_conf") or {}).get("punc_list")
    if not isinstance(signs, list) or not 2 <= len(signs) <= 256 or not all(is_printable(s) and s for s in signs):
        raise UserError(f"{path}: model_conf.punc_list: expected a list of signs, found {shown(signs)}")
    if NO_SIGN not in signs or len(set(signs)) < len(signs):
        raise UserError(f"{path}: model_conf.punc_list: expected different signs, {NO_SIGN} among them")
    return tuple(signs)
