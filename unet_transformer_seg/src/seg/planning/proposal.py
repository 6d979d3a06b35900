"""Proposes the settings of a run by the facts of its data, each with its reason.

The rules are nnU-Net's where they hold in two dimensions: patches as large as the images up to a limit, as many
poolings as the patch allows, a batch of at least two, cross-entropy plus Dice, five folds without a validation split.
The width of the network and the length of the run follow the time.

Reference: Isensee et al., 2021, "nnU-Net: a self-configuring method for deep learning-based biomedical image
segmentation", Nature Methods 18.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from seg.planning.survey import Facts

MULTIPLE = 32  # sides of a patch are multiples of this, in pixels
MAX_SIDE = 512  # largest side of a patch; nnU-Net's are as large for images of such a size
MIN_BOTTLENECK = 8  # smallest side of the coarsest map, in pixels
MAX_DEPTH = 5
BATCH_PIXELS = 4 * 256 * 256  # pixels of a batch, as far as the patch allows
MAX_BATCH = 32
MIN_STEPS_PER_EPOCH = 8  # few images are seen in small batches, so that there are enough updates
RARE = 0.02  # share of the pixels below which a class is weighted
TOUCHING = 0.05  # share of touching objects from which on they are cut apart


@dataclasses.dataclass(frozen=True)
class Proposal:
    """One setting."""

    key: str  # such as "data.size"
    value: Any
    reason: str = ""  # a sentence; empty: said by the setting before


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a step costs: the patch, the network and the batch."""

    side: tuple[int, int]  # height and width of a patch
    base_width: int
    batch_size: int

    @property
    def depth(self) -> int:
        """Poolings that leave at least `MIN_BOTTLENECK` pixels along the shorter side."""
        return int(np.clip(math.log2(min(self.side) / MIN_BOTTLENECK), 1, MAX_DEPTH))


