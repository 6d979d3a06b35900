"""The options `--streaming FOLDER` and `streaming.KEY=VALUE`: the model that hears speech while it is spoken.

Neither jax nor numpy is imported here before the model is loaded.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from asr.errors import UserError
from asr.published.funasr_config import read_settings

if TYPE_CHECKING:
    from asr.inference.transcriber import Transcriber

PREFIX = "streaming."


def part_streaming_settings(settings: list[str], folder: Path | None) -> tuple[list[str], list[str]]:
    """Return the other settings, and those of the streaming model as its config has them."""
    of_streaming = [text for text in settings if text.startswith(PREFIX)]
    if of_streaming and not folder:
        raise UserError(f"{of_streaming[0]}: a setting of the streaming model; name it by --streaming FOLDER")
    return [text for text in settings if text not in of_streaming], [f"model.{text}" for text in of_streaming]


def check_streaming(folder: Path, overrides: list[str]) -> None:
    """Refuse a folder that holds no streaming model, or settings that it cannot have."""
    kind = read_settings(folder, overrides).model.name
    if kind != "streaming":
        raise UserError(f"--streaming {folder}: expected a model of the kind streaming, found one of the kind {kind}")


def load_streaming(folder: Path | None, overrides: list[str], dtype: str | None) -> "Transcriber | None":
    """Return the model; None without a folder."""
    from asr import api

    if folder is None:
        return None
    return api.load(folder, overrides=[*overrides, *([f"inference.dtype={dtype}"] if dtype else [])])
