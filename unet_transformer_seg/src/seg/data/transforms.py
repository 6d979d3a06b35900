"""Augmentation of a training batch on the device: jitted, batched, each change a pure function of its key.

Images are float32[b, h, w, 3] in 0…1, labels integer[b, h, w] with 255 = ignored.

Letters: b batch, h w pixels, c colours, k classes.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from seg.classes import IGNORE_LABEL
from seg.config import DataConfig
from seg.data.colour import jitter_colour, random_blur, random_noise
from seg.data.geometry import Pair, check_batch, random_flip, random_resized_crop, random_rotation

Change = Callable[[jax.Array, jax.Array, jax.Array], Pair]
"""`change(key, image_bhwc, labels_bhw) → (image_bhwc, labels_bhw)`."""


def make_augment(config: DataConfig) -> Change:
    """Return the augmentation of a batch.

    It takes uint8 images and labels of `config.size` and returns normalised float32 images and int32 labels of
    the crop's size. Only changes that `config.augment` enables are traced.
    """
    changes = _changes(config)

    def augment(key: jax.Array, image_bhwc: jax.Array, labels_bhw: jax.Array) -> Pair:
        check_batch(image_bhwc, labels_bhw, jnp.uint8)
        image_bhwc = to_unit(image_bhwc)  # the host sends bytes, a quarter of the floats
        # One key for each change, so that each draws independently of the others.
        for number, change in enumerate(changes):
            image_bhwc, labels_bhw = change(jax.random.fold_in(key, number), image_bhwc, labels_bhw)
        return normalise(image_bhwc, config.mean, config.std), labels_bhw.astype(jnp.int32)

    return augment


def make_preprocess(config: DataConfig) -> Callable[[jax.Array, jax.Array], Pair]:
    """Return `preprocess(image_bhwc uint8, labels_bhw) → (image_bhwc normalised float32, labels_bhw int32)`."""

    def preprocess(image_bhwc: jax.Array, labels_bhw: jax.Array) -> Pair:
        check_batch(image_bhwc, labels_bhw, jnp.uint8)
        return normalise(to_unit(image_bhwc), config.mean, config.std), labels_bhw.astype(jnp.int32)

    return preprocess


def _changes(config: DataConfig) -> list[Change]:
    """Return the enabled changes in the order of application."""
    augment = config.augment
    crop = tuple(c or s for c, s in zip(augment.crop, config.size, strict=True))
    colour = {name: getattr(augment, name) for name in ("brightness", "contrast", "saturation", "hue")}
    changes: list[Change] = []
    # Rotation first, so that the crop can cut off its black corners; pasting after both, so that it stays in view.
    if augment.rotate_degrees:
        changes.append(lambda k, x, y: random_rotation(k, x, y, degrees=augment.rotate_degrees))
    if augment.scale != (1.0, 1.0) or augment.aspect or crop != config.size:
        changes.append(
            lambda k, x, y: random_resized_crop(k, x, y, crop=crop, scale=augment.scale, aspect=augment.aspect)
        )
    if augment.flip:
        changes.append(lambda k, x, y: random_flip(k, x, y, probability=augment.flip))
    if augment.copy_paste:
        changes.append(lambda k, x, y: copy_paste(k, x, y, probability=augment.copy_paste))
    # The rest changes the image only.
    if any(colour.values()):
        changes.append(lambda k, x, y: (jitter_colour(k, x, **colour), y))
    if augment.blur:
        changes.append(lambda k, x, y: (random_blur(k, x, probability=augment.blur), y))
    if augment.noise:
        changes.append(lambda k, x, y: (random_noise(k, x, largest_std=augment.noise), y))
    return changes


def to_unit(image_bhwc: jax.Array) -> jax.Array:
    """Return a uint8 image as float32 in 0…1."""
    return image_bhwc.astype(jnp.float32) / 255.0


def normalise(image_bhwc: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Return (image − mean) / std, for each colour."""
    chex.assert_shape(image_bhwc, (..., 3))
    mean_111c, std_111c = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, 3) for v in (mean, std))
    return (image_bhwc - mean_111c) / std_111c


def copy_paste(key: jax.Array, image_bhwc: jax.Array, labels_bhw: jax.Array, *, probability: float) -> Pair:
    """Return the batch with some classes of its neighbour pasted into each sample with a probability.

    A random half (rounded down) of the classes in the neighbour, the previous sample of the batch, is pasted in place
    with its labels.

    Reference: Olsson et al. 2021, ClassMix, arXiv:2007.07936, there with predicted labels.
    """
    check_batch(image_bhwc, labels_bhw)
    use_key, choice_key = jax.random.split(key)
    batch = labels_bhw.shape[0]
    other_image_bhwc, other_bhw = jnp.roll(image_bhwc, 1, axis=0), jnp.roll(labels_bhw, 1, axis=0)
    use_b = jax.random.bernoulli(use_key, probability, (batch,))
    chosen_bk = jax.vmap(choose_half)(jax.random.split(choice_key, batch), other_bhw) & use_b[:, None]
    # A boolean table over the 256 labels turns "is this pixel's class chosen?" into an index lookup.
    paste_bhw = jax.vmap(lambda chosen_k, labels_hw: chosen_k[labels_hw])(chosen_bk, other_bhw)
    return (
        jnp.where(paste_bhw[..., None], other_image_bhwc, image_bhwc),
        jnp.where(paste_bhw, other_bhw, labels_bhw),
    )


def choose_half(key: jax.Array, labels_hw: jax.Array) -> jax.Array:
    """Return bool[256], True for a random half (rounded down) of the classes that occur."""
    present_k = jnp.zeros(IGNORE_LABEL + 1, bool).at[labels_hw.ravel()].set(True).at[IGNORE_LABEL].set(False)
    # Absent classes sort last; argsort of argsort is the rank, and the lower half of the present ranks is chosen.
    order_k = jnp.where(present_k, jax.random.uniform(key, present_k.shape), 2.0)
    rank_k = jnp.argsort(jnp.argsort(order_k))
    return present_k & (rank_k < present_k.sum() // 2)
