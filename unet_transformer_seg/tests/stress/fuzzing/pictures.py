"""Images, and data sets of images and masks with their class names and lists."""

import dataclasses
import functools
import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from fuzzing.mutations import PNG_SIGNATURE, change_bytes, change_png, join_png
from fuzzing.tree_mutations import TEXTS, change_json
from fuzzing.trials import Case, Kind, change_file
from PIL import Image

from seg.classes import load_class_table
from seg.config import DataConfig
from seg.data.image_file import read_image, read_mask
from seg.data.image_folder import open_image_folder
from seg.data.images.image_kind import SUFFIXES
from seg.data.masks.class_settings import build_label_map
from seg.data.masks.mask import Mask
from seg.data.pairing.splits import find_pairs
from seg.inference.output import plan_jobs

HEIGHT, WIDTH = 20, 27
MAX_PIXELS = 1_000_000
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
NAMES = ("sky", "road", "tree")
PALETTE = ((70, 130, 180), (128, 64, 128), (0, 128, 0))
SEVERAL_PICTURES = ("animated.png", "animated.webp", "pages.tif")
PATHS = (
    "../a.png",
    "/",
    "/dev/null",
    ".",
    "a\0b",
    "x" * 300,
    "y/" * 3000,
    "images",
    "\ud800",
    "*",
    "a.png a.png a.png",
)


