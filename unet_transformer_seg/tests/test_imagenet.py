"""Encoders trained on ImageNet: which are recognised, what they become, and what a folder of one is good for."""

import shutil

import numpy as np
import pytest

from seg import api
from seg.config import DataConfig
from seg.config.reader import load_start_config
from seg.errors import UserError
from seg.inference.encoder_folder import is_encoder_folder, load_encoder_folder, save_encoder_folder
from seg.models.efficientnet_lite import plan_stages
from seg.models.encoders import RESNETS
from seg.published.encoders import lite_pairs, resnet_pairs
from seg.published.imagenet import encoder_shapes, open_encoder
from seg.published.torch_writer import write_torch_file


def write(path, encoder, pairs, **others):
    """Write a file with the tensors of these pairs, and others; all are 0."""
    shapes = encoder_shapes(encoder)
    tensors = {p.theirs: np.ascontiguousarray(p.layout.to_theirs(np.zeros(shapes[p.ours], np.float32))) for p in pairs}
    tensors |= {name: np.zeros(shape, np.float32) for name, shape in others.items()}
    write_torch_file(path, tensors)
    return path


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    """The file of an EfficientNet-Lite0 under the names of its package."""
    others = {"_conv_head.weight": (4, 320, 1, 1), "_bn1.weight": (4,), "_fc.weight": (10, 4)}
    pairs = lite_pairs(plan_stages("efficientnet_lite0"), by_timm=False)
    return write(tmp_path_factory.mktemp("published") / "lite.pth", "efficientnet_lite0", pairs, **others)


@pytest.fixture(scope="module")
def folder(lite):
    path = lite.parent / "lite0"
    save_encoder_folder(path, *open_encoder("efficientnet-lite", lite))
    return path


def test_an_efficientnet_lite_of_its_package(lite):
    published = open_encoder("efficientnet-lite", lite)
    assert published.config.model.encoder == "efficientnet_lite0"
    image = np.array([0, 127, 255])
    data = published.config.data
    np.testing.assert_allclose((image / 255 - data.mean) / data.std, (image - 127) / 128, atol=1e-7)
    assert published.variables.keys() == {"params", "batch_stats"}
    assert published.variables["params"].keys() == {"encoder"}
    assert published.origin == {"kind": "efficientnet-lite", "file": "lite.pth"}


def test_a_lite_of_timm_and_a_resnet(tmp_path):
    pairs = lite_pairs(plan_stages("efficientnet_lite2"))
    path = write(tmp_path / "w.pth", "efficientnet_lite2", pairs, **{"conv_head.weight": (4, 352, 1, 1)})
    assert open_encoder("efficientnet-lite", path).config.model.encoder == "efficientnet_lite2"
    path = write(tmp_path / "r.pth", "resnet18", resnet_pairs(RESNETS["resnet18"]), **{"fc.weight": (10, 512)})
    published = open_encoder("torchvision", path)
    assert published.config.model.encoder == "resnet18"
    assert published.config.data == DataConfig()


def test_another_network_is_refused(lite, tmp_path):
    with pytest.raises(UserError, match=r"lite.pth: expected the weights of resnet18, .* found 24. tensors such as _b"):
        open_encoder("torchvision", lite)
    # One unit more than a ResNet-18, as a ResNet-34 would have.
    more = {"layer1.2.conv1.weight": (64, 64, 3, 3)}
    path = write(tmp_path / "r.pth", "resnet18", resnet_pairs(RESNETS["resnet18"]), **more)
    with pytest.raises(UserError, match="expected the weights of resnet18"):
        open_encoder("torchvision", path)


def test_a_folder_of_an_encoder_begins_a_run(folder, tmp_path):
    """It brings the encoder and the normalisation; the config chooses the rest."""
    assert is_encoder_folder(folder)
    initial = api.load_initial(str(folder))
    assert initial.classes is None and initial.variables["params"].keys() == {"encoder"}
    path = tmp_path / "config.yaml"
    path.write_text(f"init: {folder}\nmodel: {{name: unet_transformer, decoder: segformer}}\n")
    config = load_start_config(path)
    assert (config.model.encoder, config.model.decoder) == ("efficientnet_lite0", "segformer")
    assert config.data.mean == initial.data.mean == (127 / 255,) * 3


def test_a_folder_of_an_encoder_segments_nothing(folder, tmp_path):
    with pytest.raises(UserError, match="holds an encoder without a decoder, which segments nothing"):
        api.load(folder)
    spaced = shutil.copytree(folder, tmp_path / "my encoder")
    with pytest.raises(UserError, match="--init '.*/my encoder'"):
        api.load(spaced)


def test_a_folder_whose_arrays_do_not_fit_is_refused(folder, tmp_path):
    config, variables = load_encoder_folder(folder)
    del variables["params"]["encoder"]["stem_conv"]
    save_encoder_folder(tmp_path / "broken", config, variables, {"kind": "k", "file": "f"})
    with pytest.raises(UserError, match="params/encoder/stem_conv/kernel: expected"):
        load_encoder_folder(tmp_path / "broken")
