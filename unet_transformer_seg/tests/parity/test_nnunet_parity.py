"""nnU-Net's two-dimensional network against dynamic_network_architectures: logits and class maps."""

import functools
import importlib.util
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dynamic_network_architectures")

from seg.inference.predictor import Predictor  # noqa: E402
from seg.models import build_model, count_parameters  # noqa: E402
from seg.published.published_model import open_published  # noqa: E402


def beside(name):
    """Import a file of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


twin, compare = beside("nnunet_twin"), beside("differences").compare

# Compiling takes longer than running here, so the compiler is told not to polish its machine code.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

SHAPES = {
    "as planned": dict(
        widths=[8, 16, 24, 24], strides=[[1, 1]] + [[2, 2]] * 3, encoder_convs=[2] * 4, decoder_convs=[2] * 3
    ),
    "uneven": dict(
        widths=[6, 10, 12],
        strides=[[1, 1], [2, 2], [1, 2]],
        encoder_convs=[1, 3, 2],
        decoder_convs=[1, 2],
        kernel_sizes=[[3, 3], [1, 3], [3, 5]],
    ),
}


def draw_image(*size, channels=3):
    return np.random.default_rng(2).normal(size=(*size, channels)).astype(np.float32)


def answer(network, image_bhwc):
    with torch.no_grad():
        return network(torch.tensor(image_bhwc).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()


def infer(published, image):
    model = build_model(published.config.model)
    return np.asarray(quick_jit(lambda v, x: model.apply(v, x, False))(published.variables, image))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_class_maps(tmp_path, shape, seed):
    plans, dataset = twin.make_plans(**SHAPES[shape]), twin.make_dataset()
    network = twin.make_network(plans, dataset, seed)
    published = open_published("nnunet", twin.write_results(tmp_path, network, plans, dataset))
    for size in ((64, 64), (48, 80)):
        image = draw_image(2, *size)
        compare(f"nnunet {shape}", infer(published, image), answer(network, image))


def test_the_published_size(tmp_path):
    """Seven stages of two convolutions, as nnU-Net plans for windows of 512 × 512."""
    plans = twin.make_plans(
        [32, 64, 128, 256, 512, 512, 512], [[1, 1]] + [[2, 2]] * 6, [2] * 7, [2] * 6, patch=(512, 512)
    )
    dataset = twin.make_dataset()
    network = twin.make_network(plans, dataset, 0)
    published = open_published("nnunet", twin.write_results(tmp_path, network, plans, dataset))
    assert published.config.data.size == (512, 512)
    kept = {name: p for name, p in network.named_parameters() if not name.endswith(".conv.bias")}
    kept = {n: p for n, p in kept.items() if "seg_layers" not in n or "seg_layers.5" in n}
    assert count_parameters(published.variables["params"]) == sum(p.numel() for p in kept.values())
    image = draw_image(1, 128, 128)
    compare("nnunet seven stages", infer(published, image), answer(network, image))


def test_a_checkpoint_without_its_folder_has_the_plans_inside(tmp_path):
    plans, dataset = twin.make_plans(**SHAPES["uneven"]), twin.make_dataset()
    checkpoint = twin.write_results(tmp_path, twin.make_network(plans, dataset, 0), plans, dataset)
    alone = tmp_path / "alone.pth"
    shutil.copy(checkpoint, alone)
    of_file, of_folder = open_published("nnunet", alone), open_published("nnunet", checkpoint.parent.parent)
    assert of_file.config.model == of_folder.config.model
    assert of_file.classes.names == of_folder.classes.names == ("background", "cell", "edge")
    jax.tree.map(np.testing.assert_array_equal, of_file.variables, of_folder.variables)


def test_a_file_of_16_bits_is_segmented_as_by_nnunet(tmp_path):
    """From the file to the labels, with nnU-Net's own normalisation on the other side."""
    schemes = pytest.importorskip("nnunetv2.preprocessing.normalization.default_normalization_schemes")
    plans = twin.make_plans(**SHAPES["as planned"], schemes=["ZScoreNormalization"])
    dataset = twin.make_dataset(channels=("MRI",))
    network = twin.make_network(plans, dataset, 7)
    published = open_published("nnunet", twin.write_results(tmp_path, network, plans, dataset))
    values_hw = np.random.default_rng(0).integers(0, 4000, (64, 64)).astype(np.uint16)
    np.save(tmp_path / "scan.npy", values_hw)
    z_score = schemes.ZScoreNormalization(use_mask_for_norm=False, intensityproperties={})
    normal_bhwc = z_score.run(values_hw.astype(np.float32)[None], None)[..., None]
    expected_hw = answer(network, normal_bhwc)[0].argmax(-1)
    assert np.bincount(expected_hw.ravel(), minlength=3).min() > 0
    labels_hw = (
        Predictor(published.config, published.classes, published.variables).predict(tmp_path / "scan.npy").labels
    )
    np.testing.assert_array_equal(labels_hw, expected_hw)
