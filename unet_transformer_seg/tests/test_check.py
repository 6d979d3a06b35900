"""The check command: what it counts, what it finds, and that it goes on to the last file."""

import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from seg import check
from seg.config import DataConfig, ToyConfig
from seg.data.inspection import find_warnings, inspect_split
from seg.errors import EXIT_OK, EXIT_USER_ERROR, UserError
from seg.losses.class_weights import median_frequency_weights


@pytest.fixture
def folder(tmp_path):
    """Write a small data set, three splits of four samples each."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("images", "labels"):
            (tmp_path / split / name).mkdir(parents=True)
        for i in range(4):
            image = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
            mask = np.zeros((10, 12), np.uint8)
            mask[: i + 1] = 1
            mask[9] = 255
            Image.fromarray(image).save(tmp_path / split / "images" / f"{split}{i}.png")
            Image.fromarray(mask).save(tmp_path / split / "labels" / f"{split}{i}.png")
    return tmp_path


def run(folder, monkeypatch, *arguments, **data):
    settings = {"dataset": "image_folder", "root": str(folder), "class_names": ["ground", "thing"], "ignore_value": 255}
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": settings | data}))
    command = ["check", "--config", str(folder / "config.yaml"), "--out", str(folder / "out.png"), *arguments]
    monkeypatch.setattr(sys, "argv", command)
    return check.main()


def test_a_good_data_set(folder, monkeypatch, capsys):
    assert run(folder, monkeypatch) == EXIT_OK
    output = capsys.readouterr().out
    ground, thing, ignored = (
        next(li for li in output.splitlines() if li.startswith(n)) for n in ("ground", "thing", "ig")
    )
    assert thing.split("│")[1].split() == ["120", "27.78%", "4"]  # 12·(1+2+3+4) of 12·9·4 labelled pixels
    assert ground.split("│")[3].split() == ["312", "72.22%", "4"]
    assert ignored.split("│")[2].split() == ["48", "10.00%", "4"]
    assert "train: 4 images; height×width: 10×12 (4)" in output
    weights = median_frequency_weights(np.array([312, 120]), np.array([432, 432]))
    assert f"[{weights[0]:.4g}, {weights[1]:.4g}]" in output
    assert "warning" not in output and "all samples are usable" in output
    with Image.open(folder / "out.png") as picture:
        assert picture.width > 500


def test_every_bad_file_is_listed(folder, monkeypatch, capsys):
    (folder / "train/images/train0.png").write_bytes(b"")
    (folder / "train/images/train2.png").write_bytes(b"not an image")
    (folder / "val/labels/val1.png").unlink()
    Image.fromarray(np.full((10, 12), 9, np.uint8)).save(folder / "val/labels/val2.png")
    Image.fromarray(np.zeros((10, 11), np.uint8)).save(folder / "test/labels/test3.png")
    assert run(folder, monkeypatch, "data.num_threads=3") == EXIT_USER_ERROR
    output = capsys.readouterr().out
    assert "5 samples cannot be used" in output
    for found in (
        "train0.png: an empty file",
        "train2.png: text",
        "val1.png: no mask",
        "val2.png: mask values without a class: 9 (120 pixels)",
        "test3.png: the mask has 10×11",
    ):
        assert found in output
    assert "train: 2 images" in output and "val: 2 images" in output and "test: 3 images" in output


def test_suspicious_data_sets_give_warnings(folder, monkeypatch, capsys):
    (folder / "val/images/val3.png").write_bytes((folder / "train/images/train1.png").read_bytes())
    with Image.open(folder / "test/images/test0.png") as image:
        image.save(folder / "test/images/test1.tif")  # equal pixels, another file
    (folder / "test/images/test1.png").unlink()
    assert run(folder, monkeypatch, class_names=["ground", "thing", "unicorn"]) == EXIT_OK
    output = capsys.readouterr().out
    assert "train: no pixel of unicorn" in output
    assert "1 images of val are in train too, such as train/train1 = val/val3" in output
    assert "test: 1 images occur more than once, such as test/test0 = test/test1" in output
    assert output.count("warning") == 5


def test_a_test_split_may_be_missing_but_not_the_others(folder, monkeypatch, capsys):
    assert run(folder, monkeypatch, test_split="nowhere") == EXIT_OK
    assert "no test split" in capsys.readouterr().out
    with pytest.raises(UserError, match="nowhere"):
        run(folder, monkeypatch, val_split="nowhere")


@pytest.mark.parametrize("out", ["nowhere/out.png", "out.txt", "out"])
def test_a_picture_that_cannot_be_written_is_refused_first(out, folder, monkeypatch):
    monkeypatch.setattr(check, "read_splits", lambda config: pytest.fail("read the data set"))
    with pytest.raises(UserError, match="--out"):
        run(folder, monkeypatch, "--out", str(folder / out))


def test_toy_shapes_share_nothing():
    config = DataConfig(size=(32, 32), toy=ToyConfig(num_train=12, num_val=6, num_test=6))
    reports = {s: inspect_split(config, s, 0, lambda findings, **_: findings) for s in ("train", "val", "test")}
    assert [len(report.usable) for report in reports.values()] == [12, 6, 6]
    assert not [w for w in find_warnings(reports) if "too" in w or "more than once" in w]
    assert len(reports["train"].examples(5)) == 5
