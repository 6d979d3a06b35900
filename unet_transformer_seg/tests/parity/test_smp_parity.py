"""The U-Net of segmentation_models_pytorch: names, values and gradients, at the published sizes and at narrow ones.

The package needs torchvision, whose compiled operators must be made for the very build of torch; beside a CPU build
they often are not, and `import torchvision` fails although nothing here uses them. So two of them are declared, without
a body. Where the package cannot be imported even so, the twin in `smp_twin.py` takes its place, and `-ra` says so.
"""

import functools
import importlib.util
import warnings
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from seg.models import build_model, count_parameters  # noqa: E402
from seg.published.mapping import export_arrays, import_arrays  # noqa: E402
from seg.published.published_model import open_published  # noqa: E402
from seg.published.smp import has_one_class, ignored_in, read_smp_config, smp_pairs  # noqa: E402
from seg.published.smp_encoders import usual_names  # noqa: E402
from seg.published.torch_file import read_torch_file  # noqa: E402


def beside(name):
    """Import a file of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


twin, compare = beside("smp_twin"), beside("differences").compare

# Compiling takes longer than running here, so the compiler is told not to polish its machine code.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

WIDTHS = (256, 128, 64, 32, 16)
ENCODERS = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
}
NARROW = {
    "basic": ("basic", (2, 1, 1, 2), 8, (12, 10, 8, 6, 4)),
    "bottleneck": ("bottleneck", (1, 2, 1, 1), 4, (9,) * 5),
}


@functools.cache
def import_smp():
    """Return the package, or None where it or a torchvision is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parts of torch that the packages around it still use
            return _import_beside_any_torch()
    except (ImportError, OSError, RuntimeError):
        return None


def _import_beside_any_torch():
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        # Declared for the life of the process, or the operators vanish with this variable.
        import_smp.declared = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            import_smp.declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import segmentation_models_pytorch

    return segmentation_models_pytorch


@pytest.fixture
def smp():
    return import_smp() or pytest.skip("segmentation_models_pytorch cannot be imported: the twin stands for it")


@functools.cache
def published(encoder, classes):
    """The package's model with drawn values, or its twin."""
    if import_smp():
        model = import_smp().Unet(encoder, encoder_weights=None, classes=classes)
    else:
        model = twin.Twin(*ENCODERS[encoder], 64, WIDTHS, classes)
    return settle(twin.draw(model, 0))


