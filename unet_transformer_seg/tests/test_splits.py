"""Splits of one folder: pure in their seed and the names, whole groups, equal folds, and no empty part."""

import sys
from collections import Counter
from random import Random

import numpy as np
import pytest
import yaml
from PIL import Image

from seg import check
from seg.config import DataConfig
from seg.config.reader import load_config
from seg.data.pairing import splits
from seg.data.pairing.splits import divide, find_groups, find_split
from seg.errors import EXIT_OK, UserError

NAMES = [f"slide{slide}_{crop}" for slide in range(10) for crop in range(slide + 1)]
PATTERN = r"^(slide\d+)_"


def write_images(root, names, folder=""):
    for number, name in enumerate(names):
        for kind in ("images", "labels"):
            (root / folder / kind).mkdir(parents=True, exist_ok=True)
            array = np.full((4, 5), number % 256 if kind == "images" else number % 2, np.uint8)
            Image.fromarray(array).save(root / folder / kind / f"{name}.png")


def config_of(root=".", **settings):
    return DataConfig(dataset="image_folder", root=str(root), class_names=("a", "b"), **settings)


def groups_of(names):
    return [name.split("_")[0] for name in names]


@pytest.mark.parametrize(
    "settings", [{"val_fraction": 0.2}, {"val_fraction": 0.3, "test_fraction": 0.1}, {"num_folds": 4, "fold": 2}]
)
def test_a_split_depends_on_names_and_its_seed_alone(settings):
    config = config_of(**settings)
    parts = divide(groups_of(NAMES), config)
    shuffled = Random(1).sample(NAMES, len(NAMES))
    assert divide(groups_of(shuffled), config) == parts
    others = [divide(groups_of(NAMES), config_of(split_seed=seed, **settings)) for seed in range(1, 6)]
    assert any(other != parts for other in others)
    sizes = Counter(parts[group] for group in groups_of(NAMES))
    for split, fraction in (("val", settings.get("val_fraction", 0.25)), ("test", settings.get("test_fraction", 0))):
        assert abs(sizes[split] - fraction * len(NAMES)) <= 10  # the largest group


def test_every_group_is_in_one_fold_and_the_folds_share_their_test_part():
    parts = [divide(groups_of(NAMES), config_of(num_folds=3, fold=f, test_fraction=0.2)) for f in range(3)]
    tests = [{g for g, split in part.items() if split == "test"} for part in parts]
    assert tests[0] and tests[0] == tests[1] == tests[2]
    validated = Counter(group for part in parts for group, split in part.items() if split == "val")
    assert validated == Counter(set(groups_of(NAMES)) - tests[0])
    sizes = [sum(part[group] == "val" for group in groups_of(NAMES)) for part in parts]
    assert max(sizes) - min(sizes) <= 10  # the largest group


def test_pairs_of_a_folder_are_divided_without_an_overlap(tmp_path):
    write_images(tmp_path, NAMES)
    config = config_of(tmp_path, val_fraction=0.2, test_fraction=0.2, group_pattern=PATTERN)
    found = {split: [pair.name for pair in find_split(config, split).pairs] for split in ("train", "val", "test")}
    assert sorted(name for names in found.values() for name in names) == sorted(NAMES)
    assert all(found.values())
    groups = [set(groups_of(names)) for names in found.values()]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


def test_a_folder_for_training_is_divided_and_one_for_the_test_stays(tmp_path):
    write_images(tmp_path, "abcdefgh", "train")
    write_images(tmp_path, "xy", "test")
    config = config_of(tmp_path, val_fraction=0.25)
    assert [len(find_split(config, split).pairs) for split in ("train", "val", "test")] == [6, 2, 2]
    direct = divide(list("abcdefgh"), config)  # what the folder is called does not matter
    assert {p.name for p in find_split(config, "val").pairs} == {f"train/{n}" for n, s in direct.items() if s == "val"}


