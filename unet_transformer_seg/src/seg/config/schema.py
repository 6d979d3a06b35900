"""Every setting of a run, with its type, range, default and meaning, in one place.

A config file is YAML with the sections below; what it leaves out takes the default given here. The reader
(`seg.config.reader`) refuses unknown keys, wrong types and values outside the ranges; `seg.config.rules` refuses what
cannot go together. None of them imports jax or numpy, so that a mistake in a config is answered in well under a second.
"""

import dataclasses
from typing import Literal


def setting(default, meaning: str, low: float | None = None, high: float | None = None):
    """Return a dataclass field with its meaning and its inclusive range."""
    return dataclasses.field(default=default, metadata={"meaning": meaning, "low": low, "high": high})


def section(section_type: type):
    """Return a dataclass field that holds another section with its defaults."""
    return dataclasses.field(default_factory=section_type, metadata={})


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The transformer at the bottleneck of `unet_transformer`; its width is the bottleneck's width."""

    num_layers: int = setting(4, "pre-norm blocks; 0 is exactly the U-Net", 0, 64)
    num_heads: int = setting(8, "attention heads; must divide the bottleneck's width", 1, 256)
    mlp_ratio: float = setting(4.0, "feed-forward width over model width", 0.125, 16)
    dropout: float = setting(0.1, "dropout rate after attention and in the feed-forward network", 0, 0.9)
    stochastic_depth: float = setting(0.0, "rate at which the last block is skipped; earlier ones less", 0, 0.9)
    position: Literal["sincos", "learned", "none"] = setting("sincos", "spatial position encoding")
    position_grid: tuple[int, int] = setting((16, 16), "rows and columns of the learned table", 1, 1024)
    attention: Literal["explicit", "xla", "cudnn"] = setting("explicit", "implementation of the attention")


@dataclasses.dataclass(frozen=True)
class TransUNetConfig:
    """The widths and depths of `transunet`. The defaults are the published R50-ViT-B_16."""

    resnet_width: int = setting(64, "channels of the ResNet's stem; the blocks have 4, 8 and 16 times as many", 2, 1024)
    resnet_units: tuple[int, int, int] = setting((3, 4, 9), "units of the ResNet's three blocks", 1, 64)
    hidden_width: int = setting(768, "width of the tokens", 1, 8192)
    num_layers: int = setting(12, "pre-norm blocks of the transformer", 1, 64)
    num_heads: int = setting(12, "attention heads; must divide hidden_width", 1, 256)
    mlp_width: int = setting(3072, "feed-forward width", 1, 65536)
    dropout: float = setting(0.1, "dropout rate after positions and attention and in the feed-forward network", 0, 0.9)
    position_grid: tuple[int, int] = setting((14, 14), "rows and columns of the learned positions", 1, 1024)
    bridge_width: int = setting(512, "channels between transformer and decoder", 1, 8192)
    decoder_widths: tuple[int, int, int, int] = setting(
        (256, 128, 64, 16), "channels of the decoder's four blocks, the coarsest first", 1, 8192
    )
    num_skips: int = setting(3, "blocks of the decoder with a skip connection, from the coarsest on", 0, 3)
    attention: Literal["explicit", "xla", "cudnn"] = setting("explicit", "implementation of the attention")


