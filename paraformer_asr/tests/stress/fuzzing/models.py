"""Files of models: folders of FunASR, exported models, run directories and checkpoints."""

import dataclasses
import hashlib
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from asr.checkpoints import CheckpointStore, restore_variables
from asr.checkpoints.manifest import DamagedCheckpointError, read_manifest, verify_files
from asr.checkpoints.safetensors_file import write_safetensors
from asr.config import Config, DecoderConfig, EncoderConfig, FeaturesConfig, ModelConfig
from asr.config.reader import save_config
from asr.data.cmvn import save_cmvn
from asr.data.frontend import Cmvn
from asr.data.text.tokenizer import Tokenizer, with_special_tokens
from asr.errors import UserError
from asr.inference.checksums import CheckedFolder
from asr.inference.loading import load_parts
from asr.inference.model_folder import load_weights
from asr.models import abstract_variables
from asr.published.funasr import load_funasr, save_funasr
from asr.published.funasr_config import read_settings
from asr.record.report import COLUMNS, Report
from asr.record.run_dir import load_run, open_run_dir
from fuzzing.configs import BOMBS, KEYS, VALUES
from fuzzing.mutations import change_bytes, change_text, hard_number, write_changed
from fuzzing.torch_files import write_torch
from fuzzing.trials import Kind

TOKENIZER = Tokenizer(
    with_special_tokens(["你", "he@@", "llo"]), "funasr", "lower", seg_dict={"hello": ("he@@", "llo")}
)
SIZES = {"num_heads": 1, "ffn_width": 4}
CONFIG = Config(
    features=FeaturesConfig(num_mels=4, lfr_m=1, lfr_n=1),
    model=ModelConfig(
        vocab_size=TOKENIZER.vocab_size,
        input_dim=4,
        encoder=EncoderConfig(num_layers=1, width=4, kernel_size=3, **SIZES),
        decoder=DecoderConfig(num_layers=1, kernel_size=3, **SIZES),
    ),
)
CMVN = Cmvn(np.full(4, -9, np.float32), np.full(4, 0.5, np.float32))

METRICS = [{"step": 3, "losses": {"total": 1.0}}, {"step": 6, "losses": {"total": None}}]

Files = dict[str, bytes]


def _variables() -> dict[str, Any]:
    """Return the parameters of the little model."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), abstract_variables(CONFIG.model))


def _read_files(folder: Path) -> Files:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _write_files(folder: Path, files: Files) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _funasr_samples(folder: Path) -> Files:
    features = dataclasses.replace(CONFIG.features, cmvn="file", cmvn_file="am.mvn")
    save_funasr(folder, dataclasses.replace(CONFIG, features=features), TOKENIZER, CMVN, _variables())
    return _read_files(folder)


def _write_funasr(rng: random.Random, files: Files, folder: Path) -> list[str]:
    """Write a folder of FunASR in which one file is changed or missing."""
    _write_files(folder, files)
    name = rng.choice(["config.yaml", *files])
    if rng.random() < 0.05:
        (folder / name).unlink()
    elif name == "model.pt":
        write_torch(rng, [files[name]], folder)
    elif name == "config.yaml" and rng.random() < 0.6:
        lines = files[name].decode().splitlines()
        place = rng.randrange(len(lines))
        lines[place] = f"{lines[place].partition(':')[0]}: {rng.choice(VALUES)}"
        text = "\n".join(lines) if rng.random() < 0.8 else rng.choice(BOMBS) + "\n" + files[name].decode()
        write_changed(rng, folder / name, text.encode())
    else:
        write_changed(rng, folder / name, change_text(rng, files[name], (*VALUES, "<unk>", "<s>")))
    return [str(folder)]


def _read_funasr(folder: Path) -> None:
    read_settings(folder)
    variables = load_funasr(folder)[3]
    assert all(np.shape(x) == y.shape for x, y in zip(*map(jax.tree.leaves, (variables, _variables())), strict=True))


def _exported_samples(folder: Path) -> Files:
    """Return what an exported model is read from; its program is not among it."""
    save_config(CONFIG, folder / "config.yaml")
    TOKENIZER.save(folder)
    save_cmvn(folder / "cmvn.txt", CMVN)
    arrays = {f"params/{name}": x for name, x in _flat(_variables()["params"]).items()}
    write_safetensors(folder / "weights.safetensors", arrays)
    return _with_checksums(_read_files(folder))


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    flat = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _with_checksums(files: Files) -> Files:
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()]
    return files | {"checksums.txt": "".join(lines).encode()}


def _write_exported(rng: random.Random, files: Files, folder: Path) -> list[str]:
    """Write an exported model with one changed file; half of the changes have their checksum made good."""
    name = rng.choice([*files, "weights.safetensors", "weights.safetensors"])
    content = files[name]
    if name == "weights.safetensors" and rng.random() < 0.6:
        content = _change_header(rng, content)
    elif name == "weights.safetensors":
        content = change_bytes(rng, content, head=2000)
    else:
        content = change_text(rng, content, (*VALUES, *KEYS))
    others = {other: kept for other, kept in files.items() if other not in (name, "checksums.txt")}
    made_good = name != "checksums.txt" and rng.random() < 0.7
    _write_files(folder, _with_checksums({**others, name: content}) if made_good else files)
    write_changed(rng, folder / name, content)
    return [str(folder)]


def _change_header(rng: random.Random, content: bytes) -> bytes:
    """Return a safetensors file with a changed JSON header; its length is right three times of four."""
    length = struct.unpack_from("<Q", content)[0]
    header = content[8 : 8 + length]
    words = ('"F32"', '"F64"', '"BF16"', '"F8_E4M3"', '"I8"', '"shape":[99999999999]', "params/encoder", "params", "/")
    if rng.random() < 0.5:
        old, new = rng.choice(_swaps(header)).encode().split(b">")
        header = header.replace(old, new, 1)
    else:
        header = change_text(rng, header, words)
    size = struct.pack("<Q", len(header)) if rng.random() < 0.75 else hard_number(rng, 8, "little")
    return size + header + content[8 + length :]


def _swaps(header: bytes) -> list[str]:
    """Return texts `from>to` that keep the header valid JSON."""
    name = next(iter(json.loads(header)))
    swaps = ["F32>F16", "F32>BF16", "F32>I32", "F32>F8_E4M3", "F32>BOOL", "[4]>[2,2]", "[4]>[0,4]", f"{name}>params"]
    return [*swaps, f"{name}>params/encoder", f"{name}>/", f"{name}>", f"{name}>__metadata__", "[0,>[4,"]


def _read_exported(folder: Path) -> None:
    config, tokenizer, _, variables = load_parts(folder)
    load_weights(CheckedFolder(folder), config)
    assert tokenizer.vocab_size == config.model.vocab_size and variables["params"]


def _run_samples(folder: Path) -> Files:
    save_config(CONFIG, folder / "config.yaml")
    TOKENIZER.save(folder)
    save_cmvn(folder / "cmvn.txt", CMVN)
    rows = ["".join(f"{step}," for _ in COLUMNS)[:-1] for step in (3, 6, 9)]
    (folder / "results.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    (folder / "metrics.json").write_text(json.dumps(METRICS, indent=1))
    return _read_files(folder)


def _write_run(rng: random.Random, files: Files, folder: Path) -> list[str]:
    """Write a run directory with one changed or missing file."""
    _write_files(folder, files)
    name = rng.choice(["results.csv", "metrics.json", *files])
    if rng.random() < 0.05:
        (folder / name).unlink()
    else:
        words = (
            '"step"',
            '{"step": 1e999}',
            "[1]",
            "step",
            ",",
            '"',
            "3.0",
            *(VALUES if name == "config.yaml" else ()),
        )
        write_changed(rng, folder / name, change_text(rng, files[name], words))
    return [str(folder)]


def _read_run(folder: Path) -> None:
    """Read a run directory as resuming it does."""
    config = load_run(folder)[0]
    Report(open_run_dir(folder), dataclasses.replace(config, training=CONFIG.training)).results.drop_after(6)


def _checkpoint_samples(folder: Path) -> Files:
    """Return two checkpoints; the arrays of step 1 are 1, those of step 2 are 2. Names and dates are orbax's."""
    store = CheckpointStore(folder, keep=2)
    for step in (1, 2):
        state = {"params": {"w": np.full((8, 4), step, np.float32), "b": np.full(3, step, np.float32)}}
        store.save(step, state, {"epoch": step}, [float(step)])
    return _read_files(folder)


