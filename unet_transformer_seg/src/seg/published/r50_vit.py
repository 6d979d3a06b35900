"""`R50+ViT-B_16.npz`: ResNet and transformer of `transunet`, trained on ImageNet-21k.

    conv_root, gn_root                                       params/resnet/root_{conv,norm}
    block1/unit1/{conv1,gn1,…,conv_proj,gn_proj}             params/resnet/block1/unit1/{conv1,norm1,…,project_…}
    embedding                                                params/tokens/embedding
    Transformer/posembed_input/pos_embedding                 params/tokens/positions/table
    Transformer/encoderblock_{0,1,…}/…                       params/tokens/transformer/blocks/…, all layers in one array
    Transformer/encoder_norm                                 params/tokens/transformer/norm

The file was written by Flax, so its layouts are ours. It has neither decoder nor head: a network that starts from it
initialises those. What classifies images is dropped (the class token, its position and the head), and so is the keys'
bias, which the softmax cancels.

The shortcuts' norms had 32 groups when these weights were trained; TransUNet, which starts from them, gives each
channel its own group, and so does the model here.
"""

import lzma
import os
import re
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from seg.checkpoints.arrays import named_arrays
from seg.config import ModelConfig, TransUNetConfig
from seg.data.image_file import naming_file
from seg.data.images.array_file import read_npy
from seg.errors import UserError
from seg.files import open_file
from seg.models import build_model
from seg.models.resnet_v2 import DOWNSAMPLING
from seg.published.mapping import Layout, Pair, import_arrays
from seg.published.transunet import BLOCKS, count_layers, count_units, positions, resnet_layers, shape_of, square_grid

MAX_UNPACKED = 16  # largest unpacked size as a multiple of the file's; trained weights hardly compress
SLACK_BYTES = 16 << 20  # unpacked bytes allowed beyond that: arrays of zeros compress to nothing

NPZ_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError)
NPZ_ERRORS += (ArithmeticError, AttributeError, EOFError, LookupError, RuntimeError, SyntaxError, TypeError, ValueError)
"""Exceptions that a damaged archive or header may cause; an encrypted one, a RuntimeError."""


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an `.npz` by name, or refuse one that is damaged or unpacks to far more than its size."""
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive, naming_file(path):
            unpacked, size = sum(info.file_size for info in archive.infolist()), os.fstat(file.fileno()).st_size
            if unpacked > MAX_UNPACKED * size + SLACK_BYTES:
                raise UserError(f"its arrays have {unpacked} bytes, the file {size}; weights do not compress that well")
            entries = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            return {info.filename.removesuffix(".npy"): _read_array(archive, info) for info in entries}
    except UserError:
        raise
    except NPZ_ERRORS as error:
        raise UserError(f"{path}: expected an .npz with arrays of numbers ({error!s:.200})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Return one array, after checking its header against the entry's size."""
    with archive.open(info) as entry:

        def check(shape: tuple[int, ...], num_bytes: int) -> None:
            size = info.file_size - entry.tell()
            if min(shape, default=0) < 0 or num_bytes != size:
                raise ValueError(f"{info.filename[:80]}: {size} bytes for the shape {shape!s:.80}")

        return read_npy(entry, info.file_size, check)  # reading to the end also checks the checksum


KINDS = ("kernel", "bias")
ATTENTION = "MultiHeadDotProductAttention_1"
LAYER = "Transformer/encoderblock_{}"
POSITIONS = "Transformer/posembed_input/pos_embedding"

FLAX_CONV1X1 = Layout(lambda w_11io: w_11io[0, 0], lambda w_io: w_io[None, None])
"""Kernel of a 1 × 1 convolution in Flax, which here is a linear map."""


def read_vit_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the file; scale and bias of a group norm as vectors instead of [1, 1, 1, c]."""
    is_of_norm = re.compile("(^|/)gn").search
    return {name: x.reshape(-1) if is_of_norm(name) else x for name, x in read_npz(path).items()}


def is_ignored_npz(name: str) -> bool:
    """Return whether an array takes no part in predictions: it classifies images, or is the keys' bias."""
    return name == "cls" or name.startswith(("head/", "pre_logits/")) or name.endswith(f"{ATTENTION}/key/bias")


