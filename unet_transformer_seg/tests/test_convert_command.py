"""Published weights become a model folder by one command, and a model folder a published file by another."""

import functools
import sys
import zipfile
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np
import pytest
from PIL import Image

from seg import convert, infer
from seg.cli import run_command
from seg.config import ModelConfig, ResNetUNetConfig, TransUNetConfig
from seg.config.reader import load_config
from seg.inference.predictor import load_predictor
from seg.models import build_model
from seg.published import published_model
from seg.published.mapping import export_arrays
from seg.published.milesial import milesial_pairs, with_counters
from seg.published.published_model import WHOLE_UP_TO, array_shapes
from seg.published.r50_vit import vit_npz_pairs
from seg.published.smp import smp_pairs
from seg.published.torch_file import read_torch_file
from seg.published.torch_writer import write_torch_file
from seg.published.transunet import transunet_pairs

TRANSUNET = TransUNetConfig(
    resnet_width=2,
    resnet_units=(1, 1, 1),
    hidden_width=4,
    num_layers=1,
    num_heads=2,
    mlp_width=6,
    position_grid=(2, 2),
    bridge_width=4,
    decoder_widths=(4, 3, 3, 2),
)
RESNET_UNET = ResNetUNetConfig(units=(1, 1, 1, 1), encoder_width=2, decoder_widths=(4, 3, 3, 2, 2))
MODELS = {
    "milesial": ModelConfig(name="unet", num_classes=3, base_width=4, depth=2),
    "transunet": ModelConfig(name="transunet", num_classes=3, transunet=TRANSUNET),
    "smp": ModelConfig(name="resnet_unet", num_classes=3, resnet_unet=RESNET_UNET),
}
PAIRS = {"milesial": milesial_pairs, "transunet": transunet_pairs, "smp": smp_pairs}


@functools.cache
def arrays_of(kind):
    """Drawn arrays of our model: factors and variances near 1, kernels of a sensible spread."""
    random, arrays = np.random.default_rng(1), {}
    for name, shape in array_shapes(MODELS[kind]).items():
        normal = random.normal(size=shape)
        if name.endswith(("scale", "var")):
            normal = 1 + 0.2 * np.abs(normal)
        elif name == "params/heads/pixel/bias":
            normal *= 0
        elif len(shape) > 1:
            normal *= (2 / np.prod(shape[:-1])) ** 0.5
        arrays[name] = normal.astype(np.float32)
    return arrays


