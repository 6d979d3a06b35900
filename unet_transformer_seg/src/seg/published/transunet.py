"""TransUNet as its authors save it: its state dict and our `transunet`.

    transformer.embeddings.hybrid_model.root.{conv,gn}       params/resnet/root_{conv,norm}
    ….hybrid_model.body.block1.unit1.{conv1,gn1,…}           params/resnet/block1/unit1/{conv1,norm1,…}
    ….unit1.{downsample,gn_proj}                             …/unit1/project_{conv,norm}
    transformer.embeddings.patch_embeddings                  params/tokens/embedding
    transformer.embeddings.position_embeddings               params/tokens/positions/table
    transformer.encoder.layer.{0,1,…}.{attn,ffn,…}           params/tokens/transformer/blocks/…, all layers in one array
    transformer.encoder.encoder_norm                         params/tokens/transformer/norm
    decoder.conv_more.{0,1}                                  params/bridge/{conv,norm}
    decoder.blocks.0.conv1.{0,1}                             params/decoder/block0/convs/{conv1,norm1}
    segmentation_head.0                                      params/head

The keys' bias has no counterpart: it shifts all scores of a query equally, and the softmax cancels it.

Letters: d width of the tokens, a attention heads, i inputs, o outputs.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from seg.config import ModelConfig, TransUNetConfig
from seg.errors import UserError
from seg.published.layers import CONV1X1, CONV2D, COUNTER, affine, conv_norm, count
from seg.published.mapping import AS_IS, LINEAR, Layout, Pair

HEAD_WIDTH = 64
NUM_BLOCKS = 4
EMBEDDINGS = "transformer.embeddings"
ANCHOR = f"{EMBEDDINGS}.position_embeddings"
RESNET = f"{EMBEDDINGS}.hybrid_model"
LAYER = "transformer.encoder.layer"
BLOCKS = "params/tokens/transformer/blocks"


def is_ignored(name: str) -> bool:
    """Return whether a tensor takes no part in predictions: a batch counter, or the keys' bias."""
    return name.endswith((COUNTER, ".attn.key.bias"))


def read_transunet_config(tensors: Mapping[str, np.ndarray], num_heads: int | None = None) -> ModelConfig:
    """Return the model of a state dict: widths, depths and classes from its shapes.

    No shape shows the number of attention heads; None takes heads of width 64, as in every published ViT.
    """

    def shape(name: str, rank: int) -> tuple[int, ...]:
        return shape_of(tensors, name, rank, "a TransUNet with a ResNet (R50-ViT), by its state dict")

    convs = [shape(f"decoder.blocks.{i}.conv1.0.weight", 4) for i in range(NUM_BLOCKS)]
    widths = tuple(conv[0] for conv in convs)
    bridge_width = shape("decoder.conv_more.0.weight", 4)[0]
    skips = [conv[1] - below for conv, below in zip(convs, (bridge_width, *widths[:-1]), strict=True)]
    _, positions, hidden_width = shape(f"{EMBEDDINGS}.position_embeddings", 3)
    settings = TransUNetConfig(
        resnet_width=shape(f"{RESNET}.root.conv.weight", 4)[0],
        resnet_units=count_units(tensors, f"{RESNET}.body.block{{}}.unit{{}}.conv1.weight"),
        hidden_width=hidden_width,
        num_layers=count_layers(tensors, f"{LAYER}.{{}}.attn.query.weight"),
        num_heads=_heads(hidden_width, num_heads),
        mlp_width=shape(f"{LAYER}.0.ffn.fc1.weight", 2)[0],
        position_grid=square_grid(positions),
        bridge_width=bridge_width,
        decoder_widths=widths,
        num_skips=sum(channels > 0 for channels in skips[:3]),
    )
    return ModelConfig(name="transunet", num_classes=shape("segmentation_head.0.weight", 4)[0], transunet=settings)


def transunet_pairs(config: ModelConfig) -> list[Pair]:
    """Return the pairs of every array of the model."""
    pairs = [Pair("params/resnet/root_conv/kernel", f"{RESNET}.root.conv.weight", CONV2D)]
    pairs += affine("resnet/root_norm", f"{RESNET}.root.gn")
    for conv, norm, their_conv, their_norm in resnet_layers(config.transunet, "downsample", "."):
        pairs.append(Pair(f"params/{conv}/kernel", f"{RESNET}.body.{their_conv}.weight", CONV2D))
        pairs += affine(norm, f"{RESNET}.body.{their_norm}")
    return pairs + _token_pairs(config.transunet) + _decoder_pairs()


