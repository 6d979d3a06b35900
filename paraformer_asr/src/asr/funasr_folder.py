"""Finds the files of a FunASR model folder, under the names that it states or the usual ones.

`configuration.json` names them (`file_path_metas`). Without it FunASR takes files with the usual names, then those that
the config names. FunASR ignores a named file that is missing; a model without its normalisation writes nonsense, so
here such a folder is refused.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from asr.config.safe_yaml import CANNOT_BE_READ, MAX_CONFIG_BYTES, check_bounds, fail
from asr.errors import UserError
from asr.files import decoded, read_bounded
from asr.folder_contents import CONFIG, MAX_NAMES_SHOWN, WEIGHTS, explain_folder, matching, what_else
from asr.untrusted import escaped, shown

FILES, TOKENS = "configuration.json", "tokens.json"
SEG_DICT, CMVN, PIECES = "seg_dict", "am.mvn", "bpe.model"

ONNX = ".onnx"  # suffix of an exported model, whose weights are read
ONNX_NAMES = ("model.onnx", "model_quant.onnx", "model.int8.onnx")
"""Usual names of an export: FunASR's, its 8-bit one, and sherpa-onnx's 8-bit one."""

INIT_PARAM, CONFIG_KEY, TOKEN_LIST = "init_param", "config", "tokenizer_conf.token_list"
SEG_DICT_KEY, CMVN_KEY, PIECES_KEY = "tokenizer_conf.seg_dict", "frontend_conf.cmvn_file", "tokenizer_conf.bpemodel"

OF_PIECES = "SentencepiecesTokenizer"
"""FunASR's class of a tokenizer with a model of sentencepiece."""

USUAL = {
    INIT_PARAM: (WEIGHTS, *ONNX_NAMES),
    CONFIG_KEY: (CONFIG,),
    TOKEN_LIST: (TOKENS, "tokens.txt"),
    SEG_DICT_KEY: (SEG_DICT,),
    CMVN_KEY: (CMVN,),
    PIECES_KEY: (PIECES,),
}
"""Keys that name a file → its usual names."""

SPELLINGS = {"tokenizer_conf.seg_dict_file": SEG_DICT_KEY}  # other spellings of a key


class Named(NamedTuple):
    """The name of a file, and the place that states it."""

    source: Path  # file that states it
    key: str  # in that file
    name: Any  # the value of the key


class TextFiles(NamedTuple):
    """Paths of the files of a model's tokenizer; a list of tokens, or pieces, or both."""

    tokens: Path | None  # the vocabulary, a list
    seg_dict: Path | None  # words and their pieces, or None
    pieces: Path | None = None  # the model of sentencepiece, if the config names that kind of tokenizer


class FunasrFiles(NamedTuple):
    """Paths of a model's files."""

    config: Path  # network, front end and training
    weights: Path  # the state dict
    tokens: Path | None  # the vocabulary, a list; None for a model that needs none
    seg_dict: Path | None  # words and their pieces, or None
    cmvn: Path | None  # normalisation of the features, or None
    remarks: tuple[str, ...]  # a sentence about each file that nothing names
    pieces: Path | None = None  # the model of sentencepiece, if the config names that kind of tokenizer

    @property
    def text(self) -> TextFiles:
        """The files of the tokenizer."""
        return TextFiles(self.tokens, self.seg_dict, self.pieces)


def is_funasr_folder(folder: Path) -> bool:
    """Return whether `folder` looks like a model of FunASR, whether or not it can be opened."""
    names = (WEIGHTS, *ONNX_NAMES, TOKENS, "tokens.txt", FILES)
    return any((folder / name).is_file() for name in names) or bool(matching(folder, f"{WEIGHTS}.*"))


def find_sherpa_model(folder: Path) -> Path | None:
    """Return the ONNX file of a folder of sherpa-onnx, which has no config: its facts are in the file; else None."""
    others = (CONFIG, FILES, WEIGHTS)
    if any((folder / name).exists() for name in others) or not (folder / "tokens.txt").is_file():
        return None
    return next((folder / name for name in ONNX_NAMES if (folder / name).is_file()), None)


