"""Augmentation of a training batch on the device: jitted, batched, each change a pure function of its key.

Images are float32[b, h, w, c] in 0…1, labels integer[b, h, w], or [b, h, w, k] if classes overlap, with 255 =
ignored.

Letters: b batch, h w pixels, c channels, k classes.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from seg.classes import IGNORE_LABEL
from seg.config import DataConfig
from seg.data.geometry import Pair, check_batch, random_flip, random_resized_crop, random_rotation
from seg.data.images.channels import LUMA

Change = Callable[[jax.Array, jax.Array, jax.Array], Pair]
"""`change(key, image_bhwc, labels_bhw) → (image_bhwc, labels_bhw)`."""


def make_augment(config: DataConfig) -> Change:
    """Return the augmentation of a batch.

    It takes images of `config.precision` and labels of `config.size` and returns normalised float32 images and int32
    labels of the crop's size. Only changes that `config.augment` enables are traced.
    """
    changes = _changes(config)

    def augment(key: jax.Array, image_bhwc: jax.Array, labels_bhw: jax.Array) -> Pair:
        check_batch(image_bhwc, labels_bhw, config.precision)
        image_bhwc = to_unit(image_bhwc)  # the host sends bytes, if it can: a quarter of the floats
        # One key for each change, so that each draws independently of the others.
        for number, change in enumerate(changes):
            image_bhwc, labels_bhw = change(jax.random.fold_in(key, number), image_bhwc, labels_bhw)
        return normalise(image_bhwc, *config.normalisation), labels_bhw.astype(jnp.int32)

    return augment


def make_preprocess(config: DataConfig) -> Callable[[jax.Array, jax.Array], Pair]:
    """Return `preprocess(image_bhwc, labels_bhw) → (image_bhwc normalised float32, labels_bhw int32)`."""

    def preprocess(image_bhwc: jax.Array, labels_bhw: jax.Array) -> Pair:
        check_batch(image_bhwc, labels_bhw, config.precision)
        return normalise(to_unit(image_bhwc), *config.normalisation), labels_bhw.astype(jnp.int32)

    return preprocess


def _changes(config: DataConfig) -> list[Change]:
    """Return the enabled changes in the order of application."""
    augment = config.augment
    crop = tuple(c or s for c, s in zip(augment.crop, config.size, strict=True))
    colour = {name: getattr(augment, name) for name in ("brightness", "contrast", "saturation", "hue")}
    # Images with mean 0 and deviation 1 have no black and white.
    is_clipped = config.normalise == "data_set"
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
        changes.append(lambda k, x, y: (jitter_colour(k, x, **colour, is_clipped=is_clipped), y))
    if augment.blur:
        changes.append(lambda k, x, y: (random_blur(k, x, probability=augment.blur), y))
    if augment.noise:
        changes.append(lambda k, x, y: (random_noise(k, x, largest_std=augment.noise, is_clipped=is_clipped), y))
    return changes


def to_unit(image_bhwc: jax.Array) -> jax.Array:
    """Return an image as float32 in 0…1: bytes divided by 255, floats as they are."""
    return image_bhwc.astype(jnp.float32) / 255.0 if image_bhwc.dtype == jnp.uint8 else image_bhwc


def normalise(image_bhwc: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Return (image − mean) / std, for each channel."""
    chex.assert_shape(image_bhwc, (..., len(mean)))
    mean_111c, std_111c = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, -1) for v in (mean, std))
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


BLUR_SIGMA = (0.5, 1.5)  # range of the blur's standard deviation in pixels
BLUR_RADIUS = 4