def tensors_of(kind):
    return with_counters(export_arrays(PAIRS[kind](MODELS[kind]), arrays_of(kind)))


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command with arguments; return (exit code, what it said on the error output)."""

    def run(command, *arguments):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run_command(command.main)
        return end.value.code, capsys.readouterr().err

    return run


@pytest.fixture
def pth(tmp_path):
    tensors = {name: np.array(12) if name.endswith("tracked") else x for name, x in tensors_of("milesial").items()}
    write_torch_file(tmp_path / "carvana.pth", tensors, {"mask_values": [0, 100, 255]})
    return tmp_path / "carvana.pth"


@pytest.fixture
def no_program(monkeypatch):
    """Leave out the program in the model folder, which takes long to trace and has its own tests."""
    monkeypatch.setattr("seg.inference.model_folder.export_program", lambda *_: b"")


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ---- what is written -------------------------------------------------------------------------------------------


def test_the_mask_of_an_image_is_what_the_network_says_of_it_and_the_way_back_is_exact(run, pth, tmp_path):
    folder = tmp_path / "model"
    assert run(convert, "--from", "milesial", pth, "--out", folder, "--classes", "sky,road,tree")[0] == 0
    image_hwc = np.random.default_rng(2).integers(0, 256, (21, 34, 3), np.uint8)
    Image.fromarray(image_hwc).save(tmp_path / "photo.png")
    assert run(infer, "--model", folder, "--out", tmp_path / "masks", "--no-overlay", tmp_path / "photo.png")[0] == 0
    variables = flax.traverse_util.unflatten_dict(arrays_of("milesial"), sep="/")
    model = build_model(MODELS["milesial"])
    logits_bhwk = jax.jit(lambda x: model.apply(variables, x, False))(image_hwc[None] / np.float32(255))
    expected_hw = np.argmax(logits_bhwk[0], axis=-1)
    (mask,) = (tmp_path / "masks").rglob("*.png")
    with Image.open(mask) as found:
        np.testing.assert_array_equal(np.array(found), expected_hw)
    assert len(np.unique(expected_hw)) == 3  # else the comparison says little
    predictor = load_predictor(folder)
    assert (predictor.config.name, predictor.classes.names) == ("carvana", ("sky", "road", "tree"))
    assert predictor.config.inference.whole_up_to == WHOLE_UP_TO

    assert run(convert, "--to", "milesial", folder, "--out", tmp_path / "back.pth")[0] == 0
    assert (tmp_path / "back.pth").read_bytes() == pth.read_bytes()
    assert run(convert, "--to", "milesial", folder, "--out", tmp_path / "back.pth", "--force")[0] == 0
    assert [name for name in files(tmp_path) if "/" not in name] == [
        "back.pth", "carvana.pth", "masks", "model", "photo.png"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["transunet", "smp"])
def test_other_kinds_become_a_model_folder(run, tmp_path, kind):
    write_torch_file(tmp_path / "w.pth", {f"module.{n}": t for n, t in tensors_of(kind).items() if "tracked" not in n})
    heads = ["--num-heads", 2] if kind == "transunet" else []
    arguments = ["--from", kind, tmp_path / "w.pth", "--out", tmp_path / "model", *heads, "data.size=[32,32]"]
    assert run(convert, *arguments)[0] == 0
    predictor = load_predictor(tmp_path / "model")
    assert predictor.config.model == MODELS[kind] and predictor.tile == (32, 32)
    assert predictor.classes.names == ("background", "class 1", "class 2")
    found = flax.traverse_util.flatten_dict(predictor.variables, sep="/")
    assert found.keys() == arrays_of(kind).keys()
    for name, array in arrays_of(kind).items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("name", "options", "scale", "said"),
    [
        ("checkpoint_epoch5.pth", [], "native", "convert again with --scale 0.5"),
        ("unet_carvana_scale0.5_epoch2.pth", [], 0.5, "scaled by 0.5"),
        ("unet_carvana_scale1.0_epoch2.pth", [], "native", "kept at their own size"),
        ("unet_carvana_scale0.5_epoch2.pth", ["--scale", "native"], "native", "kept at their own size"),
        ("checkpoint_epoch5.pth", ["--scale", "0.25"], 0.25, "scaled by 0.25"),
        ("checkpoint_epoch5.pth", ["--scale", "trained"], "trained", "resized to fit into 512 × 512"),
    ],
    ids=str,
)
def test_the_scale_of_a_milesial_is_its_names_or_the_options(
    run, pth, tmp_path, no_program, monkeypatch, name, options, scale, said
):
    monkeypatch.setattr("seg.convert.print", lambda *text: told.extend(text), raising=False)
    told, path = [], pth.rename(tmp_path / name)
    assert run(convert, "--from", "milesial", path, "--out", tmp_path / "model", *options)[0] == 0
    assert load_config(tmp_path / "model/config.yaml").inference.scale == scale
    assert said in " ".join(told)


def test_a_transunet_resizes_as_its_program_does_and_an_smp_does_not():
    assert published_model._scale("transunet", Path("x_scale0.5.pth")) == "trained"
    assert published_model._scale("smp", Path("x_scale0.5.pth")) == "native"


def test_a_folder_that_was_converted_before_scales_takes_images_as_they_are(run, pth, tmp_path, no_program):
    folder = tmp_path / "model"
    assert run(convert, "--from", "milesial", pth, "--out", folder, "--scale", "0.5")[0] == 0
    config = (folder / "config.yaml").read_text()
    assert config.count("scale: 0.5") == 1
    (folder / "config.yaml").write_text(config.replace("scale: 0.5, ", "").replace("  scale: 0.5\n", ""))
    assert load_config(folder / "config.yaml").inference.scale == "native"
    (folder / "origin.json").unlink()
    assert load_config(folder / "config.yaml").inference.scale == "trained"


def test_a_transunet_starts_from_an_npz(run, tmp_path, monkeypatch, no_program):
    small = {"bridge_width": 4, "decoder_widths": (4, 3, 3, 2)}
    monkeypatch.setattr("seg.published.r50_vit.TransUNetConfig", functools.partial(TransUNetConfig, **small))
    # The decoder's draw has its own test; zeros compile sooner.
    monkeypatch.setattr("seg.models.layers.truncated_normal", lambda _: jax.nn.initializers.zeros)
    np.savez(tmp_path / "vit.npz", **export_arrays(vit_npz_pairs(MODELS["transunet"]), arrays_of("transunet")))
    arguments = ["--from", "r50-vit", tmp_path / "vit.npz", "--out", tmp_path / "model", "--num-classes", 3]
    assert run(convert, *arguments, "data.size=[32,32]")[0] == 0
    predictor = load_predictor(tmp_path / "model")
    assert predictor.config.model == MODELS["transunet"] and predictor.config.data.mean == (0.5, 0.5, 0.5)
    kernel = predictor.variables["params"]["resnet"]["root_conv"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays_of("transunet")["params/resnet/root_conv/kernel"])


# ---- what is refused -------------------------------------------------------------------------------------------


def without(tensors, *names):
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def write_attack(path, marker):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("hand/data.pkl", f"\x80\x02cos\nmkdir\n(V{marker}\ntR.".encode("latin-1"))


SPOILED = {
    "a pickle that runs something": (lambda path: write_attack(path, path.with_name("it ran")), "asks for os.mkdir"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-300]), "truncated or damaged"),
    "no archive": (lambda path: path.write_text("weights"), "found text ('weights' …)"),
    "not there": (Path.unlink, "No such file"),
    "a tensor too few": (
        lambda path: write_torch_file(path, without(tensors_of("milesial"), "up2.up.weight")),
        "up2.up.weight: missing",
    ),
    "a tensor too many": (
        lambda path: write_torch_file(path, {**tensors_of("milesial"), "up2.gate": np.zeros(3)}),
        "up2.gate: unexpected, float64[3]",
    ),
    "another model": (lambda path: write_torch_file(path, tensors_of("smp")), "expected the state dict of milesial"),
    "values of other masks": (
        lambda path: write_torch_file(path, tensors_of("milesial"), {"mask_values": [0, 255]}),
        "mask_values: expected 3 numbers or colours",
    ),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_file_that_is_not_as_it_should_be_is_refused_and_nothing_is_written(run, pth, tmp_path, kind):
    spoil, said = SPOILED[kind]
    spoil(pth)
    before = files(tmp_path)
    code, message = run(convert, "--from", "milesial", pth, "--out", tmp_path / "model")
    assert code == 2
    assert message.startswith(f"error: {pth}: ") and message.count("error:") == 1 and said in message
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--classes", "sky,road"], "the model has 3 classes, but there are 2 names"),
        (["model.base_width=8"], "its tensors do not fit a model with model.base_width=8"),
        (["model.num_classes=2"], "do not fit a model with model.num_classes=2"),
        (["data.sise=[32,32]"], "did you mean 'data.size'"),
        (["--num-heads", "x"], "invalid int value"),
    ],
    ids=str,
)
def test_arguments_that_contradict_the_file_are_refused(run, pth, tmp_path, arguments, said):
    code, message = run(convert, "--from", "milesial", pth, "--out", tmp_path / "model", *arguments)
    assert code == 2 and said in message
    assert files(tmp_path) == ["carvana.pth"]


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_what_is_there_already_is_kept(run, pth, tmp_path, force):
    (tmp_path / "model").mkdir()
    code, message = run(convert, "--from", "milesial", pth, "--out", tmp_path / "model", *force)
    assert code == 2 and "choose another --out" in message
    assert files(tmp_path) == ["carvana.pth", "model"]


def test_an_unknown_kind_is_refused_with_those_that_exist(run, pth, tmp_path):
    code, message = run(convert, "--from", "keras", pth, "--out", tmp_path / "model")
    known = "milesial, transunet, r50-vit, smp, nnunet, segformer, efficientnet-lite, torchvision"
    assert code == 2 and f"expected {known}; found 'keras'" in message
    code, message = run(convert, "--to", "smp", pth, "--out", tmp_path / "back.pth")
    assert code == 2 and "expected milesial; found 'smp'" in message


def test_on_the_way_back_mistakes_are_answered_and_nothing_is_written(run, pth, tmp_path, no_program):
    write_torch_file(tmp_path / "smp.pth", tensors_of("smp"))
    assert run(convert, "--from", "smp", tmp_path / "smp.pth", "--out", tmp_path / "model", "data.size=[32,32]")[0] == 0
    before = files(tmp_path)
    for model, out, said in (
        ("model", "carvana.pth", "exists already"),
        ("model", "back.pth", "model.name: milesial's U-Net has unet, this model resnet_unet"),
        ("nowhere", "back.pth", "config.yaml"),
    ):
        code, message = run(convert, "--to", "milesial", tmp_path / model, "--out", tmp_path / out)
        assert code == 2 and message.startswith("error: ") and said in message, message
    (tmp_path / "model/origin.json").write_text("{")
    code, message = run(convert, "--to", "milesial", tmp_path / "model", "--out", tmp_path / "back.pth")
    assert code == 2 and "origin.json: is not as it was written" in message
    assert files(tmp_path) == before


@pytest.mark.parametrize("out", ["none/back.pth", "carvana.pth/back.pth"])
def test_a_place_that_cannot_be_written_is_refused(run, pth, tmp_path, out, no_program):
    assert run(convert, "--from", "milesial", pth, "--out", tmp_path / "model")[0] == 0
    code, message = run(convert, "--to", "milesial", tmp_path / "model", "--out", tmp_path / out)
    assert code == 2 and "cannot be written" in message
    assert read_torch_file(pth).tensors.keys() == tensors_of("milesial").keys()
