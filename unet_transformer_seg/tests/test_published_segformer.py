"""The converter of SegFormer, against answers that transformers gave, with weights drawn by their names."""

import functools
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from drawn_tensors import NARROW_MIT, draw_image, draw_tensor
from seg.checkpoints.safetensors_file import write_safetensors
from seg.errors import UserError
from seg.models import build_model
from seg.models.mix_transformer import VARIANTS
from seg.published.published_model import array_shapes, open_published
from seg.published.segformer import Files, read_segformer_config, segformer_pairs

SETTINGS = {
    "architectures": ["SegformerForSemanticSegmentation"],
    "model_type": "segformer",
    "hidden_sizes": list(NARROW_MIT.widths),
    "depths": list(NARROW_MIT.blocks),
    "decoder_hidden_size": 8,
    "id2label": {"0": "sky", "1": "road", "2": "car"},
}
IMAGES = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.3], "size": {"height": 64, "width": 96}}


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """A MiT of few channels takes the place of MiT-B0."""
    monkeypatch.setitem(VARIANTS, "mit_b0", NARROW_MIT)


@pytest.fixture
def saved(tmp_path):
    """Return a function that writes a folder of `save_pretrained` with other settings."""

    def write(images=IMAGES, classes=3, **changes):
        (tmp_path / "config.json").write_text(json.dumps(SETTINGS | changes))
        if images is not None:
            (tmp_path / "preprocessor_config.json").write_text(json.dumps(images))
        config = read_segformer_config(Files(tmp_path, tmp_path, SETTINGS), classes)
        shapes, tensors = array_shapes(config), {}
        for pair in segformer_pairs(config, one_class=classes == 1):
            shape = pair.layout.to_theirs(np.broadcast_to(np.float32(0), shapes[pair.ours])).shape
            tensors[pair.theirs] = draw_tensor(pair.theirs, shape)
            if pair.theirs.endswith("query.bias"):
                tensors[pair.theirs.replace("query", "key")] = tensors[pair.theirs]
        write_safetensors(tmp_path / "model.safetensors", tensors)
        return tmp_path

    return write


@functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
def infer(model, variables, image):
    return model.apply(variables, image, False)


def test_names_sizes_and_normalisation_come_from_the_folder(saved):
    published = open_published("segformer", saved())
    model, data = published.config.model, published.config.data
    assert (model.name, model.encoder, model.decoder, model.segformer_decoder.width) == (
        "unet",
        "mit_b0",
        "segformer",
        8,
    )
    assert (data.size, data.mean, data.std) == ((64, 96), (0.4, 0.5, 0.6), (0.2, 0.2, 0.3))
    assert published.classes.names == ("sky", "road", "car") and published.config.inference.scale == "trained"


def test_the_logits_are_those_of_transformers(saved):
    published = open_published("segformer", saved())
    logits = infer(build_model(published.config.model), published.variables, draw_image(33, 38))
    with np.load(Path(__file__).parent / "recorded" / "segformer.npz") as file:
        np.testing.assert_allclose(logits, file["y"], atol=1e-4)
        np.testing.assert_array_equal(np.argmax(logits, -1), file["y"].argmax(-1))


def test_one_class_is_background_and_foreground(saved):
    published = open_published("segformer", saved(classes=1, id2label={"0": "car"}))
    image = np.random.default_rng(0).normal(size=(1, 32, 40, 3)).astype(np.float32)
    logits = np.asarray(infer(build_model(published.config.model), published.variables, image))
    assert logits.shape == (1, 32, 40, 2) and len(published.classes) == 2
    np.testing.assert_array_equal(logits[..., 0], 0)


@pytest.mark.parametrize(
    ("images", "size", "mean"),
    [
        (None, (512, 512), ()),
        ({"size": 128}, (128, 128), ()),
        ({"size": {"shortest_edge": 256}}, (256, 256), ()),
        ({"do_normalize": False}, (512, 512), (0, 0, 0)),
    ],
)
def test_other_ways_to_state_how_images_are_prepared(saved, images, size, mean):
    data = open_published("segformer", saved(images)).config.data
    assert (data.size, data.mean) == (size, mean)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"architectures": ["UperNetForSemanticSegmentation"]},
            "this is 'UperNetForSemanticSegmentation' of transformers",
        ),
        ({"depths": [3, 4, 18, 3]}, r"hidden_sizes, depths: expected those of SegFormer-B0, B1 or B2, .*18"),
        ({"depths": 3}, "depths: expected a list, found 3"),
        ({"sr_ratios": [8, 4, 2, 2]}, r"sr_ratios: expected \[8, 4, 2, 1\]"),
        ({"decoder_hidden_size": 10**12}, "model.segformer_decoder.width: expected 1 to 8192"),
        ({"decoder_hidden_size": 9}, "tensors do not fit"),
        ({"id2label": {"0": "a\x1b", "1": "b", "2": "c"}}, "expected names of printable characters"),
        ({"images": {"image_mean": [0.5], "image_std": [0.5]}}, "expected 3 numbers, one for each channel"),
        ({"images": {"size": {"height": 0, "width": 8}}}, "data.size: expected 8 to 16384, found 0"),
        ({"images": {"image_mean": ["x"], "image_std": []}}, "image_mean: 0: expected a number"),
        ({"images": {"image_mean": [10**400], "image_std": []}}, "image_mean: 0: expected a number"),
        ({"images": {"image_mean": [math.nan], "image_std": []}}, "image_mean: 0: expected a number, found nan"),
    ],
)
def test_other_models_and_settings_are_refused(saved, changes, error):
    folder = saved(**changes)
    with pytest.raises(UserError, match=error) as caught:
        open_published("segformer", folder)
    assert str(caught.value).startswith(str(folder))


def test_a_folder_without_its_files_is_refused(saved, tmp_path):
    with pytest.raises(UserError, match="this is a folder without a weights file"):
        open_published("segformer", tmp_path)
    folder = saved()
    with pytest.raises(UserError, match="name the folder with its config.json"):
        open_published("segformer", folder / "model.safetensors")
    (folder / "model.safetensors").write_bytes(b"{")
    with pytest.raises(UserError, match="model.safetensors"):
        open_published("segformer", folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="expected model.safetensors or pytorch_model.bin beside config.json"):
        open_published("segformer", folder)
