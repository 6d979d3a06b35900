import copy
import csv
import dataclasses
import os
import re
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from seg import infer
from seg.checkpoints import CheckpointStore
from seg.classes import make_class_table
from seg.cli import run_command
from seg.config import Config, DataConfig, InferenceConfig, InstancesConfig, ModelConfig
from seg.config.reader import override_config
from seg.errors import UserError
from seg.inference.done_record import RECORD
from seg.inference.output import overlay_file, plan_jobs, probabilities_file, save_mask, writing_together
from seg.inference.predictor import Predictor
from seg.pictures import draw_overlay
from seg.record.run_dir import create_run_dir
from seg.untrusted import HARMFUL
from tiny_model import random_variables

CLASSES = make_class_table(("sky", "road", "tree"))
CONFIG = Config(
    model=ModelConfig(name="unet", num_classes=3, base_width=8, depth=1),
    data=DataConfig(size=(16, 24), max_pixels=10_000),
    inference=InferenceConfig(batch_size=2),
)
VARIABLES = random_variables(CONFIG.model, CONFIG.data.size)


@pytest.fixture(scope="module")
def predictor():
    return Predictor(CONFIG, CLASSES, VARIABLES)


@pytest.fixture
def infer_with(predictor, tmp_path, monkeypatch):
    """Run the command with a predictor that is compiled already; return its exit code."""

    def run(*arguments):
        run_path = create_run_dir(Config(**{**vars(CONFIG), "runs_dir": str(tmp_path / "runs")}), CLASSES).path
        monkeypatch.setattr("seg.inference.predictor.load_predictor", lambda *_: predictor)
        monkeypatch.setattr(sys, "argv", ["infer", "--run", str(run_path), *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run_command(infer.main)
        return end.value.code

    return run


def write_image(path, size=(16, 24), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)
    return path


def read(path):
    with Image.open(path) as image:
        return np.array(image)


def files(folder, hidden=True):
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    return sorted(str(path) for path in found if hidden or not path.name.startswith("."))


def planned(inputs, out):
    return [(str(job.source), str(job.mask.relative_to(out))) for job in plan_jobs(inputs, out)]


def test_mask_overlay_and_probabilities_are_those_of_the_predictor(infer_with, predictor, tmp_path, capsys):
    source = write_image(tmp_path / "photo.png", (40, 30))
    assert infer_with("--out", tmp_path / "out", "--probabilities", source) == 0
    assert files(tmp_path / "out") == ["photo.png", "photo_overlay.png", "photo_probabilities.npz"]
    mask_hw = predictor.predict(read(source)).labels
    np.testing.assert_array_equal(read(tmp_path / "out/photo.png"), mask_hw)
    np.testing.assert_array_equal(
        read(tmp_path / "out/photo_overlay.png"), draw_overlay(read(source), mask_hw, CLASSES)
    )
    with np.load(tmp_path / "out/photo_probabilities.npz") as content:
        probabilities_hwk = content["probabilities"]
    expected_hwk = np.concatenate([band.probabilities for band in predictor.predict_bands(read(source))])
    assert probabilities_hwk.dtype == np.float16
    np.testing.assert_allclose(probabilities_hwk, expected_hwk, atol=1e-3)
    assert "1 image in" in capsys.readouterr().out


def test_objects_are_numbered_listed_and_counted(infer_with, predictor, tmp_path, capsys, monkeypatch):
    counting = dataclasses.replace(predictor.config, instances=InstancesConfig("components", min_area=2))
    monkeypatch.setattr(predictor, "config", counting)
    source = write_image(tmp_path / "photo.png", (40, 30))
    assert infer_with("--out", tmp_path / "out", "--no-overlay", "--probabilities", source) == 0
    assert files(tmp_path / "out") == ["photo.png", "photo_objects.csv", "photo_objects.tif", "photo_probabilities.npz"]
    objects = predictor.predict(source).instances()
    np.testing.assert_array_equal(read(tmp_path / "out/photo_objects.tif"), objects.numbers)
    rows = list(csv.DictReader((tmp_path / "out/photo_objects.csv").read_text().splitlines()))
    assert [int(row["area"]) for row in rows] == objects.areas.tolist() and min(objects.areas) >= 2
    number = sum(objects.labels == 1)
    assert number and f"objects: {number} road" in capsys.readouterr().out
    assert len(predictor.predict(source).instances(classes=["road"], min_area=0)) > number


def test_one_bad_file_does_not_stop_the_others(infer_with, predictor, tmp_path, capsys):
    photos = tmp_path / "photos"
    write_image(photos / "a.png")
    (photos / "b.png").write_text("no image")
    write_image(photos / "deep/c.jpg", (50, 20))
    write_image(photos / "large.png", (200, 200))
    missing = tmp_path / "missing.png"
    assert infer_with("--out", tmp_path / "out", "--no-overlay", missing, photos) == 2
    assert files(tmp_path / "out") == ["a.png", "deep/c.png"]
    np.testing.assert_array_equal(read(tmp_path / "out/a.png"), predictor.predict(read(photos / "a.png")).labels)
    captured = capsys.readouterr()
    for line in (f"{photos / 'b.png'}: text", f"{missing}: no such file", f"{photos / 'large.png'}: 200×200"):
        assert f"error: {line}" in captured.err
    assert "3 of 5 files could not be read" in captured.out


def test_the_real_checkpoint_is_loaded_and_the_arguments_reach_the_config(tmp_path, monkeypatch, capsys):
    run = create_run_dir(Config(**{**vars(CONFIG), "runs_dir": str(tmp_path / "runs")}), CLASSES)
    CheckpointStore(run.checkpoints).save(1, jax.device_put(VARIABLES), {}, best=True)
    source = write_image(tmp_path / "photo.png", (20, 20))
    options = ["--mirror", "--tile", "8", "12", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["infer", "--run", str(run.path), *options, str(source)])
    assert infer.main() == 0
    config = Config(**{**vars(CONFIG), "inference": InferenceConfig(batch_size=2, mirror=True, tile=(8, 12))})
    mask_hw = Predictor(config, CLASSES, VARIABLES).predict(read(source)).labels
    np.testing.assert_array_equal(read(tmp_path / "out/photo.png"), mask_hw)
    assert (mask_hw != Predictor(CONFIG, CLASSES, VARIABLES).predict(read(source)).labels).any()


def test_mistakes_are_answered_before_any_work(infer_with, tmp_path, capsys, monkeypatch):
    source = write_image(tmp_path / "photo.png")
    (tmp_path / "file").touch()
    assert infer_with("--out", tmp_path / "file", source) == 2
    assert "expected a folder, this is a file" in capsys.readouterr().err
    assert infer_with("--out", tmp_path / "out", "--tile", "0", "-3", source) == 2
    assert "inference.tile" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert infer_with("--out", tmp_path / "out", tmp_path / "empty") == 2
    assert "no image is in this folder" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["infer", "--run", str(tmp_path), "--out", str(tmp_path), str(source)])
    with pytest.raises(SystemExit, match="2"):
        run_command(infer.main)
    assert f"{tmp_path}/config.yaml" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_inputs_are_never_overwritten(infer_with, tmp_path, capsys):
    photos = tmp_path / "photos"
    source = write_image(photos / "a.png")
    before = source.read_bytes()
    assert infer_with("--out", photos, photos) == 2
    assert infer_with("--out", photos, source) == 2
    assert str(source) in capsys.readouterr().err
    assert source.read_bytes() == before
    write_image(photos / "a_overlay.png")
    write_image(tmp_path / "a.jpg")
    assert infer_with("--out", photos, tmp_path / "a.jpg", photos / "a_overlay.png") == 2


def test_names_that_are_taken_get_a_number(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    for path in ("1/cat.jpg", "1/cat.png", "1/cat_overlay.png", "1/sub/cat.png", "2/CAT.png"):
        write_image(tmp_path / path)
    assert planned([first, second], tmp_path / "out") == [
        (f"{first}/cat.jpg", "cat.png"),
        (f"{first}/cat.png", "cat_2.png"),
        (f"{first}/cat_overlay.png", "cat_overlay_2.png"),
        (f"{first}/sub/cat.png", "sub/cat.png"),
        (f"{second}/CAT.png", "CAT_3.png"),
    ]
    jobs = plan_jobs([first, second], tmp_path / "out")
    written = [str(file).lower() for job in jobs for file in job.files]
    assert len(set(written)) == len(written)


def test_files_are_taken_once_and_results_are_not_taken_for_inputs(tmp_path):
    photos = tmp_path / "photos"
    source = write_image(photos / "a.png")
    write_image(photos / "results/b.png")
    (photos / "notes.txt").touch()
    assert planned([source, photos / ".." / "photos"], photos / "results") == [(str(source), "a.png")]


def test_a_mask_is_an_indexed_png_with_the_colours_of_the_classes(tmp_path):
    mask_hw = np.array([[0, 1, 2], [255, 1, 0]], np.uint8)
    save_mask(tmp_path / "mask.png", mask_hw, CLASSES)
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.array(picture), mask_hw)
        colours_hwc = np.array(picture.convert("RGB"))
    np.testing.assert_array_equal(colours_hwc[0], CLASSES.palette)
    np.testing.assert_array_equal(colours_hwc[1, 0], [255, 255, 255])


@pytest.mark.parametrize(
    ("values", "mode"), [((0, 255, 7), "L"), ((0, 65535, 300), "I;16"), (((1, 2, 3), (255, 0, 0), (0, 0, 0)), "RGB")]
)
def test_a_mask_in_other_values_holds_just_these(values, mode, tmp_path):
    mask_hw = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    save_mask(tmp_path / "mask.png", mask_hw, CLASSES, values)
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == mode
        np.testing.assert_array_equal(np.array(picture), np.array(values)[mask_hw])


def test_masks_come_back_in_the_values_of_the_training_data(infer_with, predictor, tmp_path, monkeypatch):
    source = write_image(tmp_path / "photo.png", (12, 16))
    mask_hw = predictor.predict(read(source)).labels
    for values, expected in [("source", mask_hw), ("colours", np.array(CLASSES.palette)[mask_hw])]:
        assert infer_with("--out", tmp_path / values, "--values", values, "--no-overlay", source) == 0
        np.testing.assert_array_equal(read(tmp_path / values / "photo.png"), expected)
    monkeypatch.setattr(predictor, "classes", dataclasses.replace(CLASSES, mask_values=(0, 255, 128)))
    assert infer_with("--out", tmp_path / "stated", "--values", "source", source) == 0
    np.testing.assert_array_equal(read(tmp_path / "stated/photo.png"), np.array([0, 255, 128])[mask_hw])
    data = dataclasses.replace(predictor.config.data, value_map={0: 0, 9: 2, 8: 1, 7: 1})
    monkeypatch.setattr(predictor, "classes", CLASSES)
    monkeypatch.setattr(predictor, "config", dataclasses.replace(predictor.config, data=data))
    assert infer_with("--out", tmp_path / "config", "--values", "source", source) == 0
    np.testing.assert_array_equal(read(tmp_path / "config/photo.png"), np.array([0, 8, 9])[mask_hw])


def test_an_overlay_of_many_rows_equals_the_whole(tmp_path):
    rng = np.random.default_rng(0)
    image_hwc, mask_hw = rng.integers(0, 256, (600, 5, 3), np.uint8), rng.integers(0, 3, (600, 5), np.uint8)
    with overlay_file(tmp_path / "new/overlay.png", mask_hw.shape, CLASSES) as append_rows:
        append_rows(image_hwc, mask_hw)
    np.testing.assert_array_equal(read(tmp_path / "new/overlay.png"), draw_overlay(image_hwc, mask_hw, CLASSES))


def test_an_unfinished_result_vanishes(tmp_path):
    path = tmp_path / "p.npz"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), probabilities_file(path, (4, 2, 3)) as append_rows:
        append_rows(np.zeros((2, 2, 3), np.float32))
        raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ["p.npz"]
    assert Path(path).read_text() == "old"


