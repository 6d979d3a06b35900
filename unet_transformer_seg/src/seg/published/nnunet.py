"""nnU-Net's two-dimensional network: its state dict and our `plain_conv_unet`.

    encoder.stages.0.0.convs.0.conv.weight           params/encoder/stage0/conv1/kernel
    encoder.stages.0.0.convs.0.norm.{weight,bias}    params/encoder/stage0/norm1/{scale,bias}
    decoder.transpconvs.0.{weight,bias}              params/decoder/up5/{kernel,bias}, of seven stages
    decoder.stages.0.convs.0.…                       params/decoder/stage5/…
    decoder.seg_layers.5.{weight,bias}               params/head/{kernel,bias}

There the decoder counts from the coarsest stage, here each stage has the number of the encoder's. The heads on coarser
stages serve deep supervision in training and are dropped. The state dict lists every layer twice (`all_modules`), and
the encoder once more within the decoder. A convolution's bias has no counterpart: the instance norm subtracts it.
"""

from collections.abc import Callable, Mapping

import numpy as np

from seg.config import ModelConfig
from seg.errors import UserError
from seg.published.layers import CONV1X1, CONV2D, UP_CONV, affine
from seg.published.mapping import Pair

ANCHOR = "encoder.stages.0.0.convs.0.conv.weight"


def nnunet_pairs(config: ModelConfig) -> list[Pair]:
    """Return the pairs of every array of a `plain_conv_unet`."""
    settings, pairs = config.plain_conv_unet, []
    for stage, num_convs in enumerate(settings.encoder_convs):
        pairs += _stage(f"encoder/stage{stage}", f"encoder.stages.{stage}.0", num_convs)
    last = len(settings.decoder_convs) - 1
    for stage, num_convs in enumerate(settings.decoder_convs):
        up, their_up = f"params/decoder/up{stage}", f"decoder.transpconvs.{last - stage}"
        pairs.append(Pair(f"{up}/kernel", f"{their_up}.weight", UP_CONV))
        if settings.up_bias:
            pairs.append(Pair(f"{up}/bias", f"{their_up}.bias"))
        pairs += _stage(f"decoder/stage{stage}", f"decoder.stages.{last - stage}", num_convs)
    pairs.append(Pair("params/head/kernel", f"decoder.seg_layers.{last}.weight", CONV1X1))
    pairs.append(Pair("params/head/bias", f"decoder.seg_layers.{last}.bias"))
    return pairs


def _stage(ours: str, theirs: str, num_convs: int) -> list[Pair]:
    """Return the pairs of a stage's convolutions and norms."""
    pairs = []
    for n in range(num_convs):
        pairs.append(Pair(f"params/{ours}/conv{n + 1}/kernel", f"{theirs}.convs.{n}.conv.weight", CONV2D))
        pairs += affine(f"{ours}/norm{n + 1}", f"{theirs}.convs.{n}.norm")
    return pairs


def ignored_in(config: ModelConfig) -> Callable[[str], bool]:
    """Return the function that says whether a tensor without a pair may be dropped."""
    coarser = tuple(f"decoder.seg_layers.{n}." for n in range(len(config.plain_conv_unet.decoder_convs) - 1))
    return lambda name: name.startswith(coarser) or name.endswith(".conv.bias")


def without_repetitions(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors without those that the state dict lists again under other names."""
    return {name: x for name, x in tensors.items() if "decoder.encoder." not in name and ".all_modules." not in name}


def check_is_planar(tensors: Mapping[str, np.ndarray]) -> None:
    """Refuse tensors of another network, by what they are."""
    if "encoder.stem.convs.0.conv.weight" in tensors:
        raise UserError("this is a ResidualEncoderUNet of nnU-Net; only its PlainConvUNet is read")
    if ANCHOR not in tensors:
        some = ", ".join(list(tensors)[:3])
        raise UserError(f"expected the state dict of nnU-Net's PlainConvUNet, found no {ANCHOR} among {some} …")
    if tensors[ANCHOR].ndim == 5:
        raise UserError("this is a 3-D nnU-Net; here images have two dimensions: use its configuration 2d")