def settle(model, channels=3):
    """Give the norms the statistics of one batch, so that the maps keep their spread, and let the units add little."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            last = "bn3" if hasattr(model.get_submodule(name.rpartition(".")[0]), "conv3") else "bn2"
            if name.endswith(last) and ".layer" in name:
                module.weight.data *= 0.25  # or so many of them magnify the rounding errors
    with torch.no_grad():
        model.train()(to_torch(draw_image(4, 128, 160, channels)))
    return model.eval()


def converted(theirs, folder):
    """Return (our model, arrays, pairs) by way of a file."""
    torch.save(theirs.state_dict(), folder / "weights.pth")
    tensors, _ = usual_names(read_torch_file(folder / "weights.pth").tensors)
    config = read_smp_config(tensors)
    model, pairs = build_model(config), smp_pairs(config, has_one_class(tensors))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False))
    shapes = {name: leaf.shape for name, leaf in flax.traverse_util.flatten_dict(shapes, sep="/").items()}
    return model, import_arrays(pairs, tensors, shapes, folder / "weights.pth", ignored_in(config)), pairs


def nested(arrays):
    return flax.traverse_util.unflatten_dict(arrays, sep="/")


def draw_image(b, h, w, channels=3):
    return np.random.default_rng(2).normal(size=(b, h, w, channels)).astype(np.float32)


@functools.partial(quick_jit, static_argnums=0)
def infer(model, variables, image):
    return model.apply(variables, image, False)


def to_torch(x_bhwc):
    return torch.tensor(np.asarray(x_bhwc)).permute(0, 3, 1, 2)


def answer(theirs, image):
    with torch.no_grad():
        return theirs(to_torch(image)).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_twin_is_the_package(smp, encoder):
    package, own = published(encoder, 1), twin.Twin(*ENCODERS[encoder], 64, WIDTHS, 1).eval()
    assert list(own.state_dict()) == list(package.state_dict())
    own.load_state_dict(package.state_dict())
    image = draw_image(1, 32, 64)
    np.testing.assert_allclose(answer(own, image), answer(package, image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("encoder", "classes"), [("resnet18", 4), ("resnet34", 1), ("resnet50", 2)])
def test_the_published_sizes(tmp_path, encoder, classes):
    theirs = published(encoder, classes)
    model, arrays, _ = converted(theirs, tmp_path)
    one_more = 9 * 16 + 1 if classes == 1 else 0
    counted = sum(parameter.numel() for parameter in theirs.parameters())
    assert count_parameters(nested(arrays)["params"]) == counted + one_more
    for size in ((32, 32), (64, 96)):
        logits = np.asarray(infer(model, nested(arrays), draw_image(1, *size)))
        expected = answer(theirs, draw_image(1, *size))
        if classes == 1:
            np.testing.assert_array_equal(logits[..., 0], 0)
            logits = logits[..., 1:]
        assert 0.3 < expected.std() < 3
        np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("kind", NARROW)
def test_narrow_ones_agree_in_value_gradient_and_statistics(tmp_path, kind):
    """Training is compared with torch in float64, from which its own float32 gradients differ by up to 4e-3 here."""
    theirs = twin.draw(twin.Twin(*NARROW[kind], 3), 1)
    model, arrays, pairs = converted(theirs, tmp_path)
    variables, image = nested(arrays), draw_image(2, 64, 96)
    np.testing.assert_allclose(infer(model, variables, image), answer(theirs, image), atol=1e-4)

    weights = np.random.default_rng(4).normal(size=(2, 64, 96, 3)).astype(np.float32) / (64 * 96)

    def loss(params):
        logits, state = model.apply({**variables, "params": params}, image, True, mutable=["batch_stats"])
        return (logits * weights).sum(), (logits, state)

    gradients, (logits, state) = quick_jit(jax.grad(loss, has_aux=True))(variables["params"])
    trained = theirs.double().train()(to_torch(image).double())
    (trained * to_torch(weights)).sum().backward()
    np.testing.assert_allclose(logits, trained.detach().permute(0, 2, 3, 1), atol=1e-4)

    found = flax.traverse_util.flatten_dict({"params": gradients, **state}, sep="/")
    found = export_arrays(pairs, {name: np.asarray(array) for name, array in found.items()})
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    expected |= {name: value for name, value in theirs.state_dict().items() if "running" in name}
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        scale = float(value.abs().max())
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4 * scale, err_msg=name)


def test_other_sizes_are_those_of_the_image_filled_up_with_zeros(tmp_path):
    theirs = twin.draw(twin.Twin(*NARROW["basic"], 3), 1)
    model, arrays, _ = converted(theirs, tmp_path)
    image = draw_image(1, 45, 70)
    filled = np.pad(image, ((0, 0), (0, 19), (0, 26), (0, 0)))
    logits = infer(model, nested(arrays), image)
    np.testing.assert_allclose(logits, answer(theirs, filled)[:, :45, :70], atol=1e-4)


CASES = {
    "resnet18, depth 3, one channel": (
        "resnet18",
        {"encoder_depth": 3, "decoder_channels": WIDTHS[:3], "in_channels": 1},
    ),
    "resnet101, depth 4, one class": ("resnet101", {"encoder_depth": 4, "decoder_channels": WIDTHS[:4], "classes": 1}),
    "tu-resnet34, depth 4": ("tu-resnet34", {"encoder_depth": 4, "decoder_channels": WIDTHS[:4]}),
    "lite0": ("timm-tf_efficientnet_lite0", {}),
    "lite1, depth 4, bilinear": (
        "timm-tf_efficientnet_lite1",
        {"encoder_depth": 4, "decoder_channels": WIDTHS[:4], "decoder_interpolation": "bilinear"},
    ),
    "lite2, depth 3, four channels": (
        "timm-tf_efficientnet_lite2",
        {"encoder_depth": 3, "decoder_channels": WIDTHS[:3], "in_channels": 4},
    ),
    "tu-lite0": ("tu-tf_efficientnet_lite0", {"decoder_interpolation": "area"}),
    "mit_b0, classifier": ("mit_b0", {"aux_params": {"classes": 2}}),
    "mit_b1, depth 4": ("mit_b1", {"encoder_depth": 4, "decoder_channels": WIDTHS[:4]}),
    "mit_b2": ("mit_b2", {"decoder_interpolation": "nearest-exact"}),
    "Segformer mit_b0, four channels": ("mit_b0", {"in_channels": 4}),
    "Segformer mit_b1, one class": ("mit_b1", {"classes": 1, "decoder_segmentation_channels": 96}),
    "Segformer mit_b2, classifier": ("mit_b2", {"aux_params": {"classes": 2}}),
}


@pytest.mark.filterwarnings("ignore:`timm-` encoders:DeprecationWarning")
@pytest.mark.parametrize("case", CASES)
def test_a_folder_of_any_encoder_and_depth(smp, tmp_path, case):
    encoder, settings = CASES[case]
    architecture = smp.Segformer if case.startswith("Segformer") else smp.Unet
    theirs = twin.draw(architecture(encoder, encoder_weights=None, **{"classes": 3, **settings}), 0)
    channels, classes = settings.get("in_channels", 3), settings.get("classes", 3)
    settle(theirs, channels)
    theirs.save_pretrained(tmp_path)
    published = open_published("smp", tmp_path)
    model = build_model(published.config.model)
    for size in ((64, 96), (32, 64)):
        image = draw_image(1, *size, channels)
        logits = np.asarray(infer(model, published.variables, image))
        with torch.no_grad():
            expected = theirs(to_torch(image))
        expected = expected[0] if isinstance(expected, tuple) else expected
        expected = expected.permute(0, 2, 3, 1).numpy()
        compare(f"smp {case}", logits[..., 1:] - logits[..., :1] if classes == 1 else logits, expected)


@pytest.mark.parametrize(
    "settings",
    [{"decoder_attention_type": "scse"}, {"decoder_use_norm": False}],
    ids=str,
)
def test_other_settings_of_the_package_are_refused(smp, tmp_path, settings):
    smp.Unet("resnet18", encoder_weights=None, classes=2, **settings).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"config.json: {next(iter(settings))}: expected "):
        open_published("smp", tmp_path)


@pytest.mark.parametrize("encoder", ["resnext50_32x4d", "vgg11", "efficientnet-b0", "tu-efficientnet_b0"])
def test_other_encoders_of_the_package_are_refused(smp, tmp_path, encoder):
    with pytest.raises(ValueError, match="expected the state dict of segmentation_models_pytorch's Unet"):
        converted(smp.Unet(encoder, encoder_weights=None, classes=2), tmp_path)


KINDS = [
    "UnetPlusPlus",
    "Linknet",
    "FPN",
    "PSPNet",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PAN",
    "MAnet",
    "UPerNet",
    "Segformer",  # with another encoder than mit_b0 to b2
]


@pytest.mark.parametrize("kind", KINDS)
def test_other_architectures_are_refused_by_their_names(smp, tmp_path, kind):
    theirs = getattr(smp, kind)("resnet18", encoder_weights=None, classes=2)
    message = "found a Segformer with another encoder" if kind == "Segformer" else f"this is a {kind} of segm"
    with pytest.raises(ValueError, match=message):
        converted(theirs, tmp_path)
