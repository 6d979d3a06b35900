"""Folders of strangers: names of sounds, links and pipes in the place of files, headers of weights."""

import os
import random
from pathlib import Path

from asr.checkpoints.safetensors_file import read_safetensors
from asr.data.sounds.audio import read_audio
from asr.errors import UserError
from asr.files import read_bounded, writing_aside
from asr.inference.loading import load_parts
from asr.inference.output import plan_jobs
from asr.record.run_dir import load_run
from asr.untrusted import HARMFUL, name_key
from fuzzing import models
from fuzzing.hostile import PLANTS, draw_header, draw_name, plant
from fuzzing.trials import Kind

Files = dict[str, bytes]


def _write_names(rng: random.Random, _: object, folder: Path) -> list[str]:
    """Write empty sounds under strange names, some of them in folders of such names."""
    parents = ["", "", *(f"{os.fsdecode(draw_name(rng, ('',))[:200])} of mine" for _ in range(2))]
    (folder / "in").mkdir()
    (folder / "in" / "a.wav").touch()
    for _ in range(rng.randrange(1, 8)):
        parent = folder / "in" / rng.choice(parents)
        parent.mkdir(exist_ok=True)
        (parent / os.fsdecode(draw_name(rng, (".wav", ".flac", ".mp3")))).touch()
    return [str(folder)]


def _read_names(folder: Path) -> None:
    """Plan and write the results: inside their folder, under safe names, no two of them one anywhere."""
    before = _count(folder / "in")
    jobs = plan_jobs([folder / "in"], folder / "out", ".txt")
    files = [job.result for job in jobs]
    assert len({name_key(str(file)) for file in files}) == len(files)
    for file in files:
        inside = os.path.relpath(os.path.abspath(file), folder / "out")
        assert not HARMFUL.search(inside) and inside.encode()
        assert not any(part.startswith(".") for part in Path(inside).parts), inside
    written = [file for file in files if _write(file)]
    assert all(file.read_text() == str(file) for file in written)
    assert _count(folder / "in") == before and _count(folder) == before + _count(folder / "out")


def _count(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def _write(file: Path) -> bool:
    try:
        with writing_aside(file, parents=True) as aside:
            aside.write_text(str(file))
    except UserError as error:
        assert "too long" in str(error), error
        return False
    return True


def _places_samples(folder: Path) -> dict[str, Files]:
    """Return the files of an exported model, of a run, and of a model of FunASR."""
    samples = {}
    for name, make in models.FOLDERS.items():
        (folder / name).mkdir()
        samples[name] = make(folder / name)
    return samples


def _write_places(rng: random.Random, samples: dict[str, Files], folder: Path) -> list[str]:
    """Write one of the samples, something else in the place of one of its files."""
    kind = rng.choice(sorted(samples))
    for name, content in samples[kind].items():
        (folder / name).write_bytes(content)
    plant(rng.choice(PLANTS), folder / rng.choice(sorted(samples[kind])))
    return [str(folder)]


def _read_places(folder: Path) -> None:
    """Read the model, the run, and each file as a sound and as a list."""
    for path in sorted(folder.iterdir()):
        for read in (lambda path: read_audio(path, 16_000), lambda path: read_bounded(path, 1 << 20)):
            try:
                read(path)
            except (UserError, OSError) as error:
                assert str(path) in str(error) or isinstance(error, OSError), error
    if (folder / "results.csv").exists():
        load_run(folder)
    else:
        load_parts(folder)


def _write_header(rng: random.Random, _: object, folder: Path) -> list[str]:
    """Write weights whose header is not true."""
    (folder / "w.safetensors").write_bytes(draw_header(rng))
    return [str(folder)]


def _read_header(folder: Path) -> None:
    """Read the weights: one short line, or arrays that fill the file."""
    path = folder / "w.safetensors"
    try:
        arrays, _ = read_safetensors(path)
    except UserError as error:
        assert len(str(error).replace(str(path), "")) < 500 and str(error).isprintable(), str(error)[:500]
        raise
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert header + sum(array.nbytes for array in arrays.values()) == path.stat().st_size


KINDS = (
    Kind("names", 4, lambda folder: None, _write_names, _read_names),
    Kind("places", 4, _places_samples, _write_places, _read_places),
    Kind("header", 2, lambda folder: None, _write_header, _read_header),
)
