"""TransUNet gives the answers, gradients and running statistics of a twin in torch.

The authors' code is no package that could be installed; `transunet_twin.py` was written from the same description and
has their names of tensors. Run as a program, this file makes `tests/recorded/transunet_tiny.npz` from the twin.
"""

import dataclasses
import functools
import importlib.util
import sys
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from seg.checkpoints.arrays import named_arrays  # noqa: E402
from seg.config import ModelConfig, TransUNetConfig  # noqa: E402
from seg.models import build_model  # noqa: E402
from seg.published.mapping import export_arrays, import_arrays  # noqa: E402
from seg.published.torch_file import read_torch_file  # noqa: E402
from seg.published.torch_writer import write_torch_file  # noqa: E402
from seg.published.transunet import is_ignored, read_transunet_config, transunet_pairs  # noqa: E402

RECORDING = Path(__file__).parents[1] / "recorded" / "transunet_tiny.npz"
TINY = TransUNetConfig(
    resnet_width=6,
    resnet_units=(1, 2, 1),
    hidden_width=12,
    num_layers=2,
    num_heads=3,
    mlp_width=20,
    dropout=0.0,
    position_grid=(3, 3),
    bridge_width=10,
    decoder_widths=(8, 6, 5, 4),
)
POINTS = {
    "transformer.embeddings.hybrid_model": ("resnet",),
    "transformer.embeddings": ("tokens", "positions"),
    "transformer.encoder": ("tokens", "transformer"),
    "decoder.conv_more": ("bridge",),
    "decoder.blocks.0": ("decoder", "block0"),
    "decoder": ("decoder",),
}
WIDE = dataclasses.replace(TINY, resnet_width=32, resnet_units=(2, 1, 2), hidden_width=64, num_heads=4)


