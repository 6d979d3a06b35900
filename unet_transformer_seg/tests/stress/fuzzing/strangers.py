"""Folders of strangers: names of images, links and pipes in the place of files, headers of weights."""

import os
from pathlib import Path
from random import Random

from fuzzing.configs import make_runs
from fuzzing.hostile import PLANTS, draw_header, draw_name, plant
from fuzzing.models import make_model_folders
from fuzzing.pictures import make_images
from fuzzing.trials import Case, Kind

from seg.checkpoints.safetensors_file import read_safetensors
from seg.data.image_file import read_image
from seg.data.images.image_kind import SUFFIXES
from seg.errors import UserError
from seg.files import writing_aside
from seg.inference.model_folder import load_origin
from seg.inference.output import plan_jobs
from seg.inference.predictor import load_predictor
from seg.record.run_dir import load_run
from seg.untrusted import HARMFUL, name_key


def change_names(rng: Random, samples: list[Case]) -> Case:
    """Return images under strange names, some of them in folders of such names."""
    names = sorted({os.fsdecode(draw_name(rng, SUFFIXES[:3])) for _ in range(rng.randrange(1, 8))})
    folders = ["", "", *(f"{os.fsdecode(draw_name(rng, ('',))[:200])} of mine" for _ in range(2))]
    files = {os.path.join("in", rng.choice(folders), name): b"" for name in names}
    return Case(samples[0].files | files)


def read_names(folder: Path, case: Case) -> None:
    """Plan and write the results: inside their folder, under safe names, no two of them one anywhere."""
    jobs = plan_jobs([folder / "in"], folder / "out")
    files = [file for job in jobs for file in job.files]
    assert len({name_key(str(file)) for file in files}) == len(files)
    for file in files:
        inside = os.path.relpath(os.path.abspath(file), folder / "out")
        assert not HARMFUL.search(inside) and inside.encode()
        assert not any(part.startswith(".") for part in Path(inside).parts), inside
    written = [file for file in files if _write(file)]
    assert all(file.read_text() == str(file) for file in written)
    left = [path for path in folder.rglob("*") if path.is_file() and not path.is_relative_to(folder / "out")]
    assert len(left) == len(case.files), "something was written outside"


def _write(file: Path) -> bool:
    try:
        with writing_aside(file, parents=True) as aside:
            aside.write_text(str(file))
    except UserError as error:
        assert "too long" in str(error), error
        return False
    return True


def change_places(rng: Random, samples: list[Case]) -> Case:
    """Return a sample, and what replaces one of its files."""
    case = rng.choice(samples)
    return Case(case.files, (rng.choice(sorted(case.files)), rng.choice(PLANTS)))


def read_places(folder: Path, case: Case) -> None:
    """Plant what was drawn, and read the model, the run or the image as the commands do."""
    if case.arguments:
        name, kind = case.arguments
        plant(kind, folder / name)
    if (folder / "weights.safetensors").exists() or "weights.safetensors" in case.files:
        load_predictor(folder)
        load_origin(folder)
    elif "config.yaml" in case.files:
        load_run(folder)
    else:
        for name in case.files:
            read_image(folder / name)


def make_places(folder: Path) -> list[Case]:
    """Return a model folder, a run and some images."""
    folder.mkdir(exist_ok=True)
    images = [case for case in make_images(folder / "images") if len(case.files) == 1]
    return [*make_model_folders(folder / "models"), *make_runs(folder / "runs")[:1], *images[:3]]


def make_headers(_: Path) -> list[Case]:
    """Return a sound file."""
    return [Case({"w.safetensors": (2).to_bytes(8, "little") + b"{}"})]


def change_header(rng: Random, _: list[Case]) -> Case:
    """Return a file of weights whose header is not true."""
    return Case({"w.safetensors": draw_header(rng)})


def read_header(folder: Path, _: Case) -> None:
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
    Kind("names", lambda _: [Case({"in/a.png": b""})], change_names, read_names),
    Kind("places", make_places, change_places, read_places),
    Kind("header", make_headers, change_header, read_header),
)
