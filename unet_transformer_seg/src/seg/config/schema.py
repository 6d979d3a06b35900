"""Every setting of a run, with its type, range, default and meaning.

A config file is YAML with the sections below; a setting that it leaves out has the default given here.
`seg.config.parsing` refuses unknown keys, wrong types and values out of range, `seg.config.rules` contradictory
settings. None of them imports jax or numpy: a mistake in a config is reported in well under a second.
"""

import dataclasses
from typing import Literal

from seg.config.fields import section, setting
from seg.config.model_schema import ModelConfig


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of a training sample, applied on the device. 0: off."""

    crop: tuple[int, int] = setting((0, 0), "height and width of the training crop; 0 is the data size", 0, 16384)
    scale: tuple[float, float] = setting((1.0, 1.0), "range of the scale factor before the crop", 0.1, 10)
    aspect: float = setting(0.0, "largest relative change of the aspect ratio", 0, 0.9)
    flip: float = setting(0.0, "probability of a horizontal flip", 0, 1)
    rotate_degrees: float = setting(0.0, "largest rotation to either side, in degrees", 0, 180)
    brightness: float = setting(0.0, "largest relative change", 0, 1)
    contrast: float = setting(0.0, "largest relative change", 0, 1)
    saturation: float = setting(0.0, "largest relative change", 0, 1)
    hue: float = setting(0.0, "largest hue shift, in turns of the colour circle", 0, 0.5)
    blur: float = setting(0.0, "probability of a Gaussian blur", 0, 1)
    noise: float = setting(0.0, "largest standard deviation of Gaussian noise, in units of 1 = white", 0, 1)
    copy_paste: float = setting(0.0, "probability of pasting half of the classes of another sample into this one", 0, 1)


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """The generated data set of shapes."""

    num_train: int = setting(512, "training samples", 1)
    num_val: int = setting(64, "validation samples", 1)
    num_test: int = setting(64, "test samples", 1)
    max_shapes: int = setting(5, "most shapes in one image", 1, 50)
    noise: float = setting(0.08, "standard deviation of the pixel noise, in units of 1 = white", 0, 1)
    overlap: bool = setting(False, "translucent shapes that share pixels, for model.labels: overlapping")


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of red, green and blue in ImageNet."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data set, and how its samples are prepared."""

    dataset: Literal["toy_shapes", "toy_far", "image_folder", "custom"] = setting(
        "toy_shapes", "kind of data set; custom: data sets passed to seg.train"
    )
    root: str = setting("", "image_folder: the folder of the data set")
    size: tuple[int, int] = setting((64, 64), "height and width of a training sample, in pixels", 8, 16384)
    fit: Literal["resize", "crop"] = setting(
        "resize", "resize: keep the aspect ratio, pad with ignored pixels; crop: native resolution; also in prediction"
    )
    train_split: str = setting("train", "folder name or list file of the training samples")
    val_split: str = setting("val", "the same for validation")
    test_split: str = setting("test", "the same for the final test")
    images_dir: str = setting("images", "image_folder: subfolder of the images")
    masks_dir: str = setting("labels", "image_folder: subfolder of the masks; {class} stands for the name of a class")
    image_prefix: str = setting("", "prefix of image names, before the part shared with mask names")
    image_suffix: str = setting("", "suffix of image names before the extension, such as _leftImg8bit")
    mask_prefix: str = setting("", "prefix of mask names")
    mask_suffix: str = setting("", "suffix of mask names before the extension, such as _mask or _{class}")
    val_fraction: float = setting(0.0, "share of train_split used for validation; 0: use val_split", 0, 0.9)
    test_fraction: float = setting(0.0, "share of train_split used for the final test; 0: use test_split", 0, 0.9)
    num_folds: int = setting(0, "number of cross-validation folds; 0: off", 0, 1000)
    fold: int = setting(0, "fold used for validation, from 0", 0, 999)
    group_pattern: str = setting(
        "", "regular expression with one group (…); images whose group is equal stay in one split"
    )
    split_seed: int = setting(0, "seed of the split by val_fraction or num_folds, independent of `seed`", 0, 2**31 - 1)
    masks: Literal["classes", "objects"] = setting(
        "classes", "contents of masks; objects: a number for each object, 0 for the background, so two classes"
    )
    object_border: int = setting(
        0, "masks: objects: a third class, border, where two objects are at most this many pixels apart; 0: off", 0, 64
    )
    class_names: tuple[str, ...] = setting((), "names of the classes; empty: from classes.json in the root")
    palette: tuple[tuple[int, int, int], ...] = setting((), "RGB colours of the classes, in masks and in pictures")
    read_masks_by: Literal["auto", "value", "colour"] = setting(
        "auto", "how masks are read; auto: colour and palette masks by data.palette if set, grey masks by value"
    )
    ignore_value: int = setting(-1, "mask value to ignore; -1: from classes.json, else none", -1, 65535)
    threshold: int = setting(0, "two classes: mask values of at least this are class 1; 0: off", 0, 65535)
    value_map: dict[int, int] = dataclasses.field(
        default_factory=dict, metadata={"meaning": "mask value → class, for example {0: 0, 255: 1}"}
    )
    channels: int = setting(3, "channels of an image: 1 for grey, 3 for RGB, any other number as in the files", 1, 1024)
    precision: Literal["uint8", "float32"] = setting(
        "uint8", "type of a pixel; a run that starts on images of more than 8 bits sets float32"
    )
    mean: tuple[float, ...] = setting(
        (),
        "mean per channel, subtracted; 1 = white; empty: ImageNet's for 3 channels, else from the training split",
        0,
        1,
    )
    std: tuple[float, ...] = setting((), "divisor per channel; 1 = white; empty: as for the mean", 1e-6, 10)
    value_range: tuple[float, float] = setting(
        (0.0, 0.0),
        "black and white level of images of more than 8 bits; [0, 0]: from the file, else estimated with a warning",
    )
    range: Literal["file", "percentiles"] = setting(
        "file", "black and white; file: data.value_range, or as the file's type says; percentiles: data.channel_ranges"
    )
    percentiles: tuple[float, float] = setting(
        (0.5, 99.5), "values of the training split that become black and white with data.range: percentiles", 0, 100
    )
    channel_ranges: tuple[tuple[float, float], ...] = setting(
        (), "black and white of each channel; empty: with data.range: percentiles, from the training split"
    )
    normalise: Literal["data_set", "image"] = setting(
        "data_set", "image: each channel of an image to mean 0 and deviation 1; data_set: by data.mean and data.std"
    )
    shown_channels: tuple[int, ...] = setting(
        (), "in pictures: the channel shown as grey, or those shown as red, green and blue, from 0; empty: the first", 0
    )
    slice_axis: int = setting(2, "axis of a NIfTI volume that its slices are cut along: 0, 1 or 2", 0, 2)
    max_pixels: int = setting(
        200_000_000, "largest image decoded at once, in pixels; seg infer reads larger TIFFs by windows", 1
    )
    num_threads: int = setting(2, "threads that read and decode samples; 0: none, in the main thread", 0, 256)
    prefetch: int = setting(4, "batches prepared in advance", 1, 256)
    toy: ToyConfig = section(ToyConfig)
    augment: AugmentConfig = section(AugmentConfig)

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and divisor of each channel; where a run has not settled them, ImageNet's or those of an even ramp."""
        defaults = IMAGENET if self.channels == 3 else ((0.5,) * self.channels, (0.25,) * self.channels)
        return self.mean or defaults[0], self.std or defaults[1]


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The training loss."""

    name: Literal["cross_entropy", "bce", "dice", "bce_dice", "ce_dice", "focal", "tversky", "custom"] = setting(
        "ce_dice", "the loss; custom: a function passed to seg.train"
    )
    dice_weight: float = setting(1.0, "weight of the Dice term in bce_dice and ce_dice", 0, 100)
    dice_per_image: bool = setting(False, "average the soft Dice of each image; false: one Dice over the batch")
    label_smoothing: float = setting(0.0, "share of the target spread over all classes (cross-entropy)", 0, 0.9)
    class_weighting: Literal["none", "median_frequency", "given"] = setting("none", "kind of class weights")
    class_weights: tuple[float, ...] = setting((), "class weights for class_weighting: given", 0)
    class_weight_power: float = setting(1.0, "exponent of the class weights; 0.5 takes their square root", 0, 2)
    focal_gamma: float = setting(2.0, "focusing exponent of the focal loss", 0, 10)
    tversky_alpha: float = setting(0.3, "cost of a false positive in the Tversky loss", 0, 1)
    tversky_beta: float = setting(0.7, "cost of a missed pixel in the Tversky loss", 0, 1)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How parameters are updated. Norms and biases have no weight decay."""

    name: Literal["adamw", "sgd"] = setting("adamw", "update rule")
    learning_rate: float = setting(1e-3, "peak learning rate", 1e-9, 100)
    schedule: Literal["cosine", "poly", "constant"] = setting("cosine", "learning-rate decay after the warm-up")
    warmup_fraction: float = setting(0.05, "share of the steps in which the learning rate rises linearly", 0, 1)
    poly_power: float = setting(0.9, "exponent of the poly schedule", 0.1, 10)
    weight_decay: float = setting(1e-2, "decoupled for adamw, added to the gradient for sgd", 0, 10)
    b1: float = setting(0.9, "adamw: decay of the first moment", 0, 0.9999)
    b2: float = setting(0.999, "adamw: decay of the second moment", 0, 0.99999)
    momentum: float = setting(0.9, "sgd: Nesterov momentum", 0, 0.9999)
    clip_norm: float = setting(1.0, "clip gradients to this global norm; 0: off", 0)
    freeze: tuple[str, ...] = setting((), "prefixes of the parameters to freeze; `*` matches within one component")
    rate_factors: dict[str, float] = dataclasses.field(
        default_factory=dict,
        metadata={"meaning": "prefix of parameters → factor on their learning rate; the longest prefix wins"},
    )
    layer_decay: float = setting(1.0, "learning-rate factor per stage or block towards the image; 1: off", 0.01, 1)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Length of a run, its evaluations and checkpoints."""

    batch_size: int = setting(16, "samples per update, over all devices", 1)
    accumulate: int = setting(1, "equal parts of a batch, computed one after another (gradient accumulation)", 1, 1024)
    num_epochs: int = setting(20, "passes over the training data", 1)
    eval_every_epochs: int = setting(1, "epochs between evaluations; each saves a checkpoint", 1)
    log_every_steps: int = setting(10, "steps between log lines", 1)
    ema_decay: float = setting(0.0, "decay of the averaged weights used for evaluation; 0: off", 0, 0.99999)
    early_stop: int = setting(0, "stop after this many evaluations without a better mean IoU; 0: never", 0)
    keep_checkpoints: int = setting(2, "number of newest checkpoints kept, besides the best", 1, 1000)
    num_sample_pictures: int = setting(4, "validation samples drawn at each evaluation", 0, 64)
    on_non_finite: Literal["stop", "skip"] = setting(
        "stop", "stop: end the run at a NaN or infinite loss or gradient; skip: leave that step out"
    )
    watchdog_minutes: float = setting(
        30.0, "abort if no step, evaluated batch or checkpoint completes for this many minutes; 0: never", 0
    )
    tensorboard: bool = setting(False, "write TensorBoard files (needs the extra `tensorboard`)")
    keep_freed: bool = setting(
        False, "CPU: keep the memory that a step frees for the next one: faster, but up to twice the memory"
    )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the devices of all processes are arranged: data · fsdp devices."""

    data: int = setting(0, "number of copies of the state, each with its part of a batch; 0: all devices / fsdp", 0)
    fsdp: int = setting(1, "devices over which a copy of parameters and moments is sharded", 1)


