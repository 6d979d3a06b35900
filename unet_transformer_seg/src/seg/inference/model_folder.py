"""An exported model: one folder that any program with jax can run, and that `seg infer --model` reads.

    config.yaml          settings of the run
    classes.json         names and colours of the classes
    weights.safetensors  arrays by their names, such as params/encoder/stage0/conv1/kernel; averaged ones if any
    model.stablehlo      the program: (weights, image [b, h, w, c]) → probabilities
    checksums.txt        SHA-256 of the files, as `sha256sum -c` reads it
    README.txt           how to run it
    origin.json          of a converted model: its source

The weights are an argument of the program, so they are stored once and can be inspected and exchanged.
"""

from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax.numpy as jnp

from seg.checkpoints.arrays import check_finite, check_same_arrays, describe_arrays, named_arrays
from seg.checkpoints.safetensors_file import read_safetensors, write_safetensors
from seg.classes import ClassTable, read_json
from seg.config import Config, DataConfig
from seg.config.reader import ORIGIN, save_config
from seg.data.fit import is_fitted, window_shape
from seg.data.masks.class_settings import values_of_classes
from seg.errors import UserError
from seg.files import appearing, read_bounded, replace_json, replace_text
from seg.inference.checksums import CheckedFolder, write_checksums
from seg.inference.forward import make_forward
from seg.labels import build_labels
from seg.models import abstract_variables, build_model, with_explicit_attention

WEIGHTS = "weights.safetensors"
PROGRAM = "model.stablehlo"
COUNTERS = "num_batches_tracked"


def is_model_folder(folder: Path) -> bool:
    """Return whether `folder` looks like an exported model."""
    return (folder / WEIGHTS).is_file()


def save_model_folder(
    folder: Path,
    config: Config,
    classes: ClassTable,
    variables: Any,
    origin: dict[str, Any] | None = None,
    *,
    force: bool = False,
    model: nn.Module | None = None,
) -> None:
    """Write a model folder, which appears when it is complete.

    Args:
        folder: the new folder.
        config: of the run, `model.num_classes` set.
        classes: names and colours.
        variables: `params` and `batch_stats`.
        origin: of a converted model, what it was made of.
        force: replace an exported model of this name.
        model: the network, where it comes from outside the package.
    """
    check_target(folder, force)
    with appearing(folder) as partial:
        weights = named_arrays(variables)
        (partial / PROGRAM).write_bytes(export_program(config, weights, model))
        write_safetensors(partial / WEIGHTS, weights)
        save_config(config, partial / "config.yaml")
        classes.save(partial / "classes.json")
        if origin:
            replace_json(partial / ORIGIN, origin)
        replace_text(partial / "README.txt", describe_model(config, classes))
        write_checksums(partial)


def load_origin(folder: Path) -> dict[str, Any]:
    """Return the source of a converted model; {} for any other model and for a run."""
    path = folder / ORIGIN
    if not path.is_file():
        return {}
    read = CheckedFolder(folder).read if is_model_folder(folder) else read_bounded
    origin = read_json(path, "what the model was made of", read)
    counters = origin.get(COUNTERS, {}) if isinstance(origin, dict) else None
    are_counts = isinstance(counters, dict) and all(type(n) is int and 0 <= n < 1 << 63 for n in counters.values())
    if not are_counts or not all(isinstance(value, str) for key, value in origin.items() if key != COUNTERS):
        raise UserError(f"{path}: expected what the model was made of: texts, and under {COUNTERS} whole numbers")
    return origin


def load_weights(files: CheckedFolder) -> dict[str, Any]:
    """Return the variables {"params": …, "batch_stats": …} of a model folder, after verifying all of its files."""
    path = files.folder / WEIGHTS
    weights, sha256 = read_safetensors(path)
    files.check(path, sha256)
    files.check_the_others()
    return nested(weights)


def export_program(config: Config, weights: dict[str, Any], model: nn.Module | None = None) -> bytes:
    """Return the serialised program (weights, image [b, h, w, c]) → probabilities float32[b, h, w, k].

    The images have the precision of `config.data`. The batch size b is free, h and w are those of the window. Each
    platform has its own form of the convolutions in it; the attention is explicit, as jax promises no compatibility for
    the fused kernels.
    """
    import jax.export

    forward = make_forward(build_model(with_explicit_attention(config.model), model), config)

    def program(weights: dict[str, jax.Array], image_bhwc: jax.Array) -> jax.Array:
        return forward(nested(weights), image_bhwc)

    height, width = window_shape(config)
    image_shape = jax.export.symbolic_shape(f"b, {height}, {width}, {config.data.channels}")
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}
    export = jax.export.export(jax.jit(program), platforms=PLATFORMS)
    return bytes(export(shapes, jax.ShapeDtypeStruct(image_shape, jnp.dtype(config.data.precision))).serialize())


def nested(weights: dict[str, Any]) -> dict[str, Any]:
    """Return the tree of variables from arrays by name: `params/a/b` becomes `["params"]["a"]["b"]`."""
    return {"params": {}, "batch_stats": {}, **flax.traverse_util.unflatten_dict(weights, sep="/")}


def check_variables(variables: Any, config: Config, folder: Path, model: nn.Module) -> None:
    """Refuse variables that are not those of the model in `config`, or not finite; `folder` is where they come from."""
    image_size = config.data.size if config.model.name == "custom" else None
    expected = abstract_variables(config.model, model, image_size, config.data.channels)
    check_same_arrays(describe_arrays(expected), describe_arrays(variables), folder)
    check_finite(named_arrays(variables), folder)


