"""Names of the encoders' arrays in files of torchvision, timm, efficientnet-lite and transformers, and ours.

    torchvision, timm     conv1, bn1, layer1.0.{conv1,bn1,…,downsample.0,downsample.1}
    timm                  conv_stem, bn1, blocks.1.0.{conv_pw,bn1,conv_dw,bn2,conv_pwl,bn3}
    efficientnet-lite     _conv_stem, _bn0, _blocks.1.{_expand_conv,_bn0,_depthwise_conv,_bn1,_project_conv,_bn2}
    transformers          patch_embeddings.0.proj, block.0.0.attention.self.query, …, layer_norm.0

Ours are those of `seg.models`: encoder/layer1/unit0/conv1, encoder/stage2/unit0/expand_conv, encoder/stage1/block0/….
Every function returns the pairs of all arrays of an encoder, `theirs` being the prefix of the published names.

Letters: i input channels, o output channels, h w rows and columns of a kernel, d width, a heads, e width of a head.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seg.config import ResNetUNetConfig
from seg.models.efficientnet_lite import StagePlan
from seg.models.mix_transformer import HEADS, REDUCTIONS, Sizes
from seg.models.resnet import KERNELS, plan_units
from seg.published.layers import CONV1X1, CONV2D, affine, batch_norm, conv_norm
from seg.published.mapping import AS_IS, LINEAR, Layout, Pair

DEPTHWISE = Layout(lambda w_c1hw: w_c1hw[:, 0].transpose(1, 2, 0), lambda w_hwc: w_hwc.transpose(2, 0, 1)[:, None])
"""`Conv2d.weight` of as many groups as channels."""


def resnet_pairs(sizes: ResNetUNetConfig, theirs: str = "") -> list[Pair]:
    """Return the pairs of a ResNet."""
    pairs = conv_norm("encoder/conv1", "encoder/norm1", f"{theirs}conv1", f"{theirs}bn1")
    for plan in plan_units(sizes):
        ours, unit = f"encoder/layer{plan.layer}/unit{plan.number}", f"{theirs}layer{plan.layer}.{plan.number}"
        for n in range(1, len(KERNELS[sizes.block]) + 1):
            pairs += conv_norm(f"{ours}/conv{n}", f"{ours}/norm{n}", f"{unit}.conv{n}", f"{unit}.bn{n}")
        if plan.projects:
            down = f"{unit}.downsample"
            pairs += conv_norm(f"{ours}/shortcut_conv", f"{ours}/shortcut_norm", f"{down}.0", f"{down}.1")
    return pairs


def lite_pairs(plans: Sequence[StagePlan], theirs: str = "", *, by_timm: bool = True) -> list[Pair]:
    """Return the pairs of an EfficientNet-Lite under timm's names, or under those of the efficientnet-lite packages."""
    stem = ("conv_stem", "bn1") if by_timm else ("_conv_stem", "_bn0")
    pairs, count = conv_norm("encoder/stem_conv", "encoder/stem_norm", *(theirs + name for name in stem)), 0
    for number, plan in enumerate(plans):
        for i in range(plan.units):
            unit = f"{theirs}blocks.{number}.{i}." if by_timm else f"{theirs}_blocks.{count}."
            pairs += _unit_pairs(f"encoder/stage{number + 1}/unit{i}", unit, plan.expansion > 1, by_timm)
            count += 1
    return pairs


def _unit_pairs(ours: str, theirs: str, expands: bool, by_timm: bool) -> list[Pair]:
    """Return the pairs of an inverted residual unit; timm counts the norms that are there, the packages do not."""
    layers = ["expand"] * expands + ["depthwise", "project"]
    timm_names = ["conv_pw", "conv_dw", "conv_pwl"] if expands else ["conv_dw", "conv_pw"]
    pairs = []
    for n, (layer, timm_name) in enumerate(zip(layers, timm_names, strict=True)):
        norm_number = n if expands else n + 1
        their_conv, their_norm = (timm_name, f"bn{n + 1}") if by_timm else (f"_{layer}_conv", f"_bn{norm_number}")
        layout = DEPTHWISE if layer == "depthwise" else CONV2D
        pairs.append(Pair(f"params/{ours}/{layer}_conv/kernel", f"{theirs}{their_conv}.weight", layout))
        pairs += batch_norm(f"{ours}/{layer}_norm", theirs + their_norm)
    return pairs


def mit_pairs(sizes: Sizes, theirs: str = "") -> list[Pair]:
    """Return the pairs of a MiT under the names of transformers; the keys' biases have no array here."""
    pairs = []
    for i, (count, heads, reduction) in enumerate(zip(sizes.blocks, HEADS, REDUCTIONS, strict=False)):
        stage, embed = f"encoder/stage{i + 1}", f"{theirs}patch_embeddings.{i}"
        pairs += _with_bias(f"{stage}/embed", f"{embed}.proj", CONV2D)
        pairs += affine(f"{stage}/embed_norm", f"{embed}.layer_norm") + affine(
            f"{stage}/norm", f"{theirs}layer_norm.{i}"
        )
        for n in range(count):
            pairs += _block_pairs(f"{stage}/block{n}", f"{theirs}block.{i}.{n}", heads, reduction)
    return pairs