def open_folder(folder: Path, *, needs_tokens: bool = True) -> tuple[FunasrFiles, dict[str, Any]]:
    """Return the files of a model folder, and the content of its config; refuse names that lead out of the folder."""
    stated = _stated_names(folder)
    config = find_config(folder)
    content = read_config_file(config)
    paths = _find_all(folder, stated, config, content)
    files = FunasrFiles(
        config=config,
        weights=paths[INIT_PARAM] or _missing(folder, WEIGHTS),
        **_text_files(folder, content, paths, needs_tokens=needs_tokens)._asdict(),
        cmvn=paths[CMVN_KEY],
        remarks=tuple(_remarks(folder, paths, named=CMVN_KEY in (stated or {}))),
    )
    return files, content


def find_config(folder: Path) -> Path:
    """Return the path of a model's config, under the name that configuration.json states or the usual one."""
    return _find(folder, CONFIG_KEY, _stated_names(folder), {}) or _missing(folder, CONFIG)


def find_text_files(folder: Path) -> tuple[TextFiles, list[str]]:
    """Return the tokenizer's files, and remarks, of a folder that needs no other file. Errors as in `open_folder`."""
    stated = _stated_names(folder)
    config = _find(folder, CONFIG_KEY, stated, {})
    content = read_config_file(config) if config else {}
    paths = _find_all(folder, stated, config or folder / CONFIG, content)
    return _text_files(folder, content, paths), [*_remarks_on_words(folder, paths)]


def _text_files(
    folder: Path, content: Mapping[str, Any], paths: Mapping[str, Path | None], *, needs_tokens: bool = True
) -> TextFiles:
    of_pieces = content.get("tokenizer") == OF_PIECES
    if of_pieces and not paths[PIECES_KEY]:
        raise UserError(
            f"{folder}: its tokenizer is a {OF_PIECES}, but nothing names the model of sentencepiece; name the file in "
            f"{FILES}, as file_path_metas.{PIECES_KEY}"
        )
    tokens = paths[TOKEN_LIST] or (None if of_pieces or not needs_tokens else _missing(folder, TOKENS))
    return TextFiles(tokens, paths[SEG_DICT_KEY], paths[PIECES_KEY] if of_pieces else None)


def read_config_file(path: Path) -> dict[str, Any]:
    """Return the content of a model's config: a mapping with sections, or a UserError."""
    try:
        text = decoded(path, read_bounded(path, MAX_CONFIG_BYTES), "the settings of a FunASR model")
        check_bounds(text, str(path), aliases=True)
        content = yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UserError:
        raise
    except yaml.YAMLError as error:
        fail(error, str(path))
    except CANNOT_BE_READ as error:
        raise UserError(f"{path}: not valid YAML ({escaped(str(error))})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected the settings of a FunASR model, found {shown(content)}")
    for key, value in content.items():
        if str(key).endswith("_conf") and not isinstance(value, dict | None):
            raise UserError(f"{path}: {key}: expected a section, found {shown(value)}")
    return content


