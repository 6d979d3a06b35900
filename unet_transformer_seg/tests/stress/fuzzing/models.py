"""Models: exported folders and checkpoints."""

import hashlib
import json
import struct
from pathlib import Path
from random import Random

import jax
import numpy as np
from fuzzing.tree_mutations import change_json, change_tree, change_yaml, to_json
from fuzzing.trials import Case, Kind, change_file, read_tree

from seg.checkpoints import CheckpointStore, restore_variables
from seg.checkpoints.manifest import MANIFEST, Manifest, to_text
from seg.checkpoints.safetensors_file import write_safetensors
from seg.classes import make_class_table
from seg.config import Config, DataConfig, ModelConfig
from seg.config.reader import save_config
from seg.inference.model_folder import load_origin
from seg.inference.predictor import load_predictor
from seg.published import milesial
from seg.published.published_model import array_shapes

UNET = ModelConfig(name="unet", num_classes=3, base_width=2, depth=1)
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


KINDS = (
    Kind("model folder", make_model_folders, change_model_folder, read_model_folder),
    Kind("checkpoint", make_checkpoints, change_checkpoints, read_checkpoints),
)