SCALE_MEANING = (
    "scale at which images are segmented; trained: as in training (resized into data.size if data.fit is resize, else "
    "unchanged); native: unchanged; a number: scaled by it, 0.5 halves both sides"
)


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
    """How images of any size are segmented. A mask has the size of its image."""

    scale: Literal["trained", "native"] | float = setting("trained", SCALE_MEANING, 0.01, 100)
    tile: tuple[int, int] = setting(
        (0, 0), "height and width of a window; 0: data.size, also the maximum if images are resized to it", 0, 8192
    )
    whole_up_to: int = setting(0, "largest image segmented in one piece, in pixels (one compilation per size)", 0)
    overlap: float = setting(0.5, "overlap of neighbouring windows, as a share of a window", 0, 0.9)
    batch_size: int = setting(4, "windows computed at once", 1, 1024)
    mirror: bool = setting(False, "average the predictions for the image and its mirror image")
    scales: tuple[float, ...] = setting(
        (), "average the predictions at these scales of a window; empty: as it is", 0.1, 10
    )
    logit_shift: tuple[float, ...] = setting(
        (), "exclusive labels: added to the logit of each class; above 0 it is predicted more often", -50, 50
    )
    winograd: bool = setting(False, "CPU: faster 3 × 3 convolutions of 64 channels and more, seconds more to compile")
    thresholds: tuple[float, ...] = setting(
        (), "overlapping labels: lowest probability of each class; empty: as chosen on the validation split", 0, 1
    )


