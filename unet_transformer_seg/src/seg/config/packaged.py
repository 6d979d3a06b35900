"""The configs that come with the package, opened by name: `NAME` is configs/NAME.yaml, in any folder."""

import os
from pathlib import Path

from seg.errors import UserError

FOLDER = Path(__file__).parents[1] / "configs"


def packaged_configs() -> dict[str, Path]:
    """Return name → file of the configs that come with the package."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def find_config(path_or_name: str | Path) -> Path:
    """Return the path of a config: the argument if it is a file, else that of the packaged config of this name."""
    if not isinstance(path_or_name, str | os.PathLike):
        expected = "a Config, a YAML file or the name of a packaged config"
        raise UserError(f"config: expected {expected}, found {type(path_or_name).__name__}")
    path, configs = Path(path_or_name), packaged_configs()
    if path.exists() or path.suffix:
        return path
    if str(path) not in configs:
        raise UserError(f"{path}: no such file; configs that come with the package: {', '.join(configs)}")
    return configs[str(path)]
