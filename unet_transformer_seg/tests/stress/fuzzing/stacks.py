"""TIFFs of several pages, bands and planes, and arrays that hold an image and its labels."""

import io
from pathlib import Path
from random import Random

import numpy as np
import tifffile
from fuzzing.mutations import change_bytes
from fuzzing.trials import Case, Kind

from seg.config import DataConfig
from seg.data.image_file import read_image, read_mask
from seg.data.images.stack import count_images

HEIGHT, WIDTH = 20, 27
MAX_PIXELS = 1_000_000
MAX_READ = 4  # pages of a file that are read
BANDS = 5


def make_stacks(folder: Path) -> list[Case]:
    """Return stacks of five pages, which are five channels of an image where the data set has as many."""
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 4000, (BANDS, HEIGHT, WIDTH), np.uint16)
    bands = rng.random((HEIGHT, WIDTH, BANDS), np.float32)
    colours = (rng.integers(0, 256, (3, 256)) << 8).astype(np.uint16)
    files = {
        "pages": (deep, {"metadata": None}),
        "big": (deep, {"bigtiff": True, "metadata": None}),
        "deflated": (deep, {"compression": "zlib", "predictor": True}),
        "lzw": (deep, {"compression": "lzw"}),
        "tiled": (deep, {"tile": (16, 16), "compression": "zlib"}),
        "imagej": (deep, {"imagej": True, "metadata": {"axes": "ZYX"}}),
        "ome": (deep, {"ome": True, "metadata": {"axes": "CYX"}}),
        "bands": (bands, {"photometric": "minisblack", "planarconfig": "contig"}),
        "planes": (np.moveaxis(bands, -1, 0), {"photometric": "minisblack", "planarconfig": "separate"}),
        "palette": ((deep % 7).astype(np.uint8), {"photometric": "palette", "colormap": colours}),
        "white": (deep, {"photometric": "miniswhite"}),
        "bits": (deep > 2000, {"photometric": "minisblack"}),
    }
    cases = []
    for name, (array, options) in files.items():
        file = io.BytesIO()
        tifffile.imwrite(file, array, **options)
        cases.append(Case({f"{name}.tif": file.getvalue()}))
    file = io.BytesIO()
    np.savez_compressed(file, image=bands, label=(deep[0] % 3).astype(np.float32))
    return [*cases, Case({"both.npz": file.getvalue()})]


def change_stack(rng: Random, samples: list[Case]) -> Case:
    """Return a case with a changed file."""
    ((name, content),) = rng.choice(samples).files.items()
    (other,) = rng.choice(samples).files.values()
    return Case({name: change_bytes(rng, content, [content, other])})


def read_stack(folder: Path, case: Case) -> None:
    """Read the first images of a file as those of two data sets, and as masks of numbers."""
    (name,) = case.files
    path = folder / name
    channels = 1 if name in ("palette.tif", "bits.tif", "imagej.tif") else BANDS
    config = DataConfig(channels=channels, precision="float32", normalise="image", max_pixels=MAX_PIXELS)
    count = count_images(path, config)
    for page in range(min(count, MAX_READ)):
        image_hwc = read_image(path, config, lambda *_: None, page if count > 1 else None)
        assert image_hwc.dtype == np.float32 and image_hwc.shape[2] == channels and np.isfinite(image_hwc).all()
        assert 0 < image_hwc.shape[0] * image_hwc.shape[1] <= MAX_PIXELS
    if name in ("palette.tif", "bits.tif", "both.npz"):
        mask = read_mask(path, config, lambda *_: None, None if name == "both.npz" else 0).values
        assert mask.dtype in (np.uint8, np.uint16) and mask.shape[2:] in ((), (3,))


KINDS = (Kind("stack", make_stacks, change_stack, read_stack),)