def check_target(folder: Path, force: bool) -> None:
    """Refuse to write a model folder over something else."""
    if not folder.exists():
        return
    if not force:
        raise UserError(f"{folder}: exists already; choose another --out, or replace it with --force")
    if not is_model_folder(folder):
        raise UserError(f"{folder}: --force replaces an exported model only, which this is not; choose another --out")


PLATFORMS = ("cpu", "cuda")  # platforms of an exported program


def describe_model(config: Config, classes: ClassTable) -> str:
    """Return the text of the README.txt."""
    height, width = window_shape(config)
    channels, precision = config.data.channels, config.data.precision
    values = () if classes.overlapping else values_of_classes(classes, config.data)
    stated = ", ".join(f"{name} {value}" for name, value in zip(classes.names, values, strict=False))
    on_values = f"With --values source, masks hold the values of the training data: {stated}.\n" if stated else ""
    return f"""\
A segmentation model with {len(classes)} classes: {", ".join(classes.names)}.

model.stablehlo is a program with two arguments, for {" and ".join(PLATFORMS)}:
    weights  the arrays of weights.safetensors, by name
    images   {precision}[b, {height}, {width}, {channels}]{_on_values(config.data)}, any batch size b
It returns float32[b, {height}, {width}, {len(classes)}], the probability of each class at each pixel.
{_on_labels(config, classes)}
To run it with jax alone (pip install jax flatbuffers safetensors numpy):

    import jax.export, numpy, safetensors.numpy
    program = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
    weights = safetensors.numpy.load_file("weights.safetensors")
    images = numpy.zeros((1, {height}, {width}, {channels}), numpy.{precision})
    probabilities = program.call(weights, images)

Images of any size: seg infer --model THIS_FOLDER --out RESULTS IMAGES
{on_values}
{_on_scale(config)}"""


def _on_labels(config: Config, classes: ClassTable) -> str:
    """Return what the probabilities of overlapping classes mean; nothing for exclusive ones."""
    if config.model.labels == "exclusive":
        return ""
    stated = ", ".join(f"{name} {value:g}" for name, value in zip(classes.names, _thresholds(config), strict=True))
    return (
        "Each class has a probability by itself (a sigmoid), so a pixel may have several classes, or none. It has\n"
        f"those whose probability reaches the threshold (inference.thresholds in config.yaml): {stated}.\n"
    )


def _thresholds(config: Config) -> list[float]:
    return list(build_labels(config, config.model.num_classes).thresholds)


def _on_values(data: DataConfig) -> str:
    """Return what the values of an image mean."""
    if data.precision == "uint8":
        return ", RGB" if data.channels == 3 else ", 0 = black, 255 = white"
    if data.normalise == "image":
        return ", each channel of an image with mean 0 and standard deviation 1"
    if data.channel_ranges:
        return ", 0 and 1 = the ends of data.channel_ranges in config.yaml"
    black, white = data.value_range
    return f", 0 = {black:g}, 1 = {white:g} in the files" if white > black else ", 0 = black, 1 = white"


def _on_scale(config: Config) -> str:
    """Return the lines of Python that predict an image of any size."""
    height, width = window_shape(config)
    match config.inference.scale:
        case "trained" if is_fitted(config):
            rows, columns = config.data.size
            how = f"resized to fit into {rows} × {columns}, as in training"
            lines = [f"factor = min({rows} / size[1], {columns} / size[0])"]
        case "trained" | "native":
            how, lines = "not resized", ["factor = 1"]
        case factor:
            how, lines = f"scaled by {factor:g}", [f"factor = {factor!r}"]
    fill = "" if config.inference.scale == "trained" else ', mode="edge"'
    is_rgb = (config.data.channels, config.data.precision) == (3, "uint8")
    lines = [
        "from PIL import Image, ImageOps",
        *(_READ_RGB if is_rgb else _READ_ARRAY),
        *lines,
        "columns, rows = (max(1, round(length * factor)) for length in size)",
        "planes = [plane.resize((columns, rows), Image.Resampling.BILINEAR) for plane in planes]",
        "image = numpy.stack(planes, axis=-1)",
        f"image = numpy.pad(image, ((0, -rows % {height}), (0, -columns % {width}), (0, 0)){fill})",
        f"tops, lefts = range(0, rows, {height}), range(0, columns, {width})",
        f"windows = [[image[None, y : y + {height}, x : x + {width}] for x in lefts] for y in tops]",
        "answers = [[numpy.asarray(program.call(weights, window))[0] for window in row] for row in windows]",
        "answer = numpy.concatenate([numpy.concatenate(row, axis=1) for row in answers])[:rows, :columns]",
        "planes = [Image.fromarray(plane.copy()) for plane in numpy.moveaxis(answer, -1, 0)]",
        "planes = [plane.resize(size, Image.Resampling.BILINEAR) for plane in planes]",
        "mask = numpy.stack(planes).argmax(0)"
        if config.model.labels == "exclusive"
        else f"masks = numpy.stack(planes) >= numpy.array({_thresholds(config)}, numpy.float32)[:, None, None]",
    ]
    result = (
        "the mask holds class numbers" if config.model.labels == "exclusive" else "there is one mask for each class"
    )
    return (
        f"Images are {how} (inference.scale in config.yaml). After the lines above, these predict one with pillow;\n"
        f"{result}, of the size of the image:\n\n  "
        + "\n  ".join(lines)
        + "\n\nseg infer makes the windows of a large image overlap and blends them.\n"
    )


_READ_RGB = (
    'picture = ImageOps.exif_transpose(Image.open("photo.png")).convert("RGB")',
    "size, planes = picture.size, picture.split()",
)
_READ_ARRAY = (
    'array = numpy.load("image.npy")  # [h, w, c] as the argument `images`',
    "size, planes = array.shape[1::-1], [Image.fromarray(plane.copy()) for plane in numpy.moveaxis(array, -1, 0)]",
)
