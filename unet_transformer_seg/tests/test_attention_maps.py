"""Attention maps: they are the shares that the model attends by, and the script that draws them."""

import dataclasses
import runpy
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from seg.checkpoints import CheckpointStore
from seg.config import Config, DataConfig, ModelConfig, ToyConfig, TransformerConfig, TransUNetConfig
from seg.data.toy_shapes import ToyShapes
from seg.data.transforms import normalise, to_unit
from seg.errors import UserError
from seg.inference.predictor import Predictor
from seg.models import build_model
from seg.models.unet import Encoder, prepare_image
from seg.models.unet_transformer import Positions, map_to_tokens
from seg.record.run_dir import create_run_dir
from tiny_model import random_variables

SCRIPT = Path(__file__).parents[1] / "scripts" / "tutorial_draw_attention.py"
NAMES = runpy.run_path(str(SCRIPT))
attention_maps, token_grid = NAMES["attention_maps"], NAMES["token_grid"]
lay_heat, mark_pixel = NAMES["lay_heat"], NAMES["mark_pixel"]
TRANSFORMER = TransformerConfig(num_layers=2, num_heads=2, dropout=0.0)


def make_config(**model):
    settings = {"name": "unet_transformer", "num_classes": 6, "base_width": 4, "depth": 2, "transformer": TRANSFORMER}
    return Config(
        model=ModelConfig(**settings | model),
        data=DataConfig(size=(24, 32), toy=ToyConfig(num_train=2, num_val=2, num_test=2)),
    )


def make_predictor(**model):
    config = make_config(**model)
    return Predictor(config, ToyShapes.classes, random_variables(config.model, config.data.size, spread=0.4))


def random_image(rows, columns):
    return np.random.default_rng(0).integers(0, 256, (rows, columns, 3), np.uint8)


def test_the_first_block_attends_by_its_queries_and_keys():
    predictor, image = make_predictor(), random_image(24, 32)
    maps = attention_maps(predictor, image, [(0, 0), (23, 31), (9, 6)])
    assert maps.shape == (3, 2, 2, 6, 8)
    np.testing.assert_allclose(maps.sum((-1, -2)), 1, atol=1e-5)

    config, params = predictor.config.model, predictor.variables["params"]
    x = normalise(to_unit(image[None]), *predictor.config.data.normalisation)
    encoder = {"params": params["encoder"], "batch_stats": predictor.variables["batch_stats"]["encoder"]}

    @jax.jit
    def embed(encoder, image):
        *_, x = Encoder(config).apply(encoder, prepare_image(image, config), False)
        return map_to_tokens(Positions(TRANSFORMER).apply({}, x))[0]

    x = np.asarray(embed(encoder, x), np.float64)
    block = jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float64), params["bottleneck"]["transformer"]["blocks"])
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * block["attention_norm"]["scale"].ravel() + block["attention_norm"]["bias"].ravel()
    query, key = block["attention"]["query"], block["attention"]["key"]
    q = np.einsum("sd,dae->ase", x, query["kernel"]) + query["bias"].reshape(2, 1, -1)
    scores = q @ np.einsum("sd,dae->aes", x, key["kernel"]) / np.sqrt(q.shape[-1])
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    for found, token in zip(maps, (0, 47, 2 * 8 + 1), strict=True):
        np.testing.assert_allclose(found[0].reshape(2, 48), shares[:, token], atol=1e-4)


def test_asking_for_attention_changes_no_answer():
    predictor, image = make_predictor(), random_image(24, 32)[None].astype(np.float32)
    model = build_model(predictor.config.model)
    plain = model.apply(predictor.variables, image, train=False)
    asked, found = model.apply(predictor.variables, image, train=False, mutable=["attention"])
    np.testing.assert_array_equal(plain, asked)
    assert set(predictor.variables) == {"params", "batch_stats"}
    assert [leaf.shape for leaf in jax.tree.leaves(found)] == [(2, 1, 2, 48, 48)]


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        ({}, (24, 32), (4, (6, 8))),
        ({}, (27, 33), (4, (6, 8))),  # pooling drops odd rows
        ({}, (3, 9), (4, (1, 2))),
        ({"stem_stride": 2}, (27, 33), (8, (4, 5))),  # filled up
        ({"name": "transunet"}, (33, 16), (16, (3, 1))),
    ],
)
def test_the_grid_is_that_of_the_tokens(model, size, expected):
    small = {"resnet_width": 4, "resnet_units": (1, 1, 1), "hidden_width": 8, "num_layers": 1, "num_heads": 2}
    small |= {"mlp_width": 8, "bridge_width": 4, "decoder_widths": (4, 4, 4, 4)}
    predictor = make_predictor(**model, transunet=TransUNetConfig(**small))
    assert token_grid(predictor.config.model, size) == expected
    last = (size[0] - 1, size[1] - 1)
    assert attention_maps(predictor, random_image(*size), [last]).shape[-2:] == expected[1]


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="expected a model with a transformer.*found unet"):
        token_grid(make_config(name="unet").model, (24, 32))
    with pytest.raises(UserError, match="found unet_transformer"):
        token_grid(make_config(transformer=TransformerConfig(num_layers=0)).model, (24, 32))
    with pytest.raises(UserError, match="pixel 24 0: the image has 24 rows and 32 columns"):
        attention_maps(make_predictor(), random_image(24, 32), [(24, 0)])


def test_heat_lies_where_the_map_is_high():
    image = np.full((5, 8, 3), 100, np.uint8)
    glowing = lay_heat(image, np.array([[0.0, 0.1], [1.0, 0.0]]), stride=2)
    assert glowing.shape == image.shape
    assert (glowing[0, 0] == 45).all()
    assert (glowing[2:, :2, 0] == 210).all()  # a last row belongs to the token before
    marked = mark_pixel(np.full((40, 40, 3), 100, np.uint8), 20, 10)
    assert (marked[20, 10] == 255).all() and (marked[20, 12] == 255).all() and (marked[25, 15] == 100).all()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with an untrained model."""
    config = dataclasses.replace(make_config(), runs_dir=str(tmp_path_factory.mktemp("runs")))
    run = create_run_dir(config, ToyShapes.classes)
    CheckpointStore(run.checkpoints).save(
        1, jax.device_put(random_variables(config.model, config.data.size, spread=0.4)), {}, best=True
    )
    return run.path


def draw(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return end.value.code


def test_the_script_draws_a_test_image_and_a_file(run, tmp_path, monkeypatch, capsys):
    picture = tmp_path / "two.png"
    assert draw(monkeypatch, "--run", run, "--index", 1, "--at", 20, 31, "--at", 3, 4, "--out", picture) == 0
    shown = capsys.readouterr().out
    assert "6 × 8 tokens, 2 blocks of 2 heads" in shown and "pixel 20 31, block 2: " in shown
    with Image.open(picture) as drawn:
        assert drawn.size[0] > 4 * 200
    Image.fromarray(random_image(40, 20)).save(tmp_path / "photo.png")
    assert draw(monkeypatch, "--run", run, tmp_path / "photo.png", "--out", tmp_path / "photo_attention.png") == 0
    assert (tmp_path / "photo_attention.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--index", 2], "--index: expected 0 to 1, found 2"),
        (["--at", 24, 0], "pixel 24 0: the image has 24 rows"),
        (["--out", "nowhere/x.png"], "expected a .png file in a folder that is there"),
        (["a.png", "b.png"], "expected one image file, found 2"),
        (["missing.png"], "missing.png"),
    ],
)
def test_the_script_refuses_with_a_message(run, arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert draw(monkeypatch, "--run", run, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
