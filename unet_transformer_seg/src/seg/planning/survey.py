"""What the training images and masks are like: the facts that a plan rests on.

Letters: n images, k classes, c channels, m objects.
"""

import dataclasses
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from seg.config import DataConfig
from seg.data.dataset import SegmentationDataset, count_labelled
from seg.data.masks.object_numbers import labels_of_objects

MAX_READ = 200  # images that are read, evenly spread over the training split
BORDER_WIDTH = 1  # distance at which objects touch, in pixels


@dataclasses.dataclass(frozen=True)
class Facts:
    """The data set, by at most `MAX_READ` of its training images."""

    num_train: int  # images of the training split
    num_val: int  # images of the validation split
    num_read: int  # training images that were read
    sizes_n2: np.ndarray  # int[n, 2], height and width
    means_nc: np.ndarray  # float64[n, c], mean of each image, 1 = white
    mean: tuple[float, ...]  # of all pixels, a number per channel
    std: tuple[float, ...]  # likewise
    names: tuple[str, ...]  # of the classes
    shares_k: np.ndarray  # float64[k], share of each class in the labelled pixels
    images_k: np.ndarray  # int64[k], images with the class
    areas_m: np.ndarray  # int64[m], pixels of each numbered object; empty if the masks hold classes
    touching: float  # share of the objects that touch another

    @property
    def median_size(self) -> tuple[int, int]:
        """Median height and width."""
        height, width = np.median(self.sizes_n2, axis=0)
        return int(height), int(width)

    @property
    def diameter(self) -> float:
        """Diameter of a disc with the area of the median object; 0 without objects."""
        return float(2 * np.sqrt(np.median(self.areas_m) / np.pi)) if self.areas_m.size else 0.0


@dataclasses.dataclass(frozen=True)
class _Part:
    """The facts of one sample."""

    size: tuple[int, int]
    pixels: int
    sum_c: np.ndarray
    squares_c: np.ndarray
    counts_2k: np.ndarray  # pixels of each class, and pixels labelled for it
    areas_m: np.ndarray
    num_touching: int


def survey(
    train_set: SegmentationDataset, num_val: int, config: DataConfig, progress: Callable[..., Iterable]
) -> Facts:
    """Return the facts of a data set; `progress` wraps an iterator as `tqdm` does."""
    indices = range(0, len(train_set), -(-len(train_set) // MAX_READ))
    with ThreadPoolExecutor(max(1, config.num_threads)) as pool:
        parts = list(progress(pool.map(lambda i: _read(train_set, i), indices), total=len(indices), desc="reading"))
    pixels = np.array([part.pixels for part in parts])
    sums_nc, squares_nc = (np.stack([getattr(part, name) for part in parts]) for name in ("sum_c", "squares_c"))
    mean_c = sums_nc.sum(0) / pixels.sum()
    std_c = np.sqrt(np.maximum(squares_nc.sum(0) / pixels.sum() - mean_c**2, 1e-12))
    counts_n2k = np.stack([part.counts_2k for part in parts])
    areas_m = np.concatenate([part.areas_m for part in parts])
    return Facts(
        num_train=len(train_set),
        num_val=num_val,
        num_read=len(parts),
        sizes_n2=np.array([part.size for part in parts]),
        means_nc=sums_nc / pixels[:, None],
        mean=tuple(round(float(value), 4) for value in mean_c),
        std=tuple(round(float(value), 4) for value in std_c),
        names=train_set.classes.names,
        shares_k=counts_n2k[:, 0].sum(0) / np.maximum(counts_n2k[:, 1].sum(0), 1),
        images_k=(counts_n2k[:, 0] > 0).sum(0),
        areas_m=areas_m,
        touching=sum(part.num_touching for part in parts) / max(len(areas_m), 1),
    )


def _read(dataset: SegmentationDataset, index: int) -> _Part:
    sample = dataset[index]
    unit_nc = sample.image.reshape(-1, sample.image.shape[-1]) / (255.0 if sample.image.dtype == np.uint8 else 1.0)
    areas_m, num_touching, numbers_hw = np.zeros(0, np.int64), 0, dataset.read_objects(index)
    if numbers_hw is not None:
        areas_m = np.bincount(numbers_hw.ravel())[1:]
        areas_m = areas_m[areas_m > 0]
        touching_hw = labels_of_objects(numbers_hw, np.zeros(numbers_hw.shape, bool), BORDER_WIDTH) == 2
        num_touching = len(np.unique(numbers_hw[touching_hw]))
    return _Part(
        size=sample.mask.shape[:2],
        pixels=len(unit_nc),
        sum_c=unit_nc.sum(0),
        squares_c=(unit_nc**2).sum(0),
        counts_2k=np.stack(count_labelled(sample.mask, len(dataset.classes))),
        areas_m=areas_m,
        num_touching=num_touching,
    )