@functools.cache
def twin():
    """The module that stands beside this one; pytest's importlib mode puts no folder on the path."""
    spec = importlib.util.spec_from_file_location("transunet_twin", Path(__file__).with_name("transunet_twin.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(sizes, num_classes=3, seed=0):
    """Return (the twin, an image [1, 3, h, w] of the size of its grid)."""
    torch.manual_seed(seed)
    model = twin().perturbed(twin().TransUNet(sizes, num_classes), seed)
    return model, torch.randn(1, 3, *(16 * n for n in sizes.position_grid))


def answers(model, image):
    """Return the outputs of the twin's modules by name, and the logits under the name y."""
    found = {}

    def keep(name, output):
        found[name] = (output[0] if isinstance(output, tuple) else output).detach().numpy()

    hooks = [m.register_forward_hook(lambda _m, _i, out, n=n: keep(n, out)) for n, m in model.named_modules()]
    with torch.no_grad():
        found["y"] = model(image).numpy()
    for hook in hooks:
        hook.remove()
    return found


def tensors_of(model):
    """Copies: a training step of the twin changes its statistics in place."""
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}


def convert(config, model):
    """Return (our model, variables that hold the twin's tensors)."""
    ours = build_model(config)
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    shapes = named_arrays(jax.eval_shape(lambda x: ours.init(jax.random.key(0), x, False), image))
    shapes = {name: leaf.shape for name, leaf in shapes.items()}
    arrays = import_arrays(transunet_pairs(config), tensors_of(model), shapes, Path("twin"), is_ignored)
    return ours, flax.traverse_util.unflatten_dict(arrays, sep="/")


def channels_last(x_bchw):
    return np.asarray(x_bchw).transpose(0, 2, 3, 1)


def largest_difference(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).max()


@pytest.mark.parametrize(
    ("sizes", "num_skips", "grid"),
    [(TINY, 3, (2, 3)), (TINY, 3, (7, 4)), (TINY, 1, (3, 3)), (TINY, 0, (3, 3)), (WIDE, 3, (3, 3))],
    ids=["small", "large", "one skip", "no skip", "wide"],
)
def test_the_answers_at_every_point(sizes, num_skips, grid):
    """For a single token torch has no answer: it refuses to normalise a channel of one value."""
    sizes = dataclasses.replace(sizes, position_grid=grid, num_skips=num_skips)
    theirs, image = make(sizes, seed=sum(grid))
    config = ModelConfig(name="transunet", num_classes=3, transunet=sizes)
    ours, variables = convert(config, theirs)
    logits, state = jax.jit(lambda v, x: ours.apply(v, x, False, capture_intermediates=True))(
        variables, channels_last(image)
    )
    expected = answers(theirs, image)
    assert largest_difference(logits, channels_last(expected["y"])) < 1e-4
    for name, path in POINTS.items():
        found = functools.reduce(lambda tree, key: tree[key], path, state["intermediates"])["__call__"][0]
        found = found[0] if isinstance(found, tuple) else found
        wanted = expected[name]
        wanted = channels_last(wanted) if wanted.ndim == 4 else wanted
        assert largest_difference(np.reshape(found, wanted.shape), wanted) < 1e-4, name


def test_gradients_and_running_statistics():
    theirs, image = make(WIDE)
    config = ModelConfig(name="transunet", num_classes=3, transunet=WIDE)
    ours, variables = convert(config, theirs)
    weights = torch.randn(1, 3, *image.shape[2:])
    (theirs.train()(image) * weights).sum().backward()
    expected = {name: p.grad.numpy() for name, p in theirs.named_parameters()}

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient(params):
        changed = {**variables, "params": params}
        logits, state = ours.apply(changed, channels_last(image), True, mutable=["batch_stats"])
        return (logits * channels_last(weights)).sum(), state

    gradients, state = gradient(variables["params"])
    found = export_arrays(transunet_pairs(config), named_arrays({"params": gradients, **state}))
    for name, wanted in expected.items():
        if is_ignored(name):  # the gradient of what cancels is the rounding of the softmax
            assert np.abs(wanted).max() < 1e-4 * np.abs(expected[name.replace("bias", "weight")]).max()
        else:
            assert largest_difference(found[name], wanted) < 1e-3 * np.abs(wanted).max(), name
    for name, wanted in theirs.named_buffers():
        if "running" in name:
            assert largest_difference(found[name], wanted) < 1e-5, name


def test_a_file_of_torch_is_read_and_one_of_ours_is_loaded(tmp_path):
    theirs, image = make(TINY)
    path = tmp_path / "transunet.pth"
    torch.save(theirs.state_dict(), path)
    tensors = read_torch_file(path).tensors
    config = read_transunet_config(tensors, num_heads=3)
    assert dataclasses.replace(config.transunet, dropout=0.0) == TINY
    _, variables = convert(config, theirs)
    back = export_arrays(transunet_pairs(config), named_arrays(variables))
    write_torch_file(tmp_path / "back.pth", tensors | back)  # not over the file that `tensors` are views of
    again = make(TINY, seed=1)[0]
    again.load_state_dict(torch.load(tmp_path / "back.pth", weights_only=True))
    np.testing.assert_array_equal(answers(again, image)["y"], answers(theirs, image)["y"])


def record(path):
    """Write the tensors of a narrow twin, rounded to float16 and all in one row, and its answers to one image.

    The image has fewer rows and columns than the twin can read: the twin is given zeros at the bottom and right.
    """
    model, image = make(TINY)
    h, w = 41, 36
    image[:, :, h:], image[:, :, :, w:] = 0, 0
    with torch.no_grad():
        for tensor in (*model.state_dict().values(), image):
            if tensor.is_floating_point():
                tensor.copy_(tensor.half())
    expected, tensors = answers(model, image), tensors_of(model)
    names = "\n".join(" ".join([name, *map(str, tensor.shape)]) for name, tensor in tensors.items())
    row = np.concatenate([tensor.astype(np.float16).reshape(-1) for tensor in tensors.values()])
    points = {f"mid/{name}": expected[name] for name in POINTS if name != "decoder"}
    names = np.frombuffer(names.encode(), np.uint8)
    x, y = image.numpy()[:, :, :h, :w].astype(np.float16), expected["y"][:, :, :h, :w]
    np.savez_compressed(path, names=names, tensors=row, x=x, y=y, **points)


if __name__ == "__main__":
    record(Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDING)
