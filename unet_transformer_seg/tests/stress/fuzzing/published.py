"""Files of published weights."""

import dataclasses
import functools
import io
import json
import tempfile
from pathlib import Path
from random import Random

import numpy as np
from fuzzing.models import UNET, random_arrays
from fuzzing.mutations import change_bytes, change_zip
from fuzzing.tree_mutations import change_tree, to_json
from fuzzing.trials import Case, Kind

from seg.checkpoints.arrays import named_arrays
from seg.config import ModelConfig, PlainConvUNetConfig, ResNetUNetConfig, TransUNetConfig
from seg.config.reader import save_config
from seg.published import milesial, nnunet, segformer, smp, transunet
from seg.published.mapping import export_arrays
from seg.published.published_model import array_shapes, open_published
from seg.published.r50_vit import read_vit_npz, read_vit_npz_config, vit_npz_pairs
from seg.published.torch_file import read_torch_file
from seg.published.torch_writer import write_torch_file

RESNET = ResNetUNetConfig(units=(1, 1, 1, 1), encoder_width=2, decoder_widths=(2, 2, 2, 2, 2))
VIT = TransUNetConfig(
    resnet_width=32,
    resnet_units=(1, 1, 1),
    hidden_width=64,
    num_layers=1,
    num_heads=1,
    mlp_width=8,
    position_grid=(2, 2),
    bridge_width=4,
    decoder_widths=(4, 4, 4, 4),
)
STAGES = PlainConvUNetConfig(
    widths=(2, 3), kernel_sizes=((3, 3),) * 2, strides=((1, 1), (2, 2)), encoder_convs=(1, 1), decoder_convs=(1,)
)
PLAN = {
    "features_per_stage": [2, 3],
    "kernel_sizes": [[3, 3], [3, 3]],
    "strides": [[1, 1], [2, 2]],
    "n_conv_per_stage": [1, 1],
    "n_conv_per_stage_decoder": [1],
    "conv_bias": True,
}
CONFIGURATION = {
    "patch_size": [16, 16],
    "normalization_schemes": ["RGBTo01Normalization"] * 3,
    "architecture": {"network_class_name": "unet.PlainConvUNet", "arch_kwargs": PLAN},
}
LABELS = {"background": 0, "cell": 1, "edge": 2}
INIT_ARGS = {
    "configuration": "2d",
    "plans": {"configurations": {"2d": CONFIGURATION}},
    "dataset_json": {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": LABELS},
}
EXTRAS = {"milesial": {"mask_values": [0, 1, 2]}, "nnunet": {"init_args": INIT_ARGS}}
PUBLISHED = {
    "milesial": (UNET, milesial.milesial_pairs),
    "smp": (ModelConfig(name="resnet_unet", num_classes=3, resnet_unet=RESNET), smp.smp_pairs),
    "transunet": (ModelConfig(name="transunet", num_classes=3, transunet=VIT), transunet.transunet_pairs),
    "nnunet": (ModelConfig(name="plain_conv_unet", num_classes=3, plain_conv_unet=STAGES), nnunet.nnunet_pairs),
}


@functools.cache
def published_tensors(kind: str) -> dict[str, np.ndarray]:
    """Return the tensors of a small published model, by their names there."""
    config, pairs = PUBLISHED[kind]
    return export_arrays(pairs(config), random_arrays(config))


def to_torch_file(folder: Path, tensors: dict[str, np.ndarray], extras: dict) -> bytes:
    """Return the file of tensors and extras."""
    folder.mkdir(exist_ok=True)
    write_torch_file(folder / "w.pth", tensors, extras)
    return (folder / "w.pth").read_bytes()


def make_torch_files(folder: Path) -> list[Case]:
    """Return files as `torch.save` writes them."""
    tensors = {"grid": np.arange(12, dtype=np.float32).reshape(3, 4), "half": np.ones(3, np.float16)}
    tensors |= {"count": np.array(3), "none": np.zeros((0, 2), np.float32), "flags": np.array([True, False])}
    extras = {"mask_values": [0, 255], "epoch": 3, "more": {"a": [1.5, None, "x"]}}
    return [Case({"w.pth": to_torch_file(folder, tensors, extras)})]


def change_torch_file(rng: Random, samples: list[Case]) -> Case:
    """Return a changed archive; most of its entries keep the right checksum."""
    (content,) = rng.choice(samples).files.values()
    changed = change_zip(rng, content, []) if rng.random() < 0.7 else change_bytes(rng, content, [content])
    return Case({"w.pth": changed})


def read_tensors(folder: Path, case: Case) -> None:
    """Read a file of tensors, and each of their values."""
    for tensor in read_torch_file(folder / "w.pth").tensors.values():
        np.array_equal(tensor, tensor)


def make_published(folder: Path) -> list[Case]:
    """Return a file of each kind of published weights."""
    files = {kind: to_torch_file(folder, published_tensors(kind), EXTRAS.get(kind, {})) for kind in PUBLISHED}
    return [Case({"w.pth": content}, (kind,)) for kind, content in files.items()]


def change_published(rng: Random, samples: list[Case]) -> Case:
    """Return published weights with tensors that are missing, renamed, repeated, or of other shapes and kinds."""
    case = rng.choice(samples)
    (kind,) = case.arguments
    if rng.random() < 0.2:
        return dataclasses.replace(change_torch_file(rng, [case]), arguments=case.arguments)
    tensors, extras = dict(published_tensors(kind)), EXTRAS[kind] if kind == "nnunet" else {}
    for _ in range(rng.choice((1, 1, 2, 5))):
        change_tensors(rng, tensors)
    if kind == "nnunet" and rng.random() < 0.7:
        tensors = published_tensors(kind) if rng.random() < 0.5 else tensors
        extras = {"init_args": change_tree(rng, INIT_ARGS)}
    if kind == "milesial" and rng.random() < 0.5:
        extras = change_tree(rng, {"mask_values": rng.choice([[0, 1, 2], [[0, 0, 0], [1, 1, 1], [2, 2, 2]]])})
    return Case({"w.pth": _written(tensors, extras if isinstance(extras, dict) else {"mask_values": extras})}, (kind,))


def _written(tensors: dict[str, np.ndarray], extras: dict) -> bytes:
    """Return the file of tensors and extras; without those that the writer has no form for."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return to_torch_file(Path(folder), tensors, extras)
        except (ValueError, UnicodeEncodeError):
            return to_torch_file(Path(folder), tensors, {})


def change_tensors(rng: Random, tensors: dict[str, np.ndarray]) -> None:
    """Change one tensor, or the names of some."""
    name = rng.choice(list(tensors))
    tensor = tensors[name]
    match rng.randrange(7):
        case 0:
            del tensors[name]
        case 1:
            tensors[rng.choice((name + "x", "module." + name, "", "x" * 5000, "\x1b[2J", "a/b"))] = tensors.pop(name)
        case 2:
            axis, width = rng.randrange(max(tensor.ndim, 1)), rng.choice((0, 1, 3, 5, 300))
            if tensor.ndim:
                tensors[name] = np.resize(tensor, (*tensor.shape[:axis], width, *tensor.shape[axis + 1 :]))
        case 3:
            tensors[name] = rng.choice(
                (tensor[None], tensor.reshape(-1), np.float32(1) + np.zeros(()), tensor * np.nan)
            )
        case 4:
            tensors[name] = tensor.astype(rng.choice((np.int64, np.float64, np.float16, np.bool_)))
        case 5:
            old, new = rng.choice(
                (("1.", "2."), ("0.", "1."), ("unit1", "unit2"), ("down1", "down2"), ("layer1", "layer5"))
            )
            tensors |= {key.replace(old, new): value for key, value in tensors.items() if old in key}
        case _:
            source = rng.choice((("down1.", "down{}."), ("layer.0.", "layer.{}."), ("layer1.0.", "layer1.{}.")))
            for number in range(1, rng.choice((3, 70, 300))):
                new = {k.replace(source[0], source[1].format(number)): v for k, v in tensors.items() if source[0] in k}
                tensors |= new


def open_file(folder: Path, case: Case) -> None:
    """Open published weights as `seg.convert` does, and write their settings."""
    model = open_published(case.arguments[0], folder / "w.pth")
    shapes = array_shapes(model.config.model, model.config.data.channels)
    assert shapes == {k: np.shape(v) for k, v in named_arrays(model.variables).items()}
    assert len(model.classes) == model.config.model.num_classes
    save_config(model.config, folder / "config.yaml")


@functools.cache
def vit_arrays() -> dict[str, np.ndarray]:
    """Return the arrays of a small R50+ViT in Flax's layout."""
    config = ModelConfig(name="transunet", num_classes=2, transunet=VIT)
    arrays, pairs = random_arrays(config), vit_npz_pairs(config)
    exported = export_arrays(pairs, {pair.ours: arrays[pair.ours] for pair in pairs})
    return exported | {"cls": np.zeros((1, 1, 64), np.float32), "head/kernel": np.zeros((64, 10), np.float32)}


def make_npz(folder: Path) -> list[Case]:
    """Return an archive of arrays, plain and compressed."""
    cases = []
    for write in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        write(file, **vit_arrays())
        cases.append(Case({"w.npz": file.getvalue()}))
    return cases


def change_npz(rng: Random, samples: list[Case]) -> Case:
    """Return a changed archive, or one of changed arrays."""
    (content,) = rng.choice(samples).files.values()
    if rng.random() < 0.4:
        arrays, file = dict(vit_arrays()), io.BytesIO()
        change_tensors(rng, arrays)
        np.savez(file, **{name.replace("\x1b", ""): array for name, array in arrays.items()})
        return Case({"w.npz": file.getvalue()})
    changed = change_zip(rng, content, []) if rng.random() < 0.7 else change_bytes(rng, content, [content])
    return Case({"w.npz": changed})


def read_npz(folder: Path, case: Case) -> None:
    """Read the arrays, and what model they are a part of."""
    path = folder / "w.npz"
    vit_npz_pairs(read_vit_npz_config(read_vit_npz(path), num_classes=2))


SAVED = {
    "config.json": {
        "_model_class": "Unet",
        "decoder_interpolation": "nearest",
        "encoder_depth": 5,
        "architectures": ["SegformerForSemanticSegmentation"],
        "depths": [2, 2, 2, 2],
        "hidden_sizes": [32, 64, 160, 256],
        "decoder_hidden_size": 256,
        "id2label": {"0": "sky", "1": "road"},
    },
    "preprocessor_config.json": {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2], "size": {"height": 64}},
}


def make_settings(folder: Path) -> list[Case]:
    """Return a folder with the settings of both libraries that have a `save_pretrained`, beside no weights."""
    return [Case({name: json.dumps(content).encode() for name, content in SAVED.items()} | {"model.safetensors": b""})]


def change_settings(rng: Random, samples: list[Case]) -> Case:
    """Return the folder with one of its files changed."""
    name = rng.choice(list(SAVED))
    content = to_json(change_tree(rng, SAVED[name]))
    return rng.choice(samples).replace(name, content if rng.random() < 0.8 else content[: len(content) // 2])


def read_settings(folder: Path, case: Case) -> None:
    """Read the settings as both libraries' models do."""
    smp.find_pretrained(folder)
    files = segformer.find_segformer(folder)
    segformer.read_segformer_config(files, 2)
    segformer.read_class_names(files, 2)
    segformer.read_data_settings(folder, 3)


KINDS = (
    Kind("settings", make_settings, change_settings, read_settings),
    Kind("torch file", make_torch_files, change_torch_file, read_tensors),
    Kind("published", make_published, change_published, open_file),
    Kind("npz", make_npz, change_npz, read_npz),
)
