"""The models of a batch, as the command line names them: each process that computes loads them for itself."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from asr import api

if TYPE_CHECKING:
    from asr.inference.transcriber import Transcriber


@dataclasses.dataclass(frozen=True)
class ModelParts:
    """A recogniser, and what stands beside it."""

    folder: Path  # of the recogniser
    checkpoint: str  # of a run
    overrides: tuple[str, ...]  # settings of the recogniser
    vad: Path | None = None  # folder of a voice activity detector
    vad_settings: tuple[str, ...] = ()
    punct: Path | None = None  # folder of a punctuation model

    def load(self) -> "Transcriber":
        """Return the transcriber; errors as of `asr.load`."""
        vad = api.load_part("vad", self.vad, self.vad_settings)
        return api.load(self.folder, checkpoint=self.checkpoint, overrides=self.overrides, vad=vad, punct=self.punct)

    def absolute(self) -> "ModelParts":
        """Return the same for a process in another folder."""
        paths = {name: getattr(self, name) for name in ("folder", "vad", "punct")}
        return dataclasses.replace(self, **{name: path and path.absolute() for name, path in paths.items()})