def _write_checkpoint(rng: random.Random, files: Files, folder: Path) -> list[str]:
    """Write the checkpoints with one to three files flipped, truncated, removed, exchanged or replaced."""
    _write_files(folder / "checkpoints", files)
    for name in rng.sample(list(files), rng.choice((1, 1, 1, 2, 3))):
        path = folder / "checkpoints" / name
        if rng.random() < 0.15:
            path.unlink()
        elif name.endswith("manifest.json") and rng.random() < 0.5:
            write_changed(rng, path, _forge_manifest(rng, files[name]))
        else:
            write_changed(rng, path, change_bytes(rng, files[name], list(files.values())))
    return [str(folder / "checkpoints")]


def _forge_manifest(rng: random.Random, text: bytes) -> bytes:
    """Return a manifest with other contents, and its own checksum made good."""
    content = json.loads(text)
    del content["sha256"]
    part = content["details"] if rng.random() < 0.7 else next(iter(content["files"].values()))
    odd = (None, -1, 1.5, "text", [], {}, [[1]], {"a": [[4], "float99"]}, {"a": 3}, {"../a": [[-1], "float32"]})
    part[rng.choice(list(part))] = rng.choice(odd)
    if rng.random() < 0.3:
        del part[rng.choice(list(part))]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**content, "sha256": digest}, indent=1) + "\n").encode()


def _read_checkpoint(folder: Path) -> None:
    """Restore from damaged checkpoints: what comes is one of those that were saved, whole."""
    store = CheckpointStore(folder / "checkpoints")
    damaged = []
    for step in (1, 2):
        path = folder / "checkpoints" / f"step_{step:08d}"
        try:
            verify_files(path, read_manifest(path))
        except DamagedCheckpointError as error:
            assert str(path) in str(error), error
            damaged.append(step)
    intact = [step for step in store.steps() if step not in damaged]  # of a forged manifest the store says so itself
    if not intact:
        raise _refused(lambda: restore_variables(store.directory, "last"))
    params = restore_variables(store.directory, "last")["params"]
    values = {float(value) for x in params.values() for value in np.ravel(x)}
    assert values == {max(intact)}, f"restored {values}, not {max(intact)}"


def _refused(action: Callable[[], object]) -> UserError:
    try:
        action()
    except UserError as error:
        return error
    raise AssertionError("two damaged checkpoints, and no error")


FOLDERS = {"model": _exported_samples, "run": _run_samples, "funasr": _funasr_samples}

KINDS = (
    Kind("funasr", 6, _funasr_samples, _write_funasr, _read_funasr),
    Kind("model_folder", 6, _exported_samples, _write_exported, _read_exported),
    Kind("run", 6, _run_samples, _write_run, _read_run),
    Kind(
        "checkpoint", 5, _checkpoint_samples, _write_checkpoint, _read_checkpoint, (UserError, DamagedCheckpointError)
    ),
)