def choose_shape(facts: Facts, base_width: int) -> Shape:
    """Return the shape of a step for images like these, with patches of about their size."""
    height, width = _within(facts.median_size, MAX_SIDE)
    batch = int(np.clip(round(BATCH_PIXELS / (height * width)), 2, MAX_BATCH))
    return Shape((height, width), base_width, min(batch, max(facts.num_train // MIN_STEPS_PER_EPOCH, 2)))


def with_side(shape: Shape, side: int, base_width: int) -> Shape:
    """Return a shape with patches of at most `side` pixels along a side, as many as before."""
    return Shape(_within(shape.side, side), base_width, shape.batch_size)


def _within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return height and width, each at most `side` and a multiple of `MULTIPLE`."""
    height, width = (max(MULTIPLE, min(length, side) // MULTIPLE * MULTIPLE) for length in size)
    return height, width


@dataclasses.dataclass(frozen=True)
class Length:
    """How long a run is."""

    epochs: int = 1  # passes over the training data
    evaluations: int = 1  # on the validation split
    reason: str = ""  # of the number of epochs


def propose(facts: Facts, shape: Shape, length: Length, why_wide: str) -> list[Proposal]:
    """Return the settings of a run on such data.

    Args:
        facts: of the data.
        shape: of a step.
        length: of the run.
        why_wide: reason of the network's width.
    """
    return [
        *_propose_data(facts, shape),
        *_propose_model(shape, why_wide),
        *_propose_loss(facts),
        *_propose_training(facts, shape, length),
        *_propose_inference(facts, shape),
        *_propose_instances(facts),
    ]


def _propose_data(facts: Facts, shape: Shape) -> list[Proposal]:
    height, width = facts.median_size
    smallest, largest = facts.sizes_n2.min(0), facts.sizes_n2.max(0)
    sizes = f"images are {smallest[0]}×{smallest[1]} to {largest[0]}×{largest[1]}, {height}×{width} in the median"
    seen = f"; {min(shape.side) / facts.diameter:.0f} objects side by side" if facts.diameter else ""
    size = Proposal(
        "data.size", list(shape.side), f"{sizes}; a patch of about the median, a multiple of {MULTIPLE}{seen}"
    )
    rotation = 180.0 if facts.areas_m.size else 15.0
    why_rotated = "numbered objects, such as cells, have no upper side" if facts.areas_m.size else "a camera held askew"
    return [
        size,
        Proposal("data.fit", "crop", "patches are cut at the images' own resolution, as in prediction"),
        *_propose_normalisation(facts),
        Proposal("data.augment.scale", [0.8, 1.25], "objects of other images are a little smaller or larger"),
        Proposal("data.augment.flip", 0.5, "a mirrored image is as likely"),
        Proposal("data.augment.rotate_degrees", rotation, why_rotated),
        Proposal("data.augment.brightness", 0.2, "other images are a little brighter or darker"),
        Proposal("data.augment.contrast", 0.2),
    ]


def _propose_normalisation(facts: Facts) -> list[Proposal]:
    """Return nnU-Net's rule: each image by itself, but colours, which mean the same in every image, by the data set."""
    means_n = facts.means_nc.mean(1)
    spread = f"the brightness of the images varies by {means_n.std() / max(means_n.mean(), 1e-9):.0%} of its mean"
    if len(facts.mean) != 3:
        return [Proposal("data.normalise", "image", f"{spread}: each is brought to mean 0 and deviation 1")]
    return [
        Proposal("data.mean", list(facts.mean), f"of {facts.num_read} training images: colours keep their meaning"),
        Proposal("data.std", list(facts.std)),
    ]


def _propose_model(shape: Shape, why_wide: str) -> list[Proposal]:
    bottleneck = min(shape.side) // 2**shape.depth
    return [
        Proposal("model.name", "unet", "a plain U-Net is hard to beat with few images (nnU-Net)"),
        Proposal("model.base_width", shape.base_width, why_wide),
        Proposal("model.depth", shape.depth, f"{shape.depth} poolings leave {bottleneck} pixels at the bottleneck"),
    ]


def _propose_loss(facts: Facts) -> list[Proposal]:
    proposals = [Proposal("loss.name", "ce_dice", "cross-entropy learns pixels, Dice regions (nnU-Net)")]
    present = [(share, name) for share, name in zip(facts.shares_k, facts.names, strict=True) if share]
    share, name = min(present)
    if share < RARE:
        reason = f"{name} has {share:.2%} of the pixels"
        proposals.append(
            Proposal("loss.class_weighting", "median_frequency", f"{reason}: without a weight it is ignored")
        )
        proposals.append(
            Proposal("loss.class_weight_power", 0.5, "the square root of the weights, which costs less precision")
        )
    return proposals


def _propose_training(facts: Facts, shape: Shape, length: Length) -> list[Proposal]:
    steps = length.epochs * -(-facts.num_train // shape.batch_size)
    decay = round(float(np.clip(1 - 20 / steps, 0.9, 0.999)), 4)
    height, width = shape.side
    evaluations = "one evaluation" if length.evaluations == 1 else f"{length.evaluations} evaluations"
    return [
        Proposal("optimizer.learning_rate", 2e-3, "AdamW on a small U-Net; lower it if the loss jumps"),
        Proposal("optimizer.warmup_fraction", 0.1),
        Proposal(
            "training.batch_size",
            shape.batch_size,
            f"patches of {height}×{width}: {shape.batch_size * height * width:,} pixels for each update",
        ),
        Proposal("training.num_epochs", length.epochs, length.reason),
        Proposal(
            "training.eval_every_epochs",
            max(1, -(-length.epochs // length.evaluations)),
            f"{evaluations}: each takes time",
        ),
        Proposal("training.ema_decay", decay, f"weights averaged over about {1 / (1 - decay):.0f} of {steps:,} steps"),
    ]


def _propose_inference(facts: Facts, shape: Shape) -> list[Proposal]:
    tile = _within(facts.median_size, MAX_SIDE)
    proposals = [
        Proposal("inference.overlap", 0.25, "windows overlap by a quarter: by half takes about twice the time")
    ]
    if tile != shape.side:
        proposals.append(
            Proposal("inference.tile", list(tile), "images are segmented in larger windows than trained on")
        )
    return proposals


def _propose_instances(facts: Facts) -> list[Proposal]:
    if not facts.areas_m.size:
        return []
    smallest = int(np.percentile(facts.areas_m, 2))
    cut = facts.touching > TOUCHING
    share = f"{facts.touching:.0%} of the objects touch another"
    return [
        Proposal(
            "instances.method",
            "watershed" if cut else "components",
            f"{share}: they are cut apart at their necks" if cut else f"{share}: those that touch are counted as one",
        ),
        Proposal("instances.min_area", max(1, smallest // 2), f"98 % of the objects have {smallest} pixels or more"),
        Proposal(
            "instances.seed_distance",
            max(1, round(facts.diameter / 4)),
            f"a quarter of {facts.diameter:.0f} pixels, the diameter of the median object",
        ),
    ]