NAMES = {
    "..png": "_.png",
    "...": "___.png",
    ".png": "_png.png",
    "..a.png": "__a.png",
    "a\x1b[2J\nb.png": "a_[2J_b.png",
    os.fsdecode(b"caf\xe9.png"): "caf_.png",
    "\u202egnp.png": "_gnp.png",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_never_leads_out_of_the_folder_of_the_results(infer_with, tmp_path, capsys, name):
    content = write_image(tmp_path / "photo.png").read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    before = files(tmp_path / "in")
    assert infer_with("--no-overlay", "--out", tmp_path / "in/out", tmp_path / "in" / name) == 0
    assert files(tmp_path / "in/out", hidden=False) == [NAMES[name]]
    assert [file for file in files(tmp_path / "in") if not file.startswith("out")] == before
    printed = capsys.readouterr()
    assert f"its results are named {NAMES[name][:-4]}, as its own name is taken or not safe" in printed.out
    assert not HARMFUL.search((printed.out + printed.err).replace("\n", ""))


def test_names_that_are_one_on_some_file_system_are_told_apart(tmp_path):
    out = tmp_path / "out"
    names = [name for _, name in planned([Path("\u00e4.png"), Path("A\u0308.png")], out)]
    assert names == ["\u00e4.png", "A\u0308_2.png"]
    for source in (tmp_path / "in/b.jpg", tmp_path / "in/b.png/c.jpg"):
        write_image(source)
    names = [name for _, name in planned([tmp_path / "in"], out)]
    assert sorted(names) == ["b.png/c.png", "b_2.png"]  # b.png is a folder of the results


def test_one_file_that_cannot_be_written_does_not_stop_the_others(infer_with, tmp_path, capsys):
    for name in ("x" * 251, "y", "z"):
        write_image(tmp_path / "in" / f"{name}.png")
    (tmp_path / "out/y.png").mkdir(parents=True)
    assert infer_with("--probabilities", "--out", tmp_path / "out", tmp_path / "in") == 2
    assert {"z.png", "z_overlay.png", "z_probabilities.npz"} <= set(files(tmp_path / "out"))
    printed = capsys.readouterr()
    assert "File name too long" in printed.err and f"{tmp_path / 'out/y.png'}: expected a file" in printed.err
    assert "2 of 3 files could not be read or written" in printed.out
    assert not list(tmp_path.rglob("*.part"))


def test_a_full_disk_ends_the_command_at_once(infer_with, tmp_path, capsys, monkeypatch):
    for name in "abc":
        write_image(tmp_path / "in" / f"{name}.png")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seg.inference.output.PngRows.append", full)
    assert infer_with("--out", tmp_path / "out", tmp_path / "in") == 2
    assert capsys.readouterr().err.count("No space left on device") == 1
    assert files(tmp_path / "out") == []


def test_links_are_neither_searched_nor_followed_and_other_files_are_named(infer_with, tmp_path, capsys):
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    write_image(elsewhere / "secret.png")
    write_image(tmp_path / "in/sub/a.png")
    (tmp_path / "in/link").symlink_to(elsewhere)
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/b.heic").write_bytes(b"x")
    (out / "sub").mkdir(parents=True)
    for name in (".a.png.part", "a.png.part", "a.png"):
        (out / "sub" / name).symlink_to(elsewhere / "precious")
    assert infer_with("--no-overlay", "--out", out, tmp_path / "in") == 0
    assert not (elsewhere / "precious").exists() and not (out / "sub/a.png").is_symlink()
    told = capsys.readouterr().err
    assert f"{tmp_path / 'in'}: 1 file of .heic is not read" in told
    assert all(f"{tmp_path / 'in' / name}: a link to a folder is not searched" in told for name in ("link", "loop"))
    shutil.rmtree(out / "sub")
    (out / "sub").symlink_to(elsewhere)
    assert infer_with("--no-overlay", "--out", out, tmp_path / "in") == 2
    assert f"a link at {out / 'sub'} leads out of it" in capsys.readouterr().err
    assert files(elsewhere) == ["secret.png"]


# Settings as arguments


def test_a_setting_that_a_message_advises_is_taken_as_an_argument(predictor, infer_with, tmp_path, monkeypatch, capsys):
    """And a file whose name has a '=' stays a file."""

    def load(_folder, _checkpoint, overrides, _model):
        with_settings = copy.copy(predictor)
        with_settings.config = override_config(predictor.config, overrides)
        return with_settings

    dark = np.random.default_rng(0).integers(0, 3000, (16, 24), dtype=np.uint16)
    source = tmp_path / "a=b.tif"
    Image.fromarray(dark).save(source)
    assert infer_with("--out", tmp_path / "first", source) == 0
    advised = re.search(r"(data.value_range=\S+)", capsys.readouterr().err)[1]
    monkeypatch.setattr("seg.inference.predictor.load_predictor", load)
    monkeypatch.setattr(sys, "argv", ["infer", "--run", str(next((tmp_path / "runs").iterdir())), "--out"])
    sys.argv += [str(tmp_path / "second"), str(source), advised]
    assert infer.main() == 0
    assert "warning" not in capsys.readouterr().err
    expected = predictor.predict(np.repeat((dark >> 8).astype(np.uint8)[..., None], 3, axis=2)).labels
    np.testing.assert_array_equal(read(tmp_path / "second/a=b.png"), expected)


def test_settings_without_an_image_and_wrong_settings_are_refused(infer_with, tmp_path, capsys):
    assert infer_with("--out", tmp_path / "out", "data.max_pixels=5") == 2
    assert "found only settings: data.max_pixels=5" in capsys.readouterr().err
    assert infer_with("--out", tmp_path / "out", write_image(tmp_path / "a.png"), "data.max_pixel=5") == 2
    assert "did you mean 'data.max_pixels'" in capsys.readouterr().err


def test_skip_done_leaves_out_what_is_complete(infer_with, tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    for number, name in enumerate("abc"):
        write_image(photos / f"{name}.png", seed=number)
    assert infer_with("--out", out, photos / "a.png") == 0
    made = (out / "a.png").read_bytes()
    (out / "a.png").write_bytes(made[::-1])  # of the same size: shows whether it is made again
    (photos / "c.png").write_text("no image")
    assert infer_with("--skip-done", "--out", out, photos) == 2
    assert "1 image of 3 done already" in capsys.readouterr().out
    assert (out / "a.png").read_bytes() == made[::-1]
    assert files(out) == ["a.png", "a_overlay.png", "b.png", "b_overlay.png"]
    assert infer_with("--skip-done", "--out", out, photos / "a.png", photos / "b.png") == 0
    assert "2 images of 2 done already" in capsys.readouterr().out
    assert infer_with("--skip-done", "--out", out, "--probabilities", photos / "a.png") == 0
    assert "done already" not in capsys.readouterr().out
    assert (out / "a.png").read_bytes() == made


def test_a_call_that_is_interrupted_counts_what_is_done_and_leaves_no_half_result(
    infer_with, tmp_path, monkeypatch, capsys
):
    for number, name in enumerate("abc"):
        write_image(tmp_path / f"{name}.png", seed=number)
    seen = []

    def interrupt_at_the_second(*arguments):
        seen.append(arguments)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return overlay_file(*arguments)

    monkeypatch.setattr("seg.inference.segment_files.overlay_file", interrupt_at_the_second)
    assert infer_with("--out", tmp_path / "out", tmp_path) == 130
    stopped = "stopped: 1 of 3 images segmented; the same command with --skip-done does the rest"
    assert stopped in capsys.readouterr().err
    assert files(tmp_path / "out") == ["a.png", "a_overlay.png"]
    assert infer_with("--skip-done", "--out", tmp_path / "out", tmp_path) == 0
    assert "1 image of 3 done already" in capsys.readouterr().out
    assert len(files(tmp_path / "out")) == 6


@pytest.mark.parametrize("values", [(), (0, 255, 128), (7, 1000, 65535), ((1, 2, 3), (255, 0, 0), (0, 0, 9))], ids=str)
def test_a_mask_written_by_rows_is_the_mask_written_whole(infer_with, predictor, tmp_path, monkeypatch, values):
    monkeypatch.setattr(predictor, "classes", dataclasses.replace(CLASSES, mask_values=values))
    source = write_image(tmp_path / "photo.png", (70, 50))
    for held, name in ((0, "rows"), (10_000, "whole")):
        monkeypatch.setattr("seg.inference.segment_files.MAX_HELD_PIXELS", held)
        assert infer_with("--out", tmp_path / name, "--values", "source" if values else "classes", source) == 0
    mask_hw = predictor.predict(read(source)).labels
    table = np.array(values) if values else np.arange(3)
    for name in ("rows", "whole"):
        np.testing.assert_array_equal(read(tmp_path / name / "photo.png"), table[mask_hw])
        expected_hwc = draw_overlay(read(source), mask_hw, CLASSES)
        np.testing.assert_array_equal(read(tmp_path / name / "photo_overlay.png"), expected_hwc)


def test_a_mask_of_a_large_image_is_never_held(infer_with, predictor, tmp_path, monkeypatch):
    monkeypatch.setattr("seg.inference.segment_files.MAX_HELD_PIXELS", 70 * 50 - 1)
    monkeypatch.setattr(type(predictor), "predict_many", lambda *_: pytest.fail("the whole mask was asked for"))
    assert infer_with("--out", tmp_path / "out", write_image(tmp_path / "photo.png", (70, 50))) == 0
    assert files(tmp_path / "out") == ["photo.png", "photo_overlay.png"]


def test_an_image_above_the_limit_is_segmented_as_the_message_says(tmp_path, monkeypatch, capsys):
    run = create_run_dir(Config(**{**vars(CONFIG), "runs_dir": str(tmp_path / "runs")}), CLASSES)
    CheckpointStore(run.checkpoints).save(1, jax.device_put(VARIABLES), {}, best=True)
    source = write_image(tmp_path / "large.png", (120, 100))
    arguments = ["infer", "--run", str(run.path), "--out", str(tmp_path / "out"), str(source)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert infer.main() == 2
    said = capsys.readouterr().err
    (setting,) = re.findall(r"add (data\.max_pixels=\d+) to the command", said)
    monkeypatch.setattr(sys, "argv", [*arguments, setting])
    assert infer.main() == 0
    assert read(tmp_path / "out/large.png").shape == (120, 100)


def test_results_that_cannot_all_take_their_names_take_none(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(UserError, match="a: cannot be written"), writing_together(paths) as asides:
        for aside in asides:
            aside.write_text("content")
        paths[0].mkdir()
    assert files(tmp_path) == []