def jitter_colour(
    key: jax.Array,
    image_bhwc: jax.Array,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    is_clipped: bool = True,
) -> jax.Array:
    """Return images with randomly changed colours, one draw per sample, clipped to 0…1.

    In this order: brightness x·f; contrast m + (x − m)·f about the sample's mean grey m; saturation
    g + (x − g)·f about the pixel's grey g; hue, a rotation about the grey axis. f is uniform in 1 ± the setting,
    the rotation in ± `hue` of a full circle. Other images than RGB have no colours: their grey is the mean of the
    channels, and only brightness and contrast change.
    """
    batch, channels = image_bhwc.shape[0], image_bhwc.shape[3]
    limits_41 = jnp.asarray([brightness, contrast, saturation, hue], jnp.float32)[:, None]
    change_4b = limits_41 * jax.random.uniform(key, (4, batch), minval=-1.0, maxval=1.0)
    bright_b, contrast_b, saturation_b = 1.0 + change_4b[:3]
    if channels != 3:
        mean_grey_b = bright_b * image_bhwc.mean((1, 2, 3))
        factor_b, shift_b = bright_b * contrast_b, mean_grey_b * (1.0 - contrast_b)
        changed_bhwc = factor_b[:, None, None, None] * image_bhwc + shift_b[:, None, None, None]
        return jnp.clip(changed_bhwc, 0.0, 1.0) if is_clipped else changed_bhwc
    luma_c = jnp.asarray(LUMA, jnp.float32)
    mean_grey_b = bright_b * jnp.sum(image_bhwc.mean((1, 2)) * luma_c[None], axis=-1)

    # All four are linear, so together they are one 3×3 matrix and one shift per sample.
    saturation_b11 = saturation_b[:, None, None]
    to_grey_1cc = jnp.broadcast_to(luma_c, (1, 3, 3))
    keep_bcc = saturation_b11 * jnp.eye(3)[None] + (1.0 - saturation_b11) * to_grey_1cc
    turned_bcc = jnp.einsum("bij,bjk->bik", jax.vmap(hue_turn)(change_4b[3]), keep_bcc, precision="highest")
    matrix_bcc = (bright_b * contrast_b)[:, None, None] * turned_bcc
    shift_b = mean_grey_b * (1.0 - contrast_b)
    # Written out over the three colours: ten times faster on CPU than a batched 3×3 matrix product.
    shares = (image_bhwc[..., c : c + 1] * matrix_bcc[:, None, None, :, c] for c in range(3))
    changed_bhwc = sum(shares) + shift_b[:, None, None, None]
    return jnp.clip(changed_bhwc, 0.0, 1.0) if is_clipped else changed_bhwc


def hue_turn(turn: jax.Array) -> jax.Array:
    """Return the 3×3 matrix that rotates colours about the grey axis and keeps their sum; `turn` in full circles.

    Rodrigues' formula about (1, 1, 1)/√3: R = cos·I + (1 − cos)/3 + sin/√3·[cross product].
    """
    sine, cosine = jnp.sin(2 * jnp.pi * turn), jnp.cos(2 * jnp.pi * turn)
    cross_cc = jnp.asarray([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    return cosine * jnp.eye(3) + (1.0 - cosine) / 3.0 + sine / jnp.sqrt(3.0) * cross_cc


def random_blur(key: jax.Array, image_bhwc: jax.Array, *, probability: float) -> jax.Array:
    """Return the images, each blurred with a probability by a Gaussian of random width (BLUR_SIGMA)."""
    chex.assert_rank(image_bhwc, 4)
    use_key, sigma_key = jax.random.split(key)
    batch = image_bhwc.shape[0]
    use_b = jax.random.bernoulli(use_key, probability, (batch,))
    sigma_b = jax.random.uniform(sigma_key, (batch,), minval=BLUR_SIGMA[0], maxval=BLUR_SIGMA[1])
    offset_t = jnp.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, dtype=jnp.float32)
    weights_bt = jax.nn.softmax(-0.5 * (offset_t[None] / sigma_b[:, None]) ** 2, axis=-1)
    # An unblurred sample gets the identity filter: all samples take the same program.
    weights_bt = jnp.where(use_b[:, None], weights_bt, (offset_t == 0.0).astype(jnp.float32)[None])
    return filter_axis(filter_axis(image_bhwc, weights_bt, axis=1), weights_bt, axis=2)


def filter_axis(image_bhwc: jax.Array, weights_bt: jax.Array, *, axis: int) -> jax.Array:
    """Return Σ_t weights[t] · image shifted by t with repeated edges; one odd-sized filter per sample."""
    size, radius = image_bhwc.shape[axis], weights_bt.shape[1] // 2
    padding = [(radius, radius) if a == axis else (0, 0) for a in range(4)]
    padded = jnp.pad(image_bhwc, padding, mode="edge")
    shifted = (jax.lax.slice_in_dim(padded, t, t + size, axis=axis) for t in range(2 * radius + 1))
    return sum(weights_bt[:, t, None, None, None] * x_bhwc for t, x_bhwc in enumerate(shifted))


def random_noise(key: jax.Array, image_bhwc: jax.Array, *, largest_std: float, is_clipped: bool = True) -> jax.Array:
    """Return images with Gaussian noise of a random standard deviation up to `largest_std`, clipped to 0…1."""
    chex.assert_rank(image_bhwc, 4)
    std_key, noise_key = jax.random.split(key)
    std_b111 = largest_std * jax.random.uniform(std_key, (image_bhwc.shape[0], 1, 1, 1))
    noisy_bhwc = image_bhwc + std_b111 * jax.random.normal(noise_key, image_bhwc.shape)
    return jnp.clip(noisy_bhwc, 0.0, 1.0) if is_clipped else noisy_bhwc