def read_vit_npz_config(arrays: Mapping[str, np.ndarray], num_classes: int) -> ModelConfig:
    """Return the model that starts from the arrays: widths and depths from their shapes, the decoder as published."""

    def shape(name: str, rank: int) -> tuple[int, ...]:
        return shape_of(arrays, name, rank, "a hybrid of ResNet and ViT in Flax's layout (R50+ViT)")

    _, num_positions, hidden_width = shape(POSITIONS, 3)
    settings = TransUNetConfig(
        resnet_width=shape("conv_root/kernel", 4)[3],
        resnet_units=count_units(arrays, "block{}/unit{}/conv1/kernel"),
        hidden_width=hidden_width,
        num_layers=count_layers(arrays, f"{LAYER}/{ATTENTION}/query/kernel"),
        num_heads=shape(f"{LAYER.format(0)}/{ATTENTION}/query/kernel", 3)[1],
        mlp_width=shape(f"{LAYER.format(0)}/MlpBlock_3/Dense_0/kernel", 2)[1],
        position_grid=square_grid(num_positions - 1),
    )
    return ModelConfig(name="transunet", num_classes=num_classes, transunet=settings)


def vit_npz_pairs(config: ModelConfig) -> list[Pair]:
    """Return the pairs of the arrays that the file has."""
    settings = config.transunet
    pairs = [Pair("params/resnet/root_conv/kernel", "conv_root/kernel"), *_affine("params/resnet/root_norm", "gn_root")]
    for conv, norm, their_conv, their_norm in resnet_layers(settings, "conv_proj", "/"):
        pairs.append(Pair(f"params/{conv}/kernel", f"{their_conv}/kernel"))
        pairs += _affine(f"params/{norm}", their_norm)
    pairs += [
        Pair("params/tokens/embedding/kernel", "embedding/kernel", FLAX_CONV1X1),
        Pair("params/tokens/embedding/bias", "embedding/bias"),
        Pair("params/tokens/positions/table", POSITIONS, positions(settings, num_extra=1)),
        *_affine("params/tokens/transformer/norm", "Transformer/encoder_norm"),
    ]
    return pairs + _layer_pairs(settings)


def vit_npz_variables(arrays: Mapping[str, np.ndarray], path: Path, config: ModelConfig, key: jax.Array) -> dict:
    """Return `params` and `batch_stats` with ResNet and transformer from the file, the rest initialised by `key`."""
    model = build_model(config)

    def init(key):
        return named_arrays(model.init(key, jnp.zeros((1, DOWNSAMPLING, DOWNSAMPLING, 3)), train=False))

    pairs = vit_npz_pairs(config)
    from_file = {pair.ours for pair in pairs}
    shapes = {name: leaf.shape for name, leaf in jax.eval_shape(init, key).items() if name in from_file}
    ours = import_arrays(pairs, arrays, shapes, path, is_ignored_npz)
    # Under jit, XLA removes the forward pass and the initialisation of arrays that the file has.
    fresh = jax.jit(lambda key: {name: leaf for name, leaf in init(key).items() if name not in from_file})(key)
    return flax.traverse_util.unflatten_dict(fresh | ours, sep="/")


def _layer_pairs(settings: TransUNetConfig) -> list[Pair]:
    """Return the pairs of the transformer's layers, which are stacked here."""
    kernel_and_bias = {f"attention/{name}": f"{ATTENTION}/{name}" for name in ("query", "key", "value", "out")}
    kernel_and_bias |= {f"feed_forward/dense{n + 1}": f"MlpBlock_3/Dense_{n}" for n in (0, 1)}
    parts = [(f"{ours}/{kind}", f"{theirs}/{kind}") for ours, theirs in kernel_and_bias.items() for kind in KINDS]
    for ours, theirs in (("attention_norm", "LayerNorm_0"), ("feed_forward_norm", "LayerNorm_2")):
        parts += [(f"{ours}/{kind}", f"{theirs}/{kind}") for kind in ("scale", "bias")]
    return [
        Pair(f"{BLOCKS}/{ours}", tuple(f"{LAYER.format(n)}/{theirs}" for n in range(settings.num_layers)))
        for ours, theirs in parts
        if ours != "attention/key/bias"
    ]


def _affine(ours: str, theirs: str) -> list[Pair]:
    """Return the pairs of a norm's scale and bias."""
    return [Pair(f"{ours}/{kind}", f"{theirs}/{kind}") for kind in ("scale", "bias")]