def make_png(depth: int, colour_type: int, channels: int, interlaced: bool = False) -> bytes:
    """Return a PNG of random values, of those kinds too that Pillow does not write."""
    rng, rows = Random(depth), b""
    for x, y, step_x, step_y in ADAM7 if interlaced else ((0, 0, 1, 1),):
        width, height = -(-(WIDTH - x) // step_x), -(-(HEIGHT - y) // step_y)
        row_bytes = -(-width * channels * depth // 8)
        rows += b"".join(b"\0" + rng.randbytes(row_bytes) for _ in range(height))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour_type, 0, 0, interlaced)
    return join_png([(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


def save(image: Image.Image, kind: str, **options) -> bytes:
    """Return the file that Pillow writes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def save_array(write: Callable, array: np.ndarray) -> bytes:
    """Return the file that numpy writes."""
    file = io.BytesIO()
    write(file, array)
    return file.getvalue()


@functools.cache
def make_files() -> dict[str, bytes]:
    """Return image files by name, of every format that is read and most of its kinds."""
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "turned by a quarter"
    modes = {mode: colours.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")}
    files = {f"{mode}.png": save(modes[mode], "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")}
    files |= {f"{mode}.tif": save(image, "TIFF") for mode, image in modes.items()}
    packings = {
        "raw": "RGB",
        "tiff_lzw": "RGB",
        "tiff_adobe_deflate": "L",
        "jpeg": "RGB",
        "packbits": "P",
        "group4": "1",
    }
    files |= {f"{name}.tiff": save(modes[m], "TIFF", compression=name) for name, m in packings.items()}
    files |= {f"{mode}.jpg": save(modes[mode], "JPEG", exif=exif) for mode in ("L", "RGB", "CMYK")}
    files |= {f"{mode}.bmp": save(modes[mode], "BMP") for mode in ("1", "L", "P", "RGB")}
    files |= {
        "progressive.jpg": save(modes["RGB"], "JPEG", progressive=True, icc_profile=bytes(range(200))),
        "transparent.png": save(modes["P"], "PNG", transparency=bytes([9, 128]), exif=exif, dpi=(72, 72)),
        "animated.png": save(modes["RGB"], "PNG", save_all=True, append_images=[modes["L"].convert("RGB")]),
        "lossless.webp": save(modes["RGBA"], "WEBP", lossless=True),
        "lossy.webp": save(modes["RGB"], "WEBP", exif=exif),
        "animated.webp": save(modes["RGB"], "WEBP", save_all=True, append_images=[modes["L"].convert("RGB")]),
        "pages.tif": save(modes["L"], "TIFF", save_all=True, append_images=[modes["RGB"]]),
        "P.gif": save(modes["P"], "GIF"),
        "grey32.tif": save(
            Image.fromarray(np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, -1)), "TIFF"
        ),
        "colours.npy": save_array(np.save, np.asarray(colours)),
        "grey16.npz": save_array(np.savez_compressed, np.asarray(colours)[..., 0].astype(np.uint16) << 4),
        "grey16.tif": save(Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)), "TIFF"),
    }
    for depth, colour_type, channels in ((8, 2, 3), (16, 0, 1), (16, 2, 3), (16, 6, 4), (4, 0, 1)):
        for interlaced in (False, True):
            files[f"made_{depth}_{colour_type}_{interlaced}.png"] = make_png(depth, colour_type, channels, interlaced)
    return files


def change_picture(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    """Return a changed image file; of a PNG half of the changes have the right checksums."""
    if content.startswith(PNG_SIGNATURE) and rng.random() < 0.5:
        return change_png(rng, content, others)
    return change_bytes(rng, content, others)


# ---- images ------------------------------------------------------------------------------------------------------


def make_images(folder: Path) -> list[Case]:
    """Return a case for each file but those of several pictures, which are refused as they are."""
    return [Case({name: content}) for name, content in make_files().items() if name not in SEVERAL_PICTURES]


def change_image(rng: Random, samples: list[Case]) -> Case:
    """Return a case with a changed file, now and then under the suffix of another format."""
    ((name, content),) = rng.choice(samples).files.items()
    if rng.random() < 0.03:
        content = make_files()[rng.choice(SEVERAL_PICTURES)]
    (other,) = rng.choice(samples).files.values()
    name = name if rng.random() < 0.9 else f"{Path(name).stem}{rng.choice(SUFFIXES)}"
    return Case({name: change_picture(rng, content, [content, other])})


def read_images(folder: Path, case: Case) -> None:
    """Read what `seg.infer` reads of a folder."""
    for job in plan_jobs([folder], folder.with_name("results")):
        image_hwc = read_image(job.source, DataConfig(max_pixels=MAX_PIXELS))
        assert image_hwc.dtype == np.uint8 and image_hwc.ndim == 3 and image_hwc.shape[2] == 3
        assert 0 < image_hwc.shape[0] * image_hwc.shape[1] <= MAX_PIXELS


# ---- data sets ---------------------------------------------------------------------------------------------------


def make_data_sets(folder: Path) -> list[Case]:
    """Return data sets of one sample with a grey, an indexed, a 16-bit and a coloured mask."""
    labels_hw = np.random.default_rng(1).integers(0, len(NAMES), (HEIGHT, WIDTH), np.uint8)
    indexed = Image.fromarray(labels_hw)
    indexed.putpalette([value for colour in PALETTE for value in colour])
    masks = {
        "grey": save(Image.fromarray(labels_hw), "PNG"),
        "indexed": save(indexed, "PNG"),
        "16 bits": save(Image.fromarray(labels_hw.astype(np.uint16)), "PNG"),
        "coloured": save(Image.fromarray(np.array(PALETTE, np.uint8)[labels_hw]), "PNG"),
        "tiff": save(Image.fromarray(labels_hw), "TIFF", compression="tiff_lzw"),
    }
    image = save(Image.new("RGB", (WIDTH, HEIGHT), (9, 99, 199)), "JPEG")
    classes = json.dumps({"names": NAMES, "palette": PALETTE, "ignore": 255}).encode()
    files = {"root/classes.json": classes, "root/train/images/a.jpg": image}
    return [Case(files | {"root/train/labels/a.png": mask}) for mask in masks.values()]


def change_mask(rng: Random, samples: list[Case]) -> Case:
    """Return a data set with another mask: a changed one, or a file of any kind."""
    case, name = rng.choice(samples), "root/train/labels/a.png"
    files = list(make_files().values())
    content = case.files[name] if rng.random() < 0.8 else rng.choice(files)
    return case.replace(name, change_picture(rng, content, files))


def read_data_set(folder: Path, case: Case) -> None:
    """Read the sample of a data set, and count its pixels as the class weights do."""
    config = DataConfig(dataset="image_folder", root=str(folder / "root"), max_pixels=MAX_PIXELS)
    dataset = open_image_folder(config, "train")
    sample = dataset[0]
    assert sample.mask.dtype == np.uint8 and sample.mask.shape == sample.image.shape[:2]
    assert ((sample.mask < len(dataset.classes)) | (sample.mask == 255)).all()
    assert dataset.count_pixels(1)[0].sum() <= sample.mask.size


# ---- classes and lists -------------------------------------------------------------------------------------------


def make_classes(folder: Path) -> list[Case]:
    """Return the two files of JSON that name classes."""
    contents = (
        {"names": NAMES, "palette": PALETTE, "ignore": 255},
        {"names": ["void", *NAMES], "colours": [(0, 0, 0), *PALETTE], "ignore": 0},
        {"names": NAMES, "palette": PALETTE},
    )
    return [Case({"classes.json": json.dumps(content, indent=1).encode()}) for content in contents]


def change_classes(rng: Random, samples: list[Case]) -> Case:
    """Return a changed file of classes."""
    return change_file(rng, samples, {".json": lambda rng, content: change_json(rng, content)})


def _read_classes(read: Callable) -> Callable[[Path, Case], None]:
    def read_and_check(folder: Path, case: Case) -> None:
        classes = read(folder)
        assert 2 <= len(classes) <= 255
        " ".join(classes.names).encode()  # they can be printed
        assert np.array(classes.palette, np.uint8).shape == (len(classes), 3)
        classes.save(folder / "again.json")
        assert load_class_table(folder / "again.json") == classes

    return read_and_check


def read_label_map(folder: Path):
    """Return the classes of a data set, once a mask of each kind went through them."""
    label_map = build_label_map(DataConfig(dataset="image_folder", root=str(folder)))
    values_hw = np.array([[value for value in label_map.by_value if value < 1 << 16]], np.uint16)
    assert (label_map.read(Mask(values_hw), folder).labels <= 255).all()
    return label_map.classes


def make_lists(folder: Path) -> list[Case]:
    """Return a data set with both kinds of lists."""
    files = {f"root/images/{n}.png": b"x" for n in "abcd"} | {f"root/labels/{n}.png": b"x" for n in "abcd"}
    files["root/pairs.txt"] = "".join(f"images/{n}.png labels/{n}.png\n" for n in "abc").encode()
    files["root/stems.txt"] = b"# a comment\na\nb.png\n\nc\n"
    return [Case(files, ("pairs.txt",)), Case(files, ("stems",))]


def change_list(rng: Random, samples: list[Case]) -> Case:
    """Return a data set with a changed list, or another name of the split."""
    case = rng.choice(samples)
    if rng.random() < 0.1:
        return dataclasses.replace(case, arguments=(rng.choice((*TEXTS, *PATHS, *(f"{path}.txt" for path in PATHS))),))
    name = f"root/{case.arguments[0].removesuffix('.txt')}.txt"
    lines = case.files[name].decode().splitlines(keepends=True)
    match rng.randrange(4):
        case 0:
            lines.insert(rng.randrange(len(lines) + 1), rng.choice((*TEXTS, *PATHS)) + "\n")
        case 1:
            lines.insert(rng.randrange(len(lines) + 1), f"{rng.choice(PATHS)}\t{rng.choice(PATHS)}\n")
        case 2:
            lines += [rng.choice(lines)] * rng.choice((1, 3, 5000))
        case _:
            return case.replace(name, change_bytes(rng, case.files[name], [case.files["root/pairs.txt"]]))
    return case.replace(name, "".join(lines).encode("utf-8", "surrogatepass"))


def read_list(folder: Path, case: Case) -> None:
    """Find the pairs of a split; what is said of its lines names the file too."""
    root = folder / "root"
    search = find_pairs(DataConfig(dataset="image_folder", root=str(root)), case.arguments[0])
    pairs, problems = search.pairs, search.problems
    assert pairs or problems
    assert all(str(root) in problem for problem in problems)
    assert all(os.path.isfile(pair.image) and os.path.isfile(pair.mask) for pair in pairs)


def read_as_mask(folder: Path, case: Case) -> None:
    """Read an image file as a mask."""
    (name,) = case.files
    mask = read_mask(folder / name, DataConfig(max_pixels=MAX_PIXELS)).values
    assert mask.dtype in (np.uint8, np.uint16) and mask.shape[2:] in ((), (3,))


KINDS = (
    Kind("image", make_images, change_image, read_images),
    Kind("mask", make_data_sets, change_mask, read_data_set),
    Kind("classes.json", make_classes, change_classes, _read_classes(read_label_map)),
    Kind(
        "class table",
        lambda _: make_classes(_)[2:],
        change_classes,
        _read_classes(lambda f: load_class_table(f / "classes.json")),
    ),
    Kind("list", make_lists, change_list, read_list, names=lambda f, c: [str(f), *filter(None, c.arguments)]),
)