def is_key_bias(name: str) -> bool:
    """Return whether a tensor of transformers is a bias of keys: it adds the same to all scores of a query."""
    return name.endswith(".attention.self.key.bias")


def _block_pairs(ours: str, theirs: str, heads: int, reduction: int) -> list[Pair]:
    inner, to_heads = f"{theirs}.attention.self", split_heads(heads)
    pairs = affine(f"{ours}/attention_norm", f"{theirs}.layer_norm_1")
    pairs += affine(f"{ours}/feed_forward_norm", f"{theirs}.layer_norm_2")
    for name in ("query", "key", "value"):
        pairs.append(Pair(f"params/{ours}/attention/{name}/kernel", f"{inner}.{name}.weight", to_heads))
    bias = Layout(lambda b_d: b_d.reshape(heads, -1), lambda b_ae: b_ae.reshape(-1))
    for name in ("query", "value"):
        pairs.append(Pair(f"params/{ours}/attention/{name}/bias", f"{inner}.{name}.bias", bias))
    pairs += _with_bias(f"{ours}/attention/out", f"{theirs}.attention.output.dense", join_heads(heads))
    if reduction > 1:
        pairs += _with_bias(f"{ours}/reduce/dense", f"{inner}.sr", blocks_to_token(reduction))
        pairs += affine(f"{ours}/reduce_norm", f"{inner}.layer_norm")
    pairs += _with_bias(f"{ours}/feed_forward/dense1", f"{theirs}.mlp.dense1", LINEAR)
    pairs += _with_bias(f"{ours}/feed_forward/depthwise_conv", f"{theirs}.mlp.dwconv.dwconv", DEPTHWISE)
    return pairs + _with_bias(f"{ours}/feed_forward/dense2", f"{theirs}.mlp.dense2", LINEAR)


def _with_bias(ours: str, theirs: str, layout: Layout) -> list[Pair]:
    return [
        Pair(f"params/{ours}/kernel", f"{theirs}.weight", layout),
        Pair(f"params/{ours}/bias", f"{theirs}.bias", AS_IS),
    ]


def split_heads(heads: int) -> Layout:
    """Return the layout of a linear map to `heads` heads: [d', d] there, [d, a, e] here."""
    return Layout(
        lambda w_oi: w_oi.T.reshape(w_oi.shape[1], heads, -1), lambda w_iae: w_iae.reshape(w_iae.shape[0], -1).T
    )


def join_heads(heads: int) -> Layout:
    """Return the layout of a linear map from `heads` heads: [d, d'] there, [a, e, d] here."""
    return Layout(
        lambda w_oi: w_oi.T.reshape(heads, -1, w_oi.shape[0]), lambda w_aeo: w_aeo.reshape(-1, w_aeo.shape[-1]).T
    )


def blocks_to_token(factor: int) -> Layout:
    """Return the layout of a convolution whose kernel is its stride: [o, i, r, r] there, [r·r·i, o] here."""

    def to_theirs(w_fo: np.ndarray) -> np.ndarray:
        return w_fo.reshape(factor, factor, -1, w_fo.shape[-1]).transpose(3, 2, 0, 1)

    return Layout(lambda w_oihw: w_oihw.transpose(2, 3, 1, 0).reshape(-1, w_oihw.shape[0]), to_theirs)


class SegFormerNames(NamedTuple):
    """The names of SegFormer's decoder in another package, without `.weight`."""

    projections: tuple[str, ...]  # of the linear maps, that of the finest map first
    fuse: str
    norm: str
    head: str


IN_TRANSFORMERS = SegFormerNames(
    tuple(f"decode_head.linear_c.{i}.proj" for i in range(4)),
    "decode_head.linear_fuse",
    "decode_head.batch_norm",
    "decode_head.classifier",
)
IN_SMP = SegFormerNames(
    tuple(f"decoder.mlp_stage.{i}.linear" for i in (3, 2, 1, 0)),
    "decoder.fuse_stage.0",
    "decoder.fuse_stage.1",
    "segmentation_head.0",
)


def segformer_decoder_pairs(names: SegFormerNames) -> list[Pair]:
    """Return the pairs of SegFormer's decoder and head; both packages concatenate the coarsest map first."""
    num_maps = len(names.projections)
    fuse = Layout(
        lambda w_oi11: w_oi11[:, :, 0, 0].T.reshape(num_maps, -1, w_oi11.shape[0])[::-1],
        lambda w_mio: w_mio[::-1].reshape(-1, w_mio.shape[-1]).T[:, :, None, None],
    )
    pairs = [Pair("params/decoder/fuse", f"{names.fuse}.weight", fuse), *batch_norm("decoder/norm", names.norm)]
    for i, name in enumerate(names.projections):
        pairs += _with_bias(f"decoder/project{i}", name, LINEAR)
    return pairs + _with_bias("head", names.head, CONV1X1)
