"""The settings and the classes of a run directory or a model folder."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seg.classes import ClassTable, load_class_table
from seg.config import Config
from seg.config.reader import load_config
from seg.errors import UserError
from seg.files import read_bounded
from seg.inference.checksums import CheckedFolder
from seg.inference.model_folder import is_model_folder

MAX_CONFIG_BYTES = 1 << 20


def read_settings(folder: Path, overrides: Sequence[str]) -> tuple[CheckedFolder | None, Config, ClassTable]:
    """Return the files of a model folder, or None for a run directory, the config with overrides, and the classes."""
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder}: expected a run directory or a model folder, but it holds no config.yaml")
    files = CheckedFolder(folder) if is_model_folder(folder) else None
    read = files.read if files else read_bounded
    config = load_config(folder / "config.yaml", overrides, read)
    classes = load_class_table(folder / "classes.json", read)
    if len(classes) != config.model.num_classes:
        raise UserError(
            f"{folder}: classes.json names {len(classes)} classes, and config.yaml has model.num_classes: "
            f"{config.model.num_classes}; they must be the same model's"
        )
    if classes.overlapping != (config.model.labels == "overlapping"):
        kind = "overlapping" if classes.overlapping else "exclusive"
        raise UserError(
            f"{folder}: classes.json has {kind} classes, and config.yaml has model.labels: {config.model.labels}; they "
            "must be the same model's"
        )
    return files, config, classes


def with_thresholds(config: Config, thresholds: Any) -> Config:
    """Return the config with the thresholds that a checkpoint holds, unless it states its own."""
    are_numbers = isinstance(thresholds, list) and all(isinstance(t, int | float) for t in thresholds)
    if config.model.labels == "exclusive" or config.inference.thresholds or not (thresholds and are_numbers):
        return config
    return dataclasses.replace(config, inference=dataclasses.replace(config.inference, thresholds=tuple(thresholds)))


def explain_old_scale(folder: Path, config: Config) -> str:
    """Return a remark if a model from before `inference.scale` is used differently now; else ""."""
    text = read_bounded(folder / "config.yaml", MAX_CONFIG_BYTES).decode("utf-8", "replace")
    if config.data.fit != "resize" or config.inference.scale != "trained" or "scale: trained" in text:
        return ""
    height, width = config.data.size
    return (
        f"{folder}: made by an earlier version; images are now resized into {height}×{width}, as in its training, and "
        "masks brought back to their size (inference.scale=native takes images as they are, as that version did)"
    )
