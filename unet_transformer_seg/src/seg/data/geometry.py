"""Changes that move the pixels of image and labels alike: crop and scale, mirror, rotation.

Images are float32[b, h, w, c] in 0…1, labels integer[b, h, w], or [b, h, w, k] if classes overlap. The image is
interpolated, the labels take the nearest pixel, and pixels from outside the picture are black and ignored.

Letters: b batch, h w pixels, c channels, i j rows and columns of the result.
"""

import chex
import jax
import jax.numpy as jnp

from seg.classes import IGNORE_LABEL

Pair = tuple[jax.Array, jax.Array]  # images and their labels


def check_batch(image_bhwc: jax.Array, labels_bhw: jax.Array, dtype=jnp.float32) -> None:
    """Check for a batch of images with integer labels of each pixel."""
    chex.assert_shape(image_bhwc, (*labels_bhw.shape[:3], None))
    chex.assert_rank(labels_bhw, {3, 4})
    chex.assert_type([image_bhwc, labels_bhw], [dtype, int])


def random_flip(key: jax.Array, image_bhwc: jax.Array, labels_bhw: jax.Array, *, probability: float) -> Pair:
    """Return the batch with each sample mirrored left to right with the given probability."""
    check_batch(image_bhwc, labels_bhw)
    flip_b = jax.random.bernoulli(key, probability, (image_bhwc.shape[0],))
    return (
        jnp.where(flip_b[:, None, None, None], image_bhwc[:, :, ::-1], image_bhwc),
        jnp.where(flip_b.reshape(-1, *[1] * (labels_bhw.ndim - 1)), labels_bhw[:, :, ::-1], labels_bhw),
    )


def random_resized_crop(
    key: jax.Array,
    image_bhwc: jax.Array,
    labels_bhw: jax.Array,
    *,
    crop: tuple[int, int],
    scale: tuple[float, float],
    aspect: float,
) -> Pair:
    """Return a random window of each sample, magnified by a random factor: float32[b, *crop, c] and labels [b, *crop].

    Height and width are magnified by m·√r and m/√r, m in `scale` and r in 1/(1 + aspect) … 1 + aspect, both
    log-uniform. The window is anywhere in the picture, or the picture anywhere in a larger window. Without
    magnification the window starts at whole pixels.
    """
    check_batch(image_bhwc, labels_bhw)
    batch, height, width, _ = image_bhwc.shape
    scale_key, aspect_key, top_key, left_key = jax.random.split(key, 4)
    log_scale = jnp.log(jnp.asarray(scale, jnp.float32))
    magnify_b = jnp.exp(jax.random.uniform(scale_key, (batch,), minval=log_scale[0], maxval=log_scale[1]))
    limit = jnp.log1p(aspect)
    stretch_b = jnp.exp(0.5 * jax.random.uniform(aspect_key, (batch,), minval=-limit, maxval=limit))
    whole = scale == (1.0, 1.0) and aspect == 0
    rows_bi = window_positions(top_key, magnify_b * stretch_b, height, crop[0], whole=whole)
    columns_bj = window_positions(left_key, magnify_b / stretch_b, width, crop[1], whole=whole)
    return resample(image_bhwc, labels_bhw, rows_bi, columns_bj)


def window_positions(key: jax.Array, magnify_b: jax.Array, size: int, crop: int, *, whole: bool) -> jax.Array:
    """Return float32[b, crop], the source position of each result pixel along an axis of `size` pixels.

    Position 0 is the centre of the first pixel. `whole` rounds the window's start.
    """
    # The window covers crop / magnify source pixels; a negative rest means that the picture is inside the window.
    spare_b = size - crop / magnify_b
    start_b = jax.random.uniform(key, magnify_b.shape) * spare_b
    start_b = jnp.round(start_b) if whole else start_b
    return start_b[:, None] + (jnp.arange(crop, dtype=jnp.float32)[None] + 0.5) / magnify_b[:, None] - 0.5


def resample(image_bhwc: jax.Array, labels_bhw: jax.Array, rows_bi: jax.Array, columns_bj: jax.Array) -> Pair:
    """Return the batch at the given rows and columns: linear (antialiased) in the image, nearest in the labels.

    Rows and columns are separable: two small matrix products for the image, two index lookups for the labels.
    """
    height, width = labels_bhw.shape[1:3]
    weights_bih, weights_bjw = linear_weights(rows_bi, height), linear_weights(columns_bj, width)
    exact = jax.lax.Precision.HIGHEST  # the default may round to bfloat16 or TF32
    image_biwc = jnp.einsum("bih,bhwc->biwc", weights_bih, image_bhwc, precision=exact)
    image_bijc = jnp.einsum("bjw,biwc->bijc", weights_bjw, image_biwc, precision=exact)

    def take(labels_hw, rows_i, columns_j):
        return nearest(nearest(labels_hw, rows_i, axis=0), columns_j, axis=1)

    return image_bijc, jax.vmap(take)(labels_bhw, rows_bi, columns_bj)


