"""The converters of TransUNet's weights, against answers that torch gave and against arrays in Flax's layout.

Recorded with a twin of the network (`tests/parity/transunet_twin.py`) of narrow widths: its weights, an image that is
smaller than the twin reads (it was given zeros below and to the right), and the outputs of its stages.
"""

import dataclasses
import functools
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.checkpoints.arrays import named_arrays
from seg.config import ModelConfig, TransUNetConfig
from seg.errors import UserError
from seg.models import build_model
from seg.published.mapping import export_arrays, import_arrays
from seg.published.r50_vit import read_vit_npz, read_vit_npz_config, vit_npz_pairs, vit_npz_variables
from seg.published.transunet import is_ignored, read_transunet_config, transunet_pairs

RECORDING = Path(__file__).parent / "recorded" / "transunet_tiny.npz"
SOURCE = Path("weights.pth")
SIZES = TransUNetConfig(
    resnet_width=6,
    resnet_units=(1, 2, 1),
    hidden_width=12,
    num_layers=2,
    num_heads=3,
    mlp_width=20,
    position_grid=(3, 3),
    bridge_width=10,
    decoder_widths=(8, 6, 5, 4),
)
CONFIG = ModelConfig(name="transunet", num_classes=3, transunet=SIZES)
QUICK = {"xla_backend_optimization_level": 0}  # compiling takes longer than running here


@functools.cache
def recorded():
    with np.load(RECORDING) as file:
        return dict(file)


@functools.cache
def tensors_of_the_twin():
    """The state dict: the recording keeps names and shapes as text and all values in one row."""
    tensors, start = {}, 0
    for line in recorded()["names"].tobytes().decode().splitlines():
        name, *shape = line.split()
        shape = tuple(map(int, shape))
        size = int(np.prod(shape))
        values = recorded()["tensors"][start : start + size].reshape(shape)
        tensors[name] = values.astype(np.int64) if name.endswith("num_batches_tracked") else values
        start += size
    return tensors


@functools.cache
def shapes_of(config):
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: build_model(config).init(jax.random.key(0), x, False), image)
    return {name: leaf.shape for name, leaf in named_arrays(variables).items()}


def converted():
    return import_arrays(transunet_pairs(CONFIG), tensors_of_the_twin(), shapes_of(CONFIG), SOURCE, is_ignored)


def channels_last(x):
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


# ---- .pth ------------------------------------------------------------------------------------------------------


def test_the_model_is_read_from_the_shapes():
    assert read_transunet_config(tensors_of_the_twin(), num_heads=3) == CONFIG