@dataclasses.dataclass(frozen=True)
class InstancesConfig:
    """How objects such as cells are found in a mask, to be counted and scored by `eval` and `infer`."""

    method: Literal["none", "components", "watershed"] = setting(
        "none", "components: pixels that touch are one object; watershed: also cut where two round objects touch"
    )
    classes: tuple[str, ...] = setting((), "classes whose objects are counted; empty: all but the first")
    min_area: int = setting(0, "smallest object, in pixels; smaller ones are dropped", 0)
    seed_distance: int = setting(5, "watershed: smallest distance of two objects' centres, in pixels", 1, 10_000)


@dataclasses.dataclass(frozen=True)
class Config:
    """One run."""

    name: str = setting("run", "part of the name of the run directory")
    seed: int = setting(0, "seed of initialisation, data order, augmentation and dropout", 0, 2**31 - 1)
    runs_dir: str = setting("runs", "folder for run directories")
    init: str = setting("", "model folder or run directory to take initial weights from; empty: random weights")
    model: ModelConfig = section(ModelConfig)
    data: DataConfig = section(DataConfig)
    loss: LossConfig = section(LossConfig)
    optimizer: OptimizerConfig = section(OptimizerConfig)
    training: TrainingConfig = section(TrainingConfig)
    mesh: MeshConfig = section(MeshConfig)
    inference: InferenceConfig = section(InferenceConfig)
    instances: InstancesConfig = section(InstancesConfig)