def linear_weights(positions_bi: jax.Array, size: int) -> jax.Array:
    """Return float32[b, i, size], the weight of each source pixel in each result pixel.

    A triangle around the position, as wide to either side as a pixel or, when shrinking (antialiasing), as the step
    between positions. Weights sum to 1, or are 0 for a position outside the picture.
    """
    step_b = (positions_bi[:, -1] - positions_bi[:, 0]) / max(positions_bi.shape[1] - 1, 1)
    reach_b11 = jnp.maximum(step_b, 1.0)[:, None, None]
    source_11h = jnp.arange(size, dtype=jnp.float32)[None, None]
    weights_bih = jnp.maximum(1.0 - jnp.abs(source_11h - positions_bi[:, :, None]) / reach_b11, 0.0)
    weights_bih = weights_bih / jnp.maximum(weights_bih.sum(-1, keepdims=True), 1e-6)
    return jnp.where(is_inside(positions_bi, size)[:, :, None], weights_bih, 0.0)


def nearest(labels_hw: jax.Array, positions_i: jax.Array, *, axis: int) -> jax.Array:
    """Return the labels at the nearest pixels along one axis; 255 outside."""
    size = labels_hw.shape[axis]
    index_i = jnp.clip(jnp.floor(positions_i + 0.5), 0, size - 1).astype(jnp.int32)
    # Index lookups cannot fail under jit, so they are clipped, and what was outside becomes ignored.
    inside_i = is_inside(positions_i, size).reshape([-1 if a == axis else 1 for a in range(labels_hw.ndim)])
    taken = jnp.take(labels_hw, index_i, axis=axis)
    return jnp.where(inside_i, taken, jnp.asarray(IGNORE_LABEL, taken.dtype))


def is_inside(positions: jax.Array, size: int) -> jax.Array:
    """Return whether positions are within one of the pixels 0 … size-1."""
    return (positions >= -0.5) & (positions < size - 0.5)


def random_rotation(key: jax.Array, image_bhwc: jax.Array, labels_bhw: jax.Array, *, degrees: float) -> Pair:
    """Return each sample rotated by a random angle of up to ± `degrees`; the size stays."""
    limit = jnp.deg2rad(degrees)
    angle_b = jax.random.uniform(key, image_bhwc.shape[:1], minval=-limit, maxval=limit)
    return rotate(image_bhwc, labels_bhw, angle_b)


def rotate(image_bhwc: jax.Array, labels_bhw: jax.Array, angle_b: jax.Array) -> Pair:
    """Return each sample rotated counter-clockwise about its centre by `angle_b`, in radians; the size stays."""
    check_batch(image_bhwc, labels_bhw)
    chex.assert_shape(angle_b, image_bhwc.shape[:1])
    height, width = labels_bhw.shape[1:3]
    sine_b11, cosine_b11 = jnp.sin(angle_b)[:, None, None], jnp.cos(angle_b)[:, None, None]
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    dy_1h1 = (jnp.arange(height, dtype=jnp.float32) - middle_y)[None, :, None]
    dx_11w = (jnp.arange(width, dtype=jnp.float32) - middle_x)[None, None, :]
    # For each result pixel, the source position: the inverse rotation.
    y_bhw = cosine_b11 * dy_1h1 + sine_b11 * dx_11w + middle_y
    x_bhw = cosine_b11 * dx_11w - sine_b11 * dy_1h1 + middle_x
    return jax.vmap(look_up)(image_bhwc, labels_bhw, y_bhw, x_bhw)


def look_up(image_hwc: jax.Array, labels_hw: jax.Array, y_ij: jax.Array, x_ij: jax.Array) -> Pair:
    """Return one sample at arbitrary positions (y, x): bilinear in the image, nearest in the labels."""
    height, width = labels_hw.shape[:2]
    inside_ij = is_inside(y_ij, height) & is_inside(x_ij, width)

    def at(array, row_ij, column_ij):
        row_ij, column_ij = jnp.clip(row_ij, 0, height - 1), jnp.clip(column_ij, 0, width - 1)
        return array[row_ij.astype(jnp.int32), column_ij.astype(jnp.int32)]

    top_ij, left_ij = jnp.floor(y_ij), jnp.floor(x_ij)
    down_ij1, right_ij1 = (y_ij - top_ij)[..., None], (x_ij - left_ij)[..., None]

    def row(row_ij):
        left_ijc, right_ijc = at(image_hwc, row_ij, left_ij), at(image_hwc, row_ij, left_ij + 1)
        return left_ijc * (1 - right_ij1) + right_ijc * right_ij1

    image_ijc = row(top_ij) * (1 - down_ij1) + row(top_ij + 1) * down_ij1
    labels_ij = at(labels_hw, jnp.floor(y_ij + 0.5), jnp.floor(x_ij + 0.5))
    return (
        jnp.where(inside_ij[..., None], image_ijc, 0.0),
        jnp.where(
            inside_ij if labels_ij.ndim == 2 else inside_ij[..., None],
            labels_ij,
            jnp.asarray(IGNORE_LABEL, labels_ij.dtype),
        ),
    )