def _stated_names(folder: Path) -> dict[str, Named] | None:
    """Return the names that configuration.json states, by key, or None if it states none."""
    path = folder / FILES
    if not folder.is_dir():
        raise UserError(explain_folder(folder))
    if not path.is_file():
        return None
    try:
        content = json.loads(decoded(path, read_bounded(path, MAX_CONFIG_BYTES), "names of files"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({escaped(str(error))}); copy it again") from None
    metas = content.get("file_path_metas") if isinstance(content, dict) else None
    if metas is None:
        return None
    if not isinstance(metas, dict):
        raise UserError(f"{path}: file_path_metas: expected names of files, found {shown(metas)}")
    return dict(_names_within(path, metas, known_only=False))


def _names_within(source: Path, content: Mapping[str, Any], *, known_only: bool) -> Iterator[tuple[str, Named]]:
    """Yield (key, name) of the files that the mapping in `source` names, at most one level deep.

    Other keys are ignored with `known_only`, and else refused.
    """
    flat = {}
    for key, value in content.items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {str(key): value}
    for key, value in flat.items():
        known = SPELLINGS.get(key, key)
        if known in USUAL and value is not None:
            yield known, Named(source, key, value)
        elif known not in USUAL and not known_only:
            raise UserError(f"{source}: {escaped(key)}: names {shown(value)}, a kind of file that is not read here")


def _find_all(
    folder: Path, stated: dict[str, Named] | None, config: Path, content: Mapping[str, Any]
) -> dict[str, Path | None]:
    of_config = dict(_names_within(config, content, known_only=True))
    return {key: _find(folder, key, stated, of_config) for key in USUAL}


def _find(folder: Path, key: str, stated: dict[str, Named] | None, of_config: Mapping[str, Named]) -> Path | None:
    """Return the file of a key in FunASR's order of preference, or None."""
    usual = next((folder / name for name in USUAL[key] if (folder / name).is_file()), None)
    named = (stated or {}).get(key)
    if key == INIT_PARAM and usual and usual.suffix == ONNX and (named is None or named.name == WEIGHTS):
        return usual  # an export beside the files of the model that it was made from
    if named:
        return _resolved(folder, named)
    if stated is None and usual:
        return usual
    if key in of_config:
        return _resolved(folder, of_config[key])
    return None if key in (SEG_DICT_KEY, CMVN_KEY, PIECES_KEY) else usual


def _resolved(folder: Path, named: Named) -> Path:
    source, key, name = named
    if not isinstance(name, str) or not name:
        raise UserError(f"{source}: {key}: expected the name of a file, found {shown(name)}")
    inside, path = os.path.abspath(folder), os.path.abspath(folder / name)
    if not path.startswith(inside + os.sep):
        raise UserError(
            f"{source}: {key}: names {shown(name)}, which is outside of the folder; copy that file into the folder and "
            "write its name there"
        )
    path = folder / os.path.relpath(path, inside)
    if not path.exists():  # a pipe or a folder is refused by its reader
        what = what_else(folder) or f"; copy it there from where the model is, or correct its name in {source.name}"
        raise UserError(f"{escaped(str(path))}: missing, but {source.name} names it ({key}){what}")
    return path


def _missing(folder: Path, name: str) -> Path:
    raise UserError(f"{folder}: expected a model folder of FunASR, but it holds no {name}{what_else(folder)}")


def _remarks(folder: Path, paths: Mapping[str, Path | None], *, named: bool) -> Iterator[str]:
    cmvn = paths[CMVN_KEY]
    others = [name for name in matching(folder, "*.mvn", "*cmvn*") if folder / name != cmvn]
    if others and not cmvn:
        yield (
            f"{folder}: {', '.join(others[:MAX_NAMES_SHOWN])} may be the normalisation of the features, but nothing "
            f"names it, so it is not applied, as in FunASR; to apply it, set frontend_conf.cmvn_file: {others[0]} "
            f"in {paths[CONFIG_KEY]}"
        )
    elif others and not named:
        yield f"{folder}: the normalisation is {cmvn.name}; {', '.join(others[:MAX_NAMES_SHOWN])} is not used"
    yield from _remarks_on_words(folder, paths)


def _remarks_on_words(folder: Path, paths: Mapping[str, Path | None]) -> Iterator[str]:
    """Yield a sentence about words and their pieces that nothing names."""
    others = [] if paths[SEG_DICT_KEY] else matching(folder, f"*{SEG_DICT}*")
    if others:
        yield (
            f"{folder}: nothing names {others[0]}, so it is not used, as in FunASR; to use it, set "
            f"tokenizer_conf.seg_dict: {others[0]} in {paths[CONFIG_KEY] or folder / CONFIG}"
        )