def test_a_split_with_files_of_its_own_that_is_drawn_nevertheless_is_named(tmp_path):
    write_images(tmp_path, "abcd", "train")
    assert not find_split(config_of(tmp_path, val_fraction=0.25), "train").remarks
    write_images(tmp_path, "ef", "val")
    remark = find_split(config_of(tmp_path, val_fraction=0.25), "train").remarks
    assert len(remark) == 1 and f"{tmp_path / 'val/images'} is not used" in remark[0]
    assert remark[0].endswith("set data.val_fraction=0") and len(find_split(config_of(tmp_path), "val").pairs) == 2


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (
            "abc",
            {"val_fraction": 0.05},
            "0.05 of 3 images is less than one; set data.val_fraction=0.334",
        ),
        ("abc", {"num_folds": 4}, "there are 3 images, fewer than folds"),
        ("a", {"val_fraction": 0.6}, "none is left for training"),
        (["s_1", "s_2", "t_1"], {"num_folds": 3, "group_pattern": "(.)_"}, "there are 2 groups, fewer than folds"),
        (["s_1", "s_2"], {"val_fraction": 0.5, "group_pattern": "(.)_"}, "2 images in 1 groups none is left"),
        ("ab", {"val_fraction": 0.5, "group_pattern": "(slide)"}, "matches 0 of 2 names; not, for example, 'a', 'b'"),
        (["s_1", "t"], {"val_fraction": 0.5, "group_pattern": "(s)_"}, "matches 1 of 2 names; not, for example, 't'"),
    ],
)
def test_what_cannot_be_divided_is_refused(names, settings, message, tmp_path):
    write_images(tmp_path, names)
    with pytest.raises(UserError) as error:
        find_split(config_of(tmp_path, **settings), "train")
    assert message in str(error.value)


def test_the_fraction_that_a_message_advises_works():
    for count in (3, 7, 11):
        with pytest.raises(UserError) as error:
            divide([str(i) for i in range(count)], config_of(val_fraction=0.01))
        fraction = float(str(error.value).split("data.val_fraction=")[1].split()[0])
        parts = divide([str(i) for i in range(count)], config_of(val_fraction=fraction))
        assert list(parts.values()).count("val") == 1


def test_a_pattern_that_never_ends_is_stopped(monkeypatch):
    monkeypatch.setattr(splits, "MAX_SECONDS", 1)
    with pytest.raises(UserError, match=r"data.group_pattern '\^\(a\+\)\+\$': it took more than 1 s for 1 names"):
        find_groups(["a" * 40 + "!"], "^(a+)+$")
    assert find_groups(["é_1", "\udcff_2"], "^(.)_") == ["é", "\udcff"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_folds": 5, "fold": 5}, "data.fold 5"),
        ({"fold": 1}, "data.fold 1"),
        ({"num_folds": 1}, "2 folds or more"),
        ({"num_folds": 5, "val_fraction": 0.2}, "expected one of them"),
        ({"group_pattern": "(a)"}, "data.group_pattern needs"),
        ({"val_fraction": 0.2, "group_pattern": "(a"}, "not a regular expression"),
        ({"val_fraction": 0.2, "group_pattern": "(a)(b)"}, r"one group \(…\), found 2"),
        ({"val_fraction": 0.2, "dataset": "toy_shapes"}, "toy_shapes has splits of its own"),
        ({"value_range": [4095, 0]}, "black below white"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message, tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"data": {"dataset": "image_folder", "root": "."} | settings}))
    with pytest.raises(UserError, match=message):
        load_config(tmp_path / "c.yaml")


def test_check_prints_the_sizes(tmp_path, monkeypatch, capsys):
    write_images(tmp_path, NAMES[:20])
    data = {"dataset": "image_folder", "root": str(tmp_path), "class_names": ["a", "b"], "val_fraction": 0.25}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"data": data | {"group_pattern": PATTERN}}))
    monkeypatch.setattr(sys, "argv", ["check", "--config", str(tmp_path / "c.yaml")])
    assert check.main() == EXIT_OK
    output = capsys.readouterr().out
    assert "images; drawn from 20, " in output and "of 6 groups; height" in output and "warning" not in output
