"""milesial's U-Net: names, values, gradients and running statistics, and the way back into torch.

The program itself is not a package that could be installed: a twin written for these tests takes its place.
"""

import functools
import importlib.util
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from seg.models import build_model, count_parameters  # noqa: E402
from seg.published.mapping import export_arrays  # noqa: E402
from seg.published.milesial import milesial_pairs  # noqa: E402
from seg.published.published_model import open_published, save_milesial  # noqa: E402


def beside(name):
    """Import a file of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


twin, compare = beside("milesial_twin"), beside("differences").compare

# Compiling takes longer than running here, so the compiler is told not to polish its machine code.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

VARIANTS = [(bilinear, bias) for bilinear in (False, True) for bias in (False, True)]
NAMES = ["transposed", "transposed with bias", "bilinear", "bilinear with bias"]


@functools.cache
def narrow(bilinear, bias):
    """The published depth; all widths an eighth of the published ones."""
    return twin.draw(twin.Twin(3, width=8, bilinear=bilinear, bias=bias), seed=1)


def opened(theirs, folder, **extras):
    torch.save({**theirs.state_dict(), **extras}, folder / "theirs.pth")
    return open_published("milesial", folder / "theirs.pth")


def draw_image(*size, channels=3):
    return np.random.default_rng(2).normal(size=(*size, channels)).astype(np.float32)


def to_torch(x_bhwc):
    return torch.tensor(np.asarray(x_bhwc)).permute(0, 3, 1, 2)


def answer(theirs, image):
    with torch.no_grad():
        return theirs(to_torch(image)).permute(0, 2, 3, 1).numpy()


def infer(published, image):
    model = build_model(published.config.model)
    return quick_jit(lambda v, x: model.apply(v, x, False))(published.variables, image)


@pytest.mark.parametrize(("bilinear", "bias"), VARIANTS, ids=NAMES)
@pytest.mark.parametrize("size", [(64, 64), (70, 90), (65, 47), (16, 33)], ids=str)
def test_logits_of_any_size(tmp_path, bilinear, bias, size):
    theirs, image = narrow(bilinear, bias), draw_image(2, *size)
    compare("milesial narrow", infer(opened(theirs, tmp_path), image), answer(theirs, image))


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("channels", [1, 4, 12])
def test_images_of_any_number_of_channels(tmp_path, channels, classes):
    theirs = twin.draw(twin.Twin(classes, width=8, channels=channels), seed=channels)
    image, published = draw_image(2, 65, 47, channels=channels), opened(theirs, tmp_path)
    logits = infer(published, image)
    logits = logits[..., 1:] - logits[..., :1] if classes == 1 else logits
    compare(f"milesial {channels} channels, {classes} classes", logits, answer(theirs, image))


@pytest.mark.parametrize(("bilinear", "number"), [(False, 31_037_698), (True, 17_263_042)], ids=NAMES[::2])
def test_the_published_widths(tmp_path, bilinear, number):
    theirs, image = twin.draw(twin.Twin(2, bilinear=bilinear), seed=3), draw_image(1, 64, 64)
    published = opened(theirs, tmp_path)
    assert count_parameters(published.variables["params"]) == number
    compare("milesial published", infer(published, image), answer(theirs, image))


@pytest.mark.parametrize(("bilinear", "bias"), VARIANTS, ids=NAMES)
def test_a_training_step(tmp_path, bilinear, bias):
    """Compared with torch in float64: in float32 a value next to the bend of a ReLU takes either side of it."""
    theirs, image = twin.draw(twin.Twin(3, width=8, bilinear=bilinear, bias=bias), seed=1), draw_image(2, 48, 56)
    published = opened(theirs, tmp_path)
    model, variables = build_model(published.config.model), published.variables
    labels = np.random.default_rng(4).integers(0, 3, image.shape[:3])

    def loss(params):
        logits, state = model.apply({**variables, "params": params}, image, True, mutable=["batch_stats"])
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)
        return losses.mean(), (logits, state)

    gradients, (logits, state) = quick_jit(jax.grad(loss, has_aux=True))(variables["params"])
    trained = theirs.double().train()(to_torch(image).double())
    torch.nn.functional.cross_entropy(trained, torch.tensor(labels)).backward()
    np.testing.assert_allclose(logits, trained.detach().permute(0, 2, 3, 1), atol=1e-4)

    found = flax.traverse_util.flatten_dict({"params": gradients, **state}, sep="/")
    pairs = milesial_pairs(published.config.model)
    found = export_arrays(pairs, {name: np.asarray(array) for name, array in found.items()})
    statistics = {name: value for name, value in theirs.state_dict().items() if "running" in name}
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert expected.keys() | statistics.keys() == found.keys()
    for name, value in statistics.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, rtol=1e-5, err_msg=name)
    for name, value in expected.items():
        # Behind a bias comes a norm that takes it off again: its gradient is 0 but for rounding errors.
        cancelled = name.endswith(("double_conv.0.bias", "double_conv.3.bias"))
        scale = 1e-2 if cancelled else float(value.abs().max())
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4 * scale, err_msg=name)


@pytest.mark.parametrize(
    "mask_values", [[0, 127, 255], [[0, 0, 0], [0, 255, 0], [9, 9, 9]]], ids=["numbers", "colours"]
)
@pytest.mark.parametrize(("bilinear", "bias"), VARIANTS, ids=NAMES)
def test_torch_loads_what_is_written(tmp_path, bilinear, bias, mask_values):
    """As milesial's `predict.py` does: it takes the values of the masks off before it loads the state dict."""
    theirs = narrow(bilinear, bias)
    published = opened(theirs, tmp_path, mask_values=mask_values)
    save_milesial(tmp_path / "ours.pth", published.config, published.variables, published.origin)
    state_dict = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert state_dict.pop("mask_values", [0, 1]) == mask_values
    assert list(state_dict) == list(theirs.state_dict())
    again = twin.Twin(3, width=8, bilinear=bilinear, bias=bias).eval()
    again.load_state_dict(state_dict, strict=True)
    for name, value in theirs.state_dict().items():
        found = again.state_dict()[name]
        assert found.shape == value.shape and found.dtype == value.dtype
        assert torch.equal(found, value), name
    image = draw_image(1, 33, 50)
    np.testing.assert_array_equal(answer(again, image), answer(theirs, image))


def test_a_model_of_one_class(tmp_path):
    theirs, image = twin.draw(twin.Twin(1, width=8), seed=5), draw_image(1, 33, 50)
    published = opened(theirs, tmp_path, mask_values=[0, 255])
    foreground = jax.nn.softmax(infer(published, image))[..., 1:]
    np.testing.assert_allclose(foreground, torch.sigmoid(torch.tensor(answer(theirs, image))), atol=1e-5)
    save_milesial(tmp_path / "ours.pth", published.config, published.variables)
    state_dict = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert state_dict.pop("mask_values") == [0, 255]
    again = twin.Twin(1, width=8).eval()
    again.load_state_dict(state_dict, strict=True)
    np.testing.assert_array_equal(answer(again, image), answer(theirs, image))
