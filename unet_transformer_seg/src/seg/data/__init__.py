"""Data sets, the loader that batches them, and augmentation on the device.

Reading a file needs no jax: `seg.data.transforms`, which runs on the device, is imported where it is used.
"""

from typing import Literal

from seg.config import DataConfig
from seg.data.dataset import Sample, SegmentationDataset
from seg.data.image_folder import find_usable, open_image_folder
from seg.data.images.remarks import Remarks
from seg.data.layered_folder import LayeredFolder, is_layered
from seg.data.toy_far import ToyFar
from seg.data.toy_shapes import ToyShapes
from seg.errors import UserError

__all__ = ["Sample", "SegmentationDataset", "build_dataset"]


def build_dataset(
    config: DataConfig,
    split: Literal["train", "val", "test"],
    seed: int = 0,
    labels: Literal["exclusive", "overlapping"] = "exclusive",
) -> SegmentationDataset:
    """Return one split of the data set that `config` names.

    Args:
        config: the section `data`.
        split: of an image folder, the one called `config.<split>_split`.
        seed: of generated data.
        labels: `model.labels`.

    Raises:
        UserError: missing folders, lists or files, or no class names.
    """
    match config.dataset:
        case "toy_shapes":
            return ToyShapes(config, split, seed)
        case "toy_far":
            return ToyFar(config, split, seed)
        case "image_folder":
            if is_layered(config, labels):
                return LayeredFolder(find_usable(config, split), config, Remarks())
            return open_image_folder(config, split)
        case "custom":
            raise UserError(
                "data.dataset: custom: the data set comes from outside the package, so it works from Python only; pass "
                "it: seg.train(..., train_set=..., val_set=...) or seg.evaluate(model, dataset)"
            )
