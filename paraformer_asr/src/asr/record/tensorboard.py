"""TensorBoard scalars and pictures: an optional extra."""

from pathlib import Path

import numpy as np
from PIL import Image

from asr.errors import UserError

FLUSH_S = 5
"""Seconds after which values are on the disk: a killed run has lost no more than these. (The writer's own `flush`
does not wait for the thread that does the writing.)"""


class TensorBoard:
    """Writes event files that `tensorboard --logdir runs` shows."""

    def __init__(self, directory: Path):
        require_tensorboard(True)
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory), flush_secs=FLUSH_S)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write named numbers at a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, path: Path) -> None:
        """Write a picture file at a step."""
        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")


class NoTensorBoard:
    """Takes the same calls and writes nothing."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Do nothing."""

    def picture(self, step: int, name: str, path: Path) -> None:
        """Do nothing."""


def open_tensorboard(directory: Path, wanted: bool) -> TensorBoard | NoTensorBoard:
    """Return a writer to `directory`, or one that writes nothing where it is not wanted.

    Raises:
        UserError: the extra is not installed.
    """
    return TensorBoard(directory) if wanted else NoTensorBoard()


def require_tensorboard(wanted: bool) -> None:
    """Refuse a run that wants event files without the package that writes them.

    Raises:
        UserError: the extra is not installed.
    """
    if not wanted:
        return
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise UserError(
            "training.tensorboard is true, but tensorboardX is not installed: "
            "pip install 'paraformer-asr[tensorboard]', or set training.tensorboard=false"
        ) from None
