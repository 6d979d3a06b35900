"""The formats of an answer: an indexed PNG, an overlay, polygons, COCO run lengths, arrays, or a TIFF of bands.

Overlapping classes have no indexed PNG, but a TIFF with a band for each class.

Letters: h w rows and columns, k classes.
"""

import io
import json
from typing import Literal, NamedTuple, get_args

import numpy as np

from seg.classes import ClassTable
from seg.data.dataset import count_labelled
from seg.inference.mask_content import has_bands, write_bands
from seg.inference.output import mask_png, overlay_png
from seg.pictures import as_picture
from seg.serve.outlines import find_polygons
from seg.serve.run_lengths import encode_mask

Format = Literal["png", "overlay", "geojson", "coco", "npz", "tiff"]
FORMATS: tuple[Format, ...] = get_args(Format)

MEDIA_TYPES = {
    "png": "image/png",
    "overlay": "image/png",
    "geojson": "application/geo+json",
    "coco": "application/json",
    "npz": "application/octet-stream",
    "tiff": "image/tiff",
}
SUFFIXES = {"png": ".png", "overlay": "_overlay.png", "geojson": ".geojson", "coco": "_coco.json", "npz": ".npz"}
SUFFIXES |= {"tiff": ".tif"}


class Drawing(NamedTuple):
    """An answer to write.

    Attributes:
        format: one of `FORMATS`.
        labels: uint8[h, w]; of overlapping classes uint8[h, w, k].
        image: [h, w, c] as `Sample.image`, for an overlay.
        probabilities: float32[h, w, k], for arrays, if they were asked for.
        opacity: of the colours of an overlay, 0 to 1.
        shown_channels: of the image, as of `seg.pictures.as_picture`.
    """

    format: Format
    labels: np.ndarray
    image: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    opacity: float = 0.5
    shown_channels: tuple[int, ...] = ()


def draw(drawing: Drawing, classes: ClassTable) -> bytes:
    """Return the bytes of an answer; PNG and overlay are, byte for byte, the files that `seg infer` writes."""
    return _DRAW[drawing.format](drawing, classes)


def formats_of(classes: ClassTable) -> tuple[Format, ...]:
    """Return the formats that can hold the labels, the default first."""
    return ("tiff", *FORMATS[1:-1]) if has_bands(classes) else FORMATS[:-1]


def _draw_png(drawing: Drawing, classes: ClassTable) -> bytes:
    file = io.BytesIO()
    with mask_png(file, drawing.labels.shape[:2], classes) as append_rows:
        append_rows(drawing.labels)
    return file.getvalue()


def _draw_overlay(drawing: Drawing, classes: ClassTable) -> bytes:
    file = io.BytesIO()
    with overlay_png(file, drawing.labels.shape[:2], classes, drawing.opacity) as append_rows:
        append_rows(as_picture(drawing.image, drawing.shown_channels), drawing.labels)
    return file.getvalue()


def _draw_geojson(drawing: Drawing, classes: ClassTable) -> bytes:
    """Return a FeatureCollection with a MultiPolygon for each class that occurs."""
    features = []
    for label, pixels in _present(drawing.labels, classes):
        properties = {"label": label, "name": classes.names[label], "colour": list(classes.palette[label])}
        geometry = {"type": "MultiPolygon", "coordinates": find_polygons(_mask_of(drawing.labels, label))}
        features.append({"type": "Feature", "properties": properties | {"pixels": pixels}, "geometry": geometry})
    height, width = drawing.labels.shape[:2]
    # A foreign member, as RFC 7946 calls it: the coordinates are pixels, x to the right and y down from the corner.
    size = {"width": width, "height": height}
    return _json({"type": "FeatureCollection", "image": size, "features": features})


def _draw_coco(drawing: Drawing, classes: ClassTable) -> bytes:
    """Return the images, annotations and categories of a COCO file, an annotation for each class that occurs."""
    height, width = drawing.labels.shape[:2]
    annotations = []
    for number, (label, pixels) in enumerate(_present(drawing.labels, classes), 1):
        mask_hw = _mask_of(drawing.labels, label)
        rows, columns = np.flatnonzero(mask_hw.any(1)), np.flatnonzero(mask_hw.any(0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        annotation = {"id": number, "image_id": 1, "category_id": label, "iscrowd": 0, "area": pixels}
        annotations.append(annotation | {"bbox": [int(side) for side in box], "segmentation": encode_mask(mask_hw)})
    categories = [{"id": label, "name": name} for label, name in enumerate(classes.names)]
    images = [{"id": 1, "width": width, "height": height}]
    return _json({"images": images, "annotations": annotations, "categories": categories})


def _draw_npz(drawing: Drawing, classes: ClassTable) -> bytes:
    """Return `labels`, and if asked for `probabilities`, float16[h, w, k]."""
    arrays = {"labels": drawing.labels, "names": np.array(classes.names)}
    if drawing.probabilities is not None:
        arrays["probabilities"] = drawing.probabilities.astype(np.float16)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _draw_tiff(drawing: Drawing, classes: ClassTable) -> bytes:
    file = io.BytesIO()
    write_bands(file, drawing.labels, classes)
    return file.getvalue()


def _mask_of(labels: np.ndarray, label: int) -> np.ndarray:
    """Return bool[h, w], the pixels of a class."""
    return labels[..., label] == 1 if labels.ndim == 3 else labels == label


def _present(labels: np.ndarray, classes: ClassTable) -> list[tuple[int, int]]:
    """Return (label, pixels) of each class that occurs."""
    pixels_k = count_labelled(labels, len(classes))[0]
    return [(label, number) for label, number in enumerate(pixels_k.tolist()) if number]


def _json(content: dict) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


_DRAW = {"png": _draw_png, "overlay": _draw_overlay, "geojson": _draw_geojson, "coco": _draw_coco, "npz": _draw_npz}
_DRAW |= {"tiff": _draw_tiff}