def test_the_answers_are_those_of_the_twin():
    variables = flax.traverse_util.unflatten_dict(converted(), sep="/")
    image = channels_last(recorded()["x"]).astype(np.float32)
    assert image.shape == (1, 41, 36, 3)
    parts = {"resnet", "positions", "transformer", "bridge", "block0"}
    run = jax.jit(
        lambda v, x: build_model(CONFIG).apply(v, x, False, capture_intermediates=lambda m, _: m.name in parts),
        compiler_options=QUICK,
    )
    logits, state = run(variables, image)
    found = flax.traverse_util.flatten_dict(state["intermediates"], sep=".")
    for name, ours in {
        "transformer.embeddings.hybrid_model": found["resnet.__call__"][0][0],
        "transformer.embeddings": found["tokens.positions.__call__"][0],
        "transformer.encoder": found["tokens.transformer.__call__"][0],
        "decoder.conv_more": found["bridge.__call__"][0],
        "decoder.blocks.0": found["decoder.block0.__call__"][0],
    }.items():
        theirs = channels_last(recorded()[f"mid/{name}"])
        np.testing.assert_allclose(np.reshape(ours, theirs.shape), theirs, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(logits, channels_last(recorded()["y"]), atol=1e-4)


def test_the_tensors_come_back_exactly():
    back = export_arrays(transunet_pairs(CONFIG), converted())
    expected = {name: tensor for name, tensor in tensors_of_the_twin().items() if not is_ignored(name)}
    assert back.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_the_pairs_cover_the_published_network():
    config = ModelConfig(name="transunet", num_classes=9)
    pairs = transunet_pairs(config)
    assert {pair.ours for pair in pairs} == shapes_of(config).keys()
    names = [name for pair in pairs for name in pair.names]
    assert len(names) == len(set(names))
    assert "transformer.embeddings.hybrid_model.body.block3.unit9.conv3.weight" in names


@pytest.mark.parametrize(
    ("heads", "width", "expected"), [(None, 64, 1), (None, 768, 12), (None, 1024, 16), (4, 768, 4)]
)
def test_heads_have_width_64_unless_their_number_is_given(heads, width, expected):
    tensors = dict(tensors_of_the_twin())
    tensors["transformer.embeddings.position_embeddings"] = np.zeros((1, 9, width), np.float32)
    assert read_transunet_config(tensors, heads).transunet.num_heads == expected


RESNET = "transformer.embeddings.hybrid_model"
POSITIONS = "transformer.embeddings.position_embeddings"


@pytest.mark.parametrize(
    ("changes", "heads", "message"),
    [
        ({f"{RESNET}.root.conv.weight": None}, 3, f"expected a TransUNet .*found no {RESNET}.root.conv"),
        ({"segmentation_head.0.weight": np.zeros((3, 4))}, 3, r"segmentation_head.0.weight has the shape \[3, 4\]"),
        ({"decoder.conv_more.0.weight": np.zeros((0, 12, 3, 3))}, 3, "conv_more.0.weight has the shape"),
        ({f"{RESNET}.body.block2.unit1.conv1.weight": None}, 3, "ResNet of 3 blocks, found no .*block2.unit1"),
        ({f"{RESNET}.body.block4.unit1.conv1.weight": np.zeros(1)}, 3, "ResNet of 3 blocks, found a fourth block"),
        ({"transformer.encoder.layer.0.attn.query.weight": None}, 3, "found no transformer.encoder.layer.0.attn"),
        ({POSITIONS: np.zeros((1, 10, 12))}, 3, "found 10, not a square number"),
        ({}, None, "no multiple of 64.*--num-heads"),
        ({}, 5, "5 attention heads do not divide the width 12"),
        ({}, 0, "0 attention heads"),
    ],
)
def test_what_is_no_transunet_is_refused(changes, heads, message):
    tensors = {name: value for name, value in (tensors_of_the_twin() | changes).items() if value is not None}
    with pytest.raises(UserError, match=message):
        read_transunet_config(tensors, heads)


def test_missing_superfluous_and_misshapen_tensors_are_all_listed():
    tensors = tensors_of_the_twin() | {"surplus": np.zeros(2), "segmentation_head.0.bias": np.zeros(4, np.float32)}
    del tensors["transformer.encoder.layer.1.ffn.fc2.bias"]
    with pytest.raises(UserError) as error:
        import_arrays(transunet_pairs(CONFIG), tensors, shapes_of(CONFIG), SOURCE, is_ignored)
    for said in ("3 of its tensors", "surplus", "segmentation_head.0.bias", "layer.1.ffn.fc2.bias: missing"):
        assert said in str(error.value)
    assert "key.bias" not in str(error.value) and "num_batches" not in str(error.value)


# ---- .npz ------------------------------------------------------------------------------------------------------

LAYER = "Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/"


@functools.cache
def arrays_of_flax():
    """The ResNet and the transformer of the twin, as Flax saves them, with what classifies images."""
    pairs = vit_npz_pairs(CONFIG)
    arrays = export_arrays(pairs, converted())
    for name in [name for name in arrays if "/gn" in name or name.startswith("gn")]:
        arrays[name] = arrays[name].reshape(1, 1, 1, -1)
    arrays["Transformer/posembed_input/pos_embedding"][:, 0] = 7  # of the class token
    arrays |= {LAYER.format(n) + "key/bias": np.ones((3, 4), np.float32) for n in range(2)}
    return arrays | {name: np.zeros(5, np.float32) for name in ("cls", "head/kernel", "head/bias", "pre_logits/bias")}


@pytest.fixture
def npz(tmp_path):
    np.savez(tmp_path / "vit.npz", **arrays_of_flax())
    return tmp_path / "vit.npz"


def test_resnet_and_transformer_start_from_the_npz_and_the_decoder_anew(npz, key):
    arrays = read_vit_npz(npz)
    config = read_vit_npz_config(arrays, num_classes=3)
    published = TransUNetConfig()
    as_published = {name: getattr(published, name) for name in ("bridge_width", "decoder_widths")}
    assert config == dataclasses.replace(CONFIG, transunet=dataclasses.replace(SIZES, **as_published))
    found = named_arrays(vit_npz_variables(arrays, npz, CONFIG, key))
    assert {name: array.shape for name, array in found.items()} == shapes_of(CONFIG)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    own = ("resnet", "tokens")
    for name, array in converted().items():
        if name.split("/")[1] in own:
            np.testing.assert_array_equal(found[name], array, err_msg=name)
        else:
            assert not np.array_equal(found[name], array), name
    fresh = jax.eval_shape(lambda: build_model(CONFIG).init(key, jnp.zeros((1, 16, 16, 3)), False))
    assert jax.tree.structure(fresh) == jax.tree.structure(flax.traverse_util.unflatten_dict(found, sep="/"))
    kernel = found["params/decoder/block0/convs/conv1/kernel"]
    assert 0.5 < kernel.std() / np.sqrt(2 / np.prod(kernel.shape[:3])) < 1.5


def test_the_names_are_those_of_the_published_file():
    config = ModelConfig(name="transunet", num_classes=2)
    names = {name for pair in vit_npz_pairs(config) for name in pair.names}
    assert len(names) == 2 + 1 + 16 * 9 + 3 * 3 + 2 + 1 + 2 + 12 * 15
    for name in (
        "conv_root/kernel",
        "gn_root/scale",
        "block1/unit1/conv_proj/kernel",
        "block3/unit9/gn3/bias",
        "embedding/kernel",
        LAYER.format(11) + "out/kernel",
        "Transformer/encoderblock_0/LayerNorm_2/scale",
        "Transformer/encoderblock_0/MlpBlock_3/Dense_1/bias",
        "Transformer/encoder_norm/bias",
    ):
        assert name in names


def test_a_kernel_in_flaxs_layout_is_that_of_the_pth():
    """The first output of the second head reads the inputs that the row of its number holds in torch."""
    kernel = arrays_of_flax()[LAYER.format(0) + "query/kernel"]
    weight = tensors_of_the_twin()["transformer.encoder.layer.0.attn.query.weight"]
    np.testing.assert_array_equal(kernel[:, 1, 0], weight[4])


@pytest.mark.parametrize("kind", ["missing", "text", "cut off", "objects"])
def test_what_is_no_npz_is_refused(npz, tmp_path, kind):
    path = {"missing": tmp_path / "none.npz", "text": tmp_path / "text.npz"}.get(kind, npz)
    if kind == "text":
        path.write_text("weights")
    if kind == "cut off":
        path.write_bytes(path.read_bytes()[:-100])
    if kind == "objects":
        np.savez(path, x=np.array([{}], object))
    with pytest.raises(UserError, match=path.name):
        read_vit_npz(path)


def test_arrays_that_do_not_fit_are_listed(npz, key):
    arrays = read_vit_npz(npz)
    del arrays["conv_root/kernel"]
    with pytest.raises(UserError, match="found no conv_root/kernel"):
        read_vit_npz_config(arrays, num_classes=3)
    with pytest.raises(UserError, match="conv_root/kernel: missing"):
        vit_npz_variables(arrays, npz, CONFIG, key)