def _token_pairs(settings: TransUNetConfig) -> list[Pair]:
    d, a = settings.hidden_width, settings.num_heads
    to_heads = Layout(lambda w_oi: w_oi.T.reshape(d, a, d // a), lambda w_iae: w_iae.reshape(d, d).T)
    bias_to_heads = Layout(lambda b_o: b_o.reshape(a, d // a), lambda b_ae: b_ae.reshape(d))
    from_heads = Layout(lambda w_oi: w_oi.T.reshape(a, d // a, d), lambda w_aeo: w_aeo.reshape(d, d).T)

    def stacked(ours: str, theirs: str, layout: Layout = AS_IS) -> Pair:
        return Pair(f"{BLOCKS}/{ours}", tuple(f"{LAYER}.{n}.{theirs}" for n in range(settings.num_layers)), layout)

    pairs = [
        Pair("params/tokens/embedding/kernel", f"{EMBEDDINGS}.patch_embeddings.weight", CONV1X1),
        Pair("params/tokens/embedding/bias", f"{EMBEDDINGS}.patch_embeddings.bias"),
        Pair("params/tokens/positions/table", f"{EMBEDDINGS}.position_embeddings", positions(settings, num_extra=0)),
        *affine("tokens/transformer/norm", "transformer.encoder.encoder_norm"),
        *[stacked(f"attention/{name}/kernel", f"attn.{name}.weight", to_heads) for name in ("query", "key", "value")],
        *[stacked(f"attention/{name}/bias", f"attn.{name}.bias", bias_to_heads) for name in ("query", "value")],
        stacked("attention/out/kernel", "attn.out.weight", from_heads),
        stacked("attention/out/bias", "attn.out.bias"),
    ]
    for n in (1, 2):
        pairs.append(stacked(f"feed_forward/dense{n}/kernel", f"ffn.fc{n}.weight", LINEAR))
        pairs.append(stacked(f"feed_forward/dense{n}/bias", f"ffn.fc{n}.bias"))
    for ours, theirs in (("attention_norm", "attention_norm"), ("feed_forward_norm", "ffn_norm")):
        pairs += [stacked(f"{ours}/scale", f"{theirs}.weight"), stacked(f"{ours}/bias", f"{theirs}.bias")]
    return pairs


def _decoder_pairs() -> list[Pair]:
    convs = [("bridge/conv", "bridge/norm", "decoder.conv_more")]
    for i in range(NUM_BLOCKS):
        ours = f"decoder/block{i}/convs"
        convs += [(f"{ours}/conv{n}", f"{ours}/norm{n}", f"decoder.blocks.{i}.conv{n}") for n in (1, 2)]
    pairs = [pair for conv, norm, theirs in convs for pair in conv_norm(conv, norm, f"{theirs}.0", f"{theirs}.1")]
    pairs.append(Pair("params/head/kernel", "segmentation_head.0.weight", CONV2D))
    pairs.append(Pair("params/head/bias", "segmentation_head.0.bias"))
    return pairs


def resnet_layers(settings: TransUNetConfig, projection: str, separator: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield, for each layer of the ResNet, convolution and norm here, and convolution and norm there.

    There, `projection` is the name of a shortcut's convolution, and `separator` is between the parts of a name.
    """
    for block, num_units in enumerate(settings.resnet_units, start=1):
        for unit in range(1, num_units + 1):
            ours, theirs = f"resnet/block{block}/unit{unit}", f"block{block}{separator}unit{unit}{separator}"
            for n in (1, 2, 3):
                yield f"{ours}/conv{n}", f"{ours}/norm{n}", f"{theirs}conv{n}", f"{theirs}gn{n}"
            if unit == 1:
                yield f"{ours}/project_conv", f"{ours}/project_norm", f"{theirs}{projection}", f"{theirs}gn_proj"


def positions(settings: TransUNetConfig, num_extra: int) -> Layout:
    """Return the layout of the positions: [1, num_extra + h·w, d] there, a table [h, w, d] here.

    The first `num_extra`, of a class token, are dropped; on the way back they are zeros.
    """
    (h, w), d = settings.position_grid, settings.hidden_width

    def to_theirs(table_hwd: np.ndarray) -> np.ndarray:
        extra_nd = np.zeros((num_extra, d), table_hwd.dtype)
        return np.concatenate([extra_nd, table_hwd.reshape(h * w, d)])[None]

    return Layout(lambda x_1nd: x_1nd[0, num_extra:].reshape(h, w, d), to_theirs)


def shape_of(tensors: Mapping[str, np.ndarray], name: str, rank: int, expected: str) -> tuple[int, ...]:
    """Return the shape of a tensor, not empty and of this rank; an error says what was `expected` of the file."""
    if name not in tensors:
        some = ", ".join(list(tensors)[:3])
        raise UserError(f"expected {expected}, found no {name} among its {len(tensors)} tensors ({some} …)")
    shape = tensors[name].shape
    if len(shape) != rank or 0 in shape:
        raise UserError(f"expected {expected}, but its {name} has the shape {list(shape)}, not {rank} axes")
    return shape


def count_layers(tensors: Mapping[str, np.ndarray], name: str) -> int:
    """Return the number of transformer layers, at least 1; `name` is a tensor's, with {} for the layer."""
    num_layers = count(tensors, name)
    if not num_layers:
        raise UserError(f"expected the layers of a transformer, found no {name.format(0)}")
    return num_layers


def count_units(tensors: Mapping[str, np.ndarray], name: str) -> tuple[int, int, int]:
    """Return the units in each of the ResNet's 3 blocks; `name` is a tensor's, with {} for block and unit."""
    counts = [count(tensors, name.format(block, "{}"), start=1) for block in (1, 2, 3)]
    if 0 in counts:
        raise UserError(f"expected a ResNet of 3 blocks, found no {name.format(counts.index(0) + 1, 1)}")
    if name.format(4, 1) in tensors:
        raise UserError(f"expected a ResNet of 3 blocks, found a fourth block, {name.format(4, 1)}")
    return tuple(counts)


def square_grid(num_positions: int) -> tuple[int, int]:
    """Return rows and columns of the positions of a square image."""
    side = math.isqrt(max(num_positions, 0))
    if not side or side**2 != num_positions:
        raise UserError(f"expected positions of a square image, found {num_positions}, not a square number")
    return side, side


def _heads(hidden_width: int, num_heads: int | None) -> int:
    """Return `num_heads`, or as many heads of width 64 as fit."""
    if num_heads is None and hidden_width % HEAD_WIDTH:
        raise UserError(
            f"no tensor shows the number of attention heads, and the width {hidden_width} is no multiple of "
            f"{HEAD_WIDTH}, the width of published heads; set it, for example --num-heads 4"
        )
    heads = hidden_width // HEAD_WIDTH if num_heads is None else num_heads
    if heads < 1 or hidden_width % heads:
        raise UserError(f"{heads} attention heads do not divide the width {hidden_width} of the tokens")
    return heads
