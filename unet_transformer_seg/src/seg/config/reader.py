"""Reads and writes config files: settings, overrides, and the settings of a model to start from."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import yaml

from seg.config import Config, DataConfig, InferenceConfig
from seg.config.packaged import find_config
from seg.config.parsing import parse, parse_override, to_plain
from seg.config.rules import check_config
from seg.config.safe_yaml import compose_file, compose_text
from seg.errors import UserError
from seg.files import Reader, read_bounded, replace_text

ORIGIN = "origin.json"  # file of a converted model that names its source


def load_config(path: str | Path, overrides: Sequence[str] = (), read: Reader = read_bounded) -> Config:
    """Return the config in a YAML file, changed by overrides such as `section.key=value`, the value in YAML.

    `read` is as `seg.files.read_bounded`. A mistake names file, line and key.
    """
    # A model converted before `inference.scale` existed takes images at their own size.
    converted = Path(path).with_name(ORIGIN).is_file()
    base = Config(inference=InferenceConfig(scale="native")) if converted else Config()
    return _checked(parse(Config, compose_file(Path(path), read), str(path), base), overrides, path)


def load_start_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Return the config of a new run, which may start from the weights of another model.

    As `load_config`, of a file or of a config that comes with the package, such as `toy_unet`. If `init` names a model,
    that model's config supplies the settings of the architecture and of the normalisation of images that neither the
    file nor an override sets.
    """
    path = find_config(path)
    node = compose_file(path)
    stated = parse(Config, node, str(path))
    for override in _each(overrides):
        stated = parse_override(stated, override)
    base = _settings_of_model(stated.init, path) if stated.init else Config()
    return _checked(parse(Config, node, str(path), base), overrides, path)


def _settings_of_model(folder: str, path: str | Path) -> Config:
    """Return the defaults with the architecture, channels and normalisation of the model in `folder`.

    The data set decides the number and kind of the classes.
    """
    try:
        config = load_config(Path(folder) / "config.yaml")
    except UserError as error:
        expected = "a run directory, or a folder written by seg.export or seg.convert"
        raise UserError(f"{path}: init: expected {expected}, found {folder:.500} ({error})") from None
    # Mean and deviation are those of values that were scaled in this way.
    names = ("channels", "mean", "std", "normalise", "range", "percentiles", "channel_ranges")
    data = DataConfig(**{name: getattr(config.data, name) for name in names})
    return Config(model=dataclasses.replace(config.model, num_classes=0, labels="exclusive"), data=data)


def _checked(config: Config, overrides: Sequence[str], path: str | Path) -> Config:
    try:
        return override_config(config, overrides)
    except UserError as error:
        raise UserError(str(error) if str(error).startswith("override ") else f"{path}: {error}") from None


def override_config(config: Config, overrides: Sequence[str]) -> Config:
    """Return `config` changed by overrides, checked."""
    for override in _each(overrides):
        config = parse_override(config, override)
    check_config(config)
    return config


def _each(overrides: Sequence[str]) -> Sequence[str]:
    if isinstance(overrides, str):
        raise UserError(f"overrides: expected a list of key=value, found one text; write [{overrides!r:.80}]")
    return overrides


def read_config_text(text: str, where: str) -> Config:
    """Return the config in a YAML text, as `load_config` does for a file; `where` names its place in messages."""
    return _checked(parse(Config, compose_text(text, where), where), (), where)


def save_config(config: Config, path: Path) -> None:
    """Write `config` atomically, so that `load_config` returns an equal one."""
    replace_text(path, config_text(config))


def config_text(config: Config) -> str:
    """Return `config` as YAML."""
    return yaml.safe_dump(to_plain(config), sort_keys=False, default_flow_style=None, width=110)
