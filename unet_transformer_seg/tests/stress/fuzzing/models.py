"""Models: exported folders, checkpoints, and files of published weights."""

import dataclasses
import functools
import hashlib
import io
import json
import struct
import tempfile
from pathlib import Path
from random import Random

import jax
import numpy as np
from fuzzing.mutations import change_bytes, change_zip
from fuzzing.tree_mutations import change_json, change_tree, change_yaml, to_json
from fuzzing.trials import Case, Kind, change_file, read_tree

from seg.checkpoints import CheckpointStore, restore_variables
from seg.checkpoints.arrays import named_arrays
from seg.checkpoints.manifest import MANIFEST, Manifest, to_text
from seg.checkpoints.safetensors_file import write_safetensors
from seg.classes import make_class_table
from seg.config import Config, DataConfig, ModelConfig, ResNetUNetConfig, TransUNetConfig
from seg.config.reader import save_config
from seg.inference.model_folder import load_origin
from seg.inference.predictor import load_predictor
from seg.published import milesial, smp, transunet
from seg.published.mapping import export_arrays
from seg.published.published_model import array_shapes, open_published
from seg.published.r50_vit import read_vit_npz, read_vit_npz_config, vit_npz_pairs
from seg.published.torch_file import read_torch_file
from seg.published.torch_writer import write_torch_file

UNET = ModelConfig(name="unet", num_classes=3, base_width=2, depth=1)
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
PUBLISHED = {
    "milesial": (UNET, milesial.milesial_pairs),
    "smp": (ModelConfig(name="resnet_unet", num_classes=3, resnet_unet=RESNET), smp.smp_pairs),
    "transunet": (ModelConfig(name="transunet", num_classes=3, transunet=VIT), transunet.transunet_pairs),
}
WEIGHTS, CHECKSUMS = "weights.safetensors", "checksums.txt"


def random_arrays(config: ModelConfig) -> dict[str, np.ndarray]:
    """Return arrays by name for the variables of a model."""
    rng = np.random.default_rng(0)
    return {name: rng.random(shape, np.float32) for name, shape in array_shapes(config).items()}


# ---- model folders -----------------------------------------------------------------------------------------------


def make_model_folders(folder: Path) -> list[Case]:
    """Return an exported model, without its program, which no reader here opens."""
    folder.mkdir()
    save_config(Config(model=UNET, data=DataConfig(size=(16, 16))), folder / "config.yaml")
    make_class_table(("sky", "road", "tree")).save(folder / "classes.json")
    write_safetensors(folder / WEIGHTS, random_arrays(UNET))
    (folder / "origin.json").write_text(json.dumps({"kind": "milesial", "num_batches_tracked": {"a": 1}}))
    return [with_checksums(Case(read_tree(folder)))]


def with_checksums(case: Case) -> Case:
    """Return the case with the checksums of its files made right."""
    lines = (f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in case.files.items() if name != CHECKSUMS)
    return case.replace(CHECKSUMS, "".join(lines).encode())


def change_weights(rng: Random, content: bytes) -> bytes:
    """Return a safetensors file with a changed header, of the right length."""
    (size,) = struct.unpack_from("<Q", content)
    header = to_json(change_tree(rng, json.loads(content[8 : 8 + size])))
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


def change_model_folder(rng: Random, samples: list[Case]) -> Case:
    """Return a model folder with one file changed, and mostly the right checksum of it."""
    changes = {".yaml": change_yaml, ".json": change_json, ".safetensors": change_weights}
    case = change_file(rng, samples, changes)
    return with_checksums(case) if rng.random() < 0.8 else case


def read_model_folder(folder: Path, case: Case) -> None:
    """Read a model folder as every command does."""
    predictor = load_predictor(folder)
    assert len(predictor.classes) == predictor.config.model.num_classes
    counters = load_origin(folder).get("num_batches_tracked", {})
    milesial.with_counters({"a.running_var": np.zeros(1)}, counters)


# ---- checkpoints -------------------------------------------------------------------------------------------------

STATES = {step: {"params": {"w": np.full((4, 5), step, np.float32), "n": np.int32(step)}} for step in (1, 2)}


def make_checkpoints(folder: Path) -> list[Case]:
    """Return the checkpoints of a run after two evaluations."""
    store = CheckpointStore(folder)
    for step, state in STATES.items():
        store.save(step, jax.tree.map(jax.numpy.asarray, state), {"step": step}, best=step == 1)
    return [Case(read_tree(folder))]


def change_checkpoints(rng: Random, samples: list[Case]) -> Case:
    """Return checkpoints with one to three of their files changed, exchanged or removed."""
    case = change_file(rng, samples, {".json": change_json})
    if rng.random() < 0.3:
        case = change_file(rng, [case], {})
    return signed(case) if rng.random() < 0.5 else case


def signed(case: Case) -> Case:
    """Return checkpoints whose manifests have the right checksum, whatever they contain."""
    for name, content in case.files.items():
        if name.endswith(MANIFEST):
            try:
                said = json.loads(content)
                case = case.replace(name, to_text(Manifest(said["details"], said["files"])).encode())
            except (ValueError, LookupError, TypeError, RecursionError):
                continue
    return case


def read_checkpoints(folder: Path, case: Case) -> None:
    """Restore as training and inference do: the result is the state of one of the steps, to the bit."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), STATES[1])
    state, _ = CheckpointStore(folder).restore(abstract)
    jax.tree.map(np.testing.assert_array_equal, state, STATES[int(state["params"]["n"])])
    for name, array in restore_variables(folder)["params"].items():
        assert any(np.array_equal(array, state["params"][name]) for state in STATES.values()), name


# ---- published weights -------------------------------------------------------------------------------------------


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
    extras = {"milesial": {"mask_values": [0, 1, 2]}}
    files = {kind: to_torch_file(folder, published_tensors(kind), extras.get(kind, {})) for kind in PUBLISHED}
    return [Case({"w.pth": content}, (kind,)) for kind, content in files.items()]


def change_published(rng: Random, samples: list[Case]) -> Case:
    """Return published weights with tensors that are missing, renamed, repeated, or of other shapes and kinds."""
    case = rng.choice(samples)
    (kind,) = case.arguments
    if rng.random() < 0.2:
        return dataclasses.replace(change_torch_file(rng, [case]), arguments=case.arguments)
    tensors, extras = dict(published_tensors(kind)), {}
    for _ in range(rng.choice((1, 1, 2, 5))):
        change_tensors(rng, tensors)
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
    assert array_shapes(model.config.model) == {k: np.shape(v) for k, v in named_arrays(model.variables).items()}
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


KINDS = (
    Kind("model folder", make_model_folders, change_model_folder, read_model_folder),
    Kind("checkpoint", make_checkpoints, change_checkpoints, read_checkpoints),
    Kind("torch file", make_torch_files, change_torch_file, read_tensors),
    Kind("published", make_published, change_published, open_file),
    Kind("npz", make_npz, change_npz, read_npz),
)
