"""The README.txt of an exported model: arguments of its program, and how to feed it an image of any size."""

from seg.classes import ClassTable
from seg.config import Config
from seg.data.fit import is_fitted, window_shape
from seg.data.masks.class_settings import mask_values

PLATFORMS = ("cpu", "cuda")
"""Platforms of an exported program."""


def describe_model(config: Config, classes: ClassTable) -> str:
    """Return the text of the README.txt."""
    height, width = window_shape(config)
    return f"""\
A segmentation model with {len(classes)} classes: {", ".join(classes.names)}.

model.stablehlo is a program with two arguments, for {" and ".join(PLATFORMS)}:
    weights  the arrays of weights.safetensors, by name
    images   uint8[b, {height}, {width}, 3], RGB, any batch size b
It returns float32[b, {height}, {width}, {len(classes)}], the probability of each class at each pixel.

To run it with jax alone (pip install jax flatbuffers safetensors numpy):

    import jax.export, numpy, safetensors.numpy
    program = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
    weights = safetensors.numpy.load_file("weights.safetensors")
    images = numpy.zeros((1, {height}, {width}, 3), numpy.uint8)
    probabilities = program.call(weights, images)

Images of any size: seg infer --model THIS_FOLDER --out RESULTS IMAGES
{_on_mask_values(config, classes)}
{_on_scale(config)}"""


def _on_scale(config: Config) -> str:
    """Return the lines of Python that predict an image of any size."""
    height, width = window_shape(config)
    match config.inference.scale:
        case "trained" if is_fitted(config):
            rows, columns = config.data.size
            how = f"resized to fit into {rows} × {columns}, as in training"
            lines = [f"factor = min({rows} / picture.height, {columns} / picture.width)"]
        case "trained" | "native":
            how, lines = "not resized", ["factor = 1"]
        case factor:
            how, lines = f"scaled by {factor:g}", [f"factor = {factor!r}"]
    fill = "" if config.inference.scale == "trained" else ', mode="edge"'
    lines = [
        "from PIL import Image, ImageOps",
        'picture = ImageOps.exif_transpose(Image.open("photo.png")).convert("RGB")',
        *lines,
        "columns, rows = (max(1, round(length * factor)) for length in picture.size)",
        "image = numpy.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR))",
        f"image = numpy.pad(image, ((0, -rows % {height}), (0, -columns % {width}), (0, 0)){fill})",
        f"tops, lefts = range(0, rows, {height}), range(0, columns, {width})",
        f"windows = [[image[None, y : y + {height}, x : x + {width}] for x in lefts] for y in tops]",
        "answers = [[numpy.asarray(program.call(weights, window))[0] for window in row] for row in windows]",
        "answer = numpy.concatenate([numpy.concatenate(row, axis=1) for row in answers])[:rows, :columns]",
        "planes = [Image.fromarray(plane.copy()) for plane in numpy.moveaxis(answer, -1, 0)]",
        "planes = [plane.resize(picture.size, Image.Resampling.BILINEAR) for plane in planes]",
        "mask = numpy.stack(planes).argmax(0)",
    ]
    return (
        f"Images are {how} (inference.scale in config.yaml). After the lines above, these predict one with pillow;\n"
        "the mask holds class numbers and has the size of the image:\n\n  "
        + "\n  ".join(lines)
        + "\n\nseg infer makes the windows of a large image overlap and blends them.\n"
    )


def _on_mask_values(config: Config, classes: ClassTable) -> str:
    """Return a line on the mask values of the training data, where these are not class numbers."""
    values = classes.mask_values or mask_values(config.data, len(classes))
    if not values:
        return ""
    stated = ", ".join(f"{name} {value}" for name, value in zip(classes.names, values, strict=True))
    return f"With --values source, masks hold the values of the training data: {stated}.\n"
