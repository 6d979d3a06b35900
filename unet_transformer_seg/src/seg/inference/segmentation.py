"""The answer for one image: the class of each pixel, to be looked at, saved and computed with."""

import dataclasses
import io
import numbers
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from seg.classes import ClassTable
from seg.config import InstancesConfig
from seg.data.dataset import count_labelled
from seg.errors import UserError
from seg.inference.mask_content import has_bands
from seg.inference.output import save_mask
from seg.instances.objects import Objects, find_objects
from seg.pictures import colour_mask, draw_grid, draw_overlay

PICTURE_SIDE = 320  # longer side of each of the two views in a notebook, in pixels


@dataclasses.dataclass(frozen=True, eq=False)
class Segmentation:
    """What a model sees in an image. A notebook shows it as a picture with a legend."""

    labels: np.ndarray  # uint8[h, w], the class of each pixel; of overlapping classes uint8[h, w, k], 1 where it is
    classes: ClassTable  # names and colours of the classes
    image: np.ndarray  # uint8[h, w, 3], the image as it is shown, upright
    # float32[h, w, k], which sum to 1 over exclusive classes; None unless they were asked for
    probabilities: np.ndarray | None = None

    counting: InstancesConfig = InstancesConfig()  # how the model's config counts objects

    def instances(
        self,
        method: Literal["components", "watershed"] | None = None,
        *,
        classes: Sequence[str] | None = None,
        min_area: int | None = None,
        seed_distance: int | None = None,
    ) -> Objects:
        """Return the objects, such as cells, numbered from 1: `len(…)` counts them, `.table()` describes each.

        Args:
            method: components: pixels that touch are one object; watershed: also cut where two round objects touch.
                These four are by default as in the model's config; a config that counts nothing gives components.
            classes: names of the classes whose objects are counted.
            min_area: smallest object, in pixels.
            seed_distance: for watershed, smallest distance of two objects' centres, in pixels.
        """
        method = method or ("components" if self.counting.method == "none" else self.counting.method)
        stated = {"classes": classes and tuple(classes), "min_area": min_area, "seed_distance": seed_distance}
        changes = {name: value for name, value in stated.items() if value is not None}
        settings = dataclasses.replace(self.counting, method=method, **changes)
        return find_objects(self.labels, settings, self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; the position is the label."""
        return self.classes.names

    @property
    def shares_k(self) -> np.ndarray:
        """float64[k], the share of each class in the pixels."""
        return count_labelled(self.labels, len(self.classes))[0] / np.prod(self.labels.shape[:2])

    def overlay(self, opacity: float = 0.5) -> Image.Image:
        """Return the image with the colours of its classes laid over it.

        Args:
            opacity: of the colours, 0 (the image alone) to 1 (the colours alone).
        """
        if not isinstance(opacity, numbers.Real) or not 0 <= opacity <= 1:
            raise UserError(f"opacity: expected a number from 0 to 1, found {opacity!r:.80}")
        return Image.fromarray(draw_overlay(self.image, self.labels, self.classes, opacity))

    def save(self, path: str | os.PathLike) -> None:
        """Write the labels as the file that `seg infer` writes: an indexed PNG, its palette the colours of the classes.

        Overlapping classes are the bands of a TIFF, 0 or 255, in the order of the classes.

        Raises:
            UserError: another suffix than .png, or .tif for bands; or the disk refuses.
        """
        path, is_tiff = Path(path), has_bands(self.classes)
        if path.suffix.lower() not in ((".tif", ".tiff") if is_tiff else (".png",)):
            why = "classes overlap, so each has a band" if is_tiff else "labels must be stored without loss"
            raise UserError(f"{path}: expected a name that ends in {'.tif' if is_tiff else '.png'}, as {why}")
        save_mask(path, self.labels, self.classes)

    def _repr_png_(self) -> bytes:
        views = colour_mask(self.labels, self.classes), draw_overlay(self.image, self.labels, self.classes)
        legend = [(self._describe(label), self.classes.palette[label]) for label in np.flatnonzero(self.shares_k)]
        page = draw_grid([views], ("labels", "overlay"), [""], legend, PICTURE_SIDE)
        file = io.BytesIO()
        page.save(file, format="PNG")
        return file.getvalue()

    def _describe(self, label: int) -> str:
        return f"{self.class_names[label]} {self.shares_k[label]:.1%}"

    def __repr__(self):
        height, width = self.labels.shape[:2]
        return f"Segmentation({height}×{width}: {', '.join(map(self._describe, np.flatnonzero(self.shares_k)))})"