@dataclasses.dataclass(frozen=True)
class ResNetUNetConfig:
    """The widths and depths of `resnet_unet`. The defaults are those of a ResNet-34; 18 has (2, 2, 2, 2) units."""

    block: Literal["basic", "bottleneck"] = setting("basic", "kind of the residual units; bottleneck from ResNet-50 on")
    units: tuple[int, int, int, int] = setting((3, 4, 6, 3), "residual units of the four layers", 1, 256)
    encoder_width: int = setting(64, "channels of the stem; each layer after the first doubles them", 1, 1024)
    decoder_widths: tuple[int, int, int, int, int] = setting(
        (256, 128, 64, 32, 16), "channels of the decoder's five blocks, the coarsest first", 1, 8192
    )
    interpolation: Literal["nearest", "bilinear"] = setting(
        "nearest", "how the decoder doubles the size of a map (decoder_interpolation of segmentation_models_pytorch)"
    )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network. The defaults of `unet` are the published U-Net of 31,037,698 parameters (2 classes)."""

    name: Literal["unet", "unet_transformer", "transunet", "resnet_unet", "custom"] = setting(
        "unet_transformer", "architecture; custom: a Flax module passed to seg.train and seg.load"
    )
    num_classes: int = setting(0, "0 takes it from the data set", 0, 255)
    base_width: int = setting(64, "channels of the first stage; each stage down doubles them", 1, 1024)
    depth: int = setting(4, "number of down-sampling stages", 1, 8)
    stem_stride: int = setting(1, "factor of the space-to-depth stem: 1, 2 or 4 (1: no stem)", 1, 4)
    conv_bias: bool = setting(False, "a bias in each 3 × 3 convolution, which the norm makes superfluous")
    norm: Literal["batch", "group"] = setting("batch", "normalisation after each convolution")
    norm_groups: int = setting(8, "groups of the group norm", 1, 256)
    upsample: Literal["transposed", "bilinear"] = setting("transposed", "how the decoder doubles the resolution")
    dropout: float = setting(0.0, "dropout rate on the bottleneck's output", 0, 0.9)
    deep_supervision: bool = setting(False, "train with a prediction at every decoder stage")
    dtype: Literal["float32", "bfloat16"] = setting("float32", "compute dtype; parameters and sums are float32")
    remat: bool = setting(False, "recompute activations in the backward pass: less memory, more time")
    transformer: TransformerConfig = section(TransformerConfig)
    transunet: TransUNetConfig = section(TransUNetConfig)
    resnet_unet: ResNetUNetConfig = section(ResNetUNetConfig)


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of a training sample, applied on the device. 0 switches a change off."""

    crop: tuple[int, int] = setting((0, 0), "height and width of the training crop; 0 is the data size", 0, 16384)
    scale: tuple[float, float] = setting((1.0, 1.0), "range of the magnification before the crop", 0.1, 10)
    aspect: float = setting(0.0, "largest relative change of the aspect ratio", 0, 0.9)
    flip: float = setting(0.0, "probability of a left-right mirror", 0, 1)
    rotate_degrees: float = setting(0.0, "largest rotation to either side", 0, 180)
    brightness: float = setting(0.0, "largest relative change", 0, 1)
    contrast: float = setting(0.0, "largest relative change", 0, 1)
    saturation: float = setting(0.0, "largest relative change", 0, 1)
    hue: float = setting(0.0, "largest turn of the colour circle, in turns", 0, 0.5)
    blur: float = setting(0.0, "probability of a Gaussian blur", 0, 1)
    noise: float = setting(0.0, "largest standard deviation of Gaussian noise, in units of 1 = white", 0, 1)
    copy_paste: float = setting(0.0, "probability of pasting half of the classes of another sample", 0, 1)


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """The generated data set of shapes."""

    num_train: int = setting(512, "training samples", 1)
    num_val: int = setting(64, "validation samples", 1)
    num_test: int = setting(64, "test samples", 1)
    max_shapes: int = setting(5, "most shapes in one image", 1, 50)
    noise: float = setting(0.08, "standard deviation of the pixel noise, in units of 1 = white", 0, 1)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the samples come from and how they reach the model."""

    dataset: Literal["toy_shapes", "image_folder", "custom"] = setting(
        "toy_shapes", "kind of data set; custom: data sets passed to seg.train"
    )
    root: str = setting("", "image_folder: the folder of the data set")
    size: tuple[int, int] = setting((64, 64), "height and width that samples are brought to", 8, 16384)
    fit: Literal["resize", "crop"] = setting(
        "resize",
        "resize: keep the aspect, fill up with ignored pixels; crop: windows at native resolution; in prediction, too",
    )
    train_split: str = setting("train", "folder name, or list file, of the training samples")
    val_split: str = setting("val", "the same for validation")
    test_split: str = setting("test", "the same for the final test")
    images_dir: str = setting("images", "image_folder: sub-folder of the images")
    masks_dir: str = setting("labels", "image_folder: sub-folder of the masks")
    image_prefix: str = setting("", "what images' names have before the part that they share with their masks' names")
    image_suffix: str = setting("", "what they have behind it, before the dot: _leftImg8bit")
    mask_prefix: str = setting("", "what masks' names have before that part")
    mask_suffix: str = setting("", "what they have behind it, before the dot: _mask")
    val_fraction: float = setting(0.0, "share of the images in train_split taken for validation; 0: val_split", 0, 0.9)
    test_fraction: float = setting(0.0, "share of them taken for the final test; 0: test_split", 0, 0.9)
    num_folds: int = setting(0, "parts of equal size, one of which is the validation; 0: no folds", 0, 1000)
    fold: int = setting(0, "the part for validation, from 0 on", 0, 999)
    group_pattern: str = setting(
        "", "regular expression, searched in images' names; those with an equal group (…) stay on one side of a split"
    )
    split_seed: int = setting(0, "of the split by val_fraction or num_folds; `seed` does not change it", 0, 2**31 - 1)
    class_names: tuple[str, ...] = setting((), "empty: from classes.json in the root")
    palette: tuple[tuple[int, int, int], ...] = setting((), "colours of the classes, in masks and in pictures")
    read_masks_by: Literal["auto", "value", "colour"] = setting(
        "auto", "auto: masks of colours or with a palette by the stated colours, if any, others by their values"
    )
    ignore_value: int = setting(-1, "mask value that is left out; -1: from classes.json, else none", -1, 65535)
    threshold: int = setting(0, "two classes: mask values of at least this are class 1, others 0; 0: none", 0, 65535)
    value_map: dict[int, int] = dataclasses.field(
        default_factory=dict,
        metadata={"meaning": "mask value in the file → class, for example {0: 0, 255: 1}"},
    )
    mean: tuple[float, float, float] = setting((0.485, 0.456, 0.406), "subtracted, per channel, 1 = white", 0, 1)
    std: tuple[float, float, float] = setting((0.229, 0.224, 0.225), "divided by, per channel", 1e-3, 10)
    value_range: tuple[float, float] = setting(
        (0.0, 0.0), "black and white of images of more than 8 bits; [0, 0]: as they state, else guessed, with a warning"
    )
    max_pixels: int = setting(200_000_000, "larger images are refused before they are decoded", 1)
    num_threads: int = setting(2, "threads that read and decode samples", 0, 256)
    prefetch: int = setting(4, "batches prepared ahead", 1, 256)
    toy: ToyConfig = section(ToyConfig)
    augment: AugmentConfig = section(AugmentConfig)


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What training minimises."""

    name: Literal["cross_entropy", "bce", "dice", "bce_dice", "ce_dice", "focal", "tversky", "custom"] = setting(
        "ce_dice", "the loss; custom: a function passed to seg.train"
    )
    dice_weight: float = setting(1.0, "weight of the Dice term in bce_dice and ce_dice", 0, 100)
    dice_per_image: bool = setting(False, "soft Dice per image, then averaged; otherwise over the batch")
    label_smoothing: float = setting(0.0, "share of the target spread over all classes (cross entropy)", 0, 0.9)
    class_weighting: Literal["none", "median_frequency", "given"] = setting("none", "weights of the classes")
    class_weights: tuple[float, ...] = setting((), "for class_weighting: given", 0)
    class_weight_power: float = setting(1.0, "exponent on the weights; 0.5 halves their spread", 0, 2)
    focal_gamma: float = setting(2.0, "focusing exponent of the focal loss", 0, 10)
    tversky_alpha: float = setting(0.3, "cost of a false positive in the Tversky loss", 0, 1)
    tversky_beta: float = setting(0.7, "cost of a missed pixel in the Tversky loss", 0, 1)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How the parameters follow the gradient. Weight decay spares norms and biases."""

    name: Literal["adamw", "sgd"] = setting("adamw", "update rule")
    learning_rate: float = setting(1e-3, "peak learning rate", 1e-9, 100)
    schedule: Literal["cosine", "poly", "constant"] = setting("cosine", "decay after the warm-up")
    warmup_fraction: float = setting(0.05, "share of the steps in which the rate rises linearly", 0, 1)
    poly_power: float = setting(0.9, "exponent of the poly schedule", 0.1, 10)
    weight_decay: float = setting(1e-2, "decoupled for adamw, added to the gradient for sgd", 0, 10)
    b1: float = setting(0.9, "adamw: decay of the first moment", 0, 0.9999)
    b2: float = setting(0.999, "adamw: decay of the second moment", 0, 0.99999)
    momentum: float = setting(0.9, "sgd: Nesterov momentum", 0, 0.9999)
    clip_norm: float = setting(1.0, "largest global gradient norm; 0: not clipped", 0)
    freeze: tuple[str, ...] = setting((), "parameters that stay as they are, by the beginnings of their names")
    rate_factors: dict[str, float] = dataclasses.field(
        default_factory=dict,
        metadata={"meaning": "beginning of a name → factor on the learning rate; the longest one counts"},
    )
    layer_decay: float = setting(1.0, "factor on the rate for each stage or block towards the image; 1: none", 0.01, 1)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Length and bookkeeping of a run."""

    batch_size: int = setting(16, "samples per update, over all devices", 1)
    accumulate: int = setting(1, "parts that a batch is computed in, one after the other", 1, 1024)
    num_epochs: int = setting(20, "passes over the training data", 1)
    eval_every_epochs: int = setting(1, "epochs between evaluations, each with a checkpoint", 1)
    log_every_steps: int = setting(10, "steps between log lines", 1)
    ema_decay: float = setting(0.0, "decay of the averaged weights used for evaluation; 0: none", 0, 0.99999)
    early_stop: int = setting(0, "evaluations without a better mean IoU before stopping; 0: never", 0)
    keep_checkpoints: int = setting(2, "newest checkpoints kept, besides the best", 1, 1000)
    num_sample_pictures: int = setting(4, "validation samples drawn at each evaluation", 0, 64)
    on_non_finite: Literal["stop", "skip"] = setting(
        "stop", "a step whose loss or gradient is NaN or infinite ends the run, or is left out"
    )
    watchdog_minutes: float = setting(
        30.0, "so long without a completed step, evaluated batch or checkpoint, and the run ends; 0: never", 0
    )
    tensorboard: bool = setting(False, "write TensorBoard files (needs the extra 'tensorboard')")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the devices of all processes are arranged: data · fsdp of them."""

    data: int = setting(0, "groups that each hold the whole state; 0: as many as there are devices for", 0)
    fsdp: int = setting(1, "devices that parameters and moments are spread over", 1)


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
    """How images of any size are segmented. A mask always has the size of its image."""

    scale: Literal["trained", "native"] | float = setting(
        "trained",
        "size at which images are segmented; trained: as in training (data.fit: resize fits them into data.size, crop "
        "leaves them as they are); native: as they are; a number: magnified by it, 0.5 halves both sides",
        0.01,
        100,
    )
    tile: tuple[int, int] = setting(
        (0, 0), "height and width of the window; 0 is the data size, the most where images are resized to it", 0, 8192
    )
    whole_up_to: int = setting(0, "images of at most so many pixels are computed whole, compiled once a size", 0)
    overlap: float = setting(0.5, "share of a window that its neighbour covers too", 0, 0.9)
    batch_size: int = setting(4, "windows computed at once", 1, 1024)
    mirror: bool = setting(False, "average the prediction with that of the mirrored image")


@dataclasses.dataclass(frozen=True)
class Config:
    """One run."""

    name: str = setting("run", "goes into the name of the run directory")
    seed: int = setting(0, "of the initialisation, the data order, augmentation and dropout", 0, 2**31 - 1)
    runs_dir: str = setting("runs", "where run directories are made")
    init: str = setting("", "a model folder or run directory whose weights the run begins with; empty: random ones")
    model: ModelConfig = section(ModelConfig)
    data: DataConfig = section(DataConfig)
    loss: LossConfig = section(LossConfig)
    optimizer: OptimizerConfig = section(OptimizerConfig)
    training: TrainingConfig = section(TrainingConfig)
    mesh: MeshConfig = section(MeshConfig)
    inference: InferenceConfig = section(InferenceConfig)
