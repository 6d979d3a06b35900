"""TensorBoard scalars and pictures, an optional extra."""

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from seg.errors import UserError

FLUSH_S = 5
"""Seconds until values are on the disk. (The writer's own `flush` does not wait for its writing thread.)"""


class TensorBoard:
    """Writes event files for `tensorboard --logdir runs` if enabled; otherwise does nothing."""

    def __init__(self, directory: Path, enabled: bool):
        """Open a writer."""
        require_tensorboard(enabled)
        self._writer = None
        if enabled:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(directory), flush_secs=FLUSH_S)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write named numbers at a step."""
        for name, value in values.items() if self._writer else ():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, path: Path) -> None:
        """Write a picture file at a step."""
        if self._writer:
            with Image.open(path) as image:
                self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")


def require_tensorboard(enabled: bool) -> None:
    """Refuse to enable it while the package is not installed."""
    if enabled and importlib.util.find_spec("tensorboardX") is None:
        raise UserError(
            "training.tensorboard is true, but tensorboardX is not installed: "
            "pip install 'unet-transformer-seg[tensorboard]', or set training.tensorboard=false"
        )
