"""A plan: the data are found and read, the settings follow from them, and the file that is written can be trained."""

import dataclasses
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from seg import plan as plan_command
from seg.cli import run_command
from seg.config import Config, DataConfig
from seg.config.reader import load_start_config
from seg.data import build_dataset
from seg.data.masks.mask import Mask
from seg.errors import UserError
from seg.planning.cost import ENOUGH_STEPS, WIDTHS, Cost, fit_memory, fit_time, make_ladder, measure_cost
from seg.planning.layout import find_data
from seg.planning.mask_contents import guess_masks
from seg.planning.plan import plan_run, read_stated
from seg.planning.proposal import Length, choose_shape, propose
from seg.planning.survey import Facts, survey


def write_pairs(root, images="images", masks="masks", number=6, suffix="", size=(40, 50), seed=0):
    """Write grey images of numbered squares."""
    rng = np.random.default_rng(seed)
    for folder in (images, masks):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(number):
        numbers_hw = np.zeros(size, np.uint16)
        for n in range(3 + i):
            y, x = divmod(n, 4)
            numbers_hw[1 + 10 * y : 9 + 10 * y, 1 + 10 * x : 10 + 10 * x + n % 2] = n + 1
        grey_hw = (60 + 120 * (numbers_hw > 0) + rng.integers(0, 20, size)).astype(np.uint8)
        Image.fromarray(grey_hw).save(root / images / f"c{i}.png")
        Image.fromarray(numbers_hw).save(root / masks / f"c{i}{suffix}.png")


@pytest.mark.parametrize(
    ("images", "masks", "suffix", "found"),
    [
        ("images", "instances", "", {"masks_dir": "instances"}),
        ("train/pictures", "train/labels", "", {"images_dir": "pictures", "num_folds": 5}),
        (".", ".", "_mask", {"images_dir": ".", "masks_dir": ".", "mask_suffix": "_mask"}),
        ("images", "masks", "_gt", {"masks_dir": "masks", "mask_suffix": "_gt"}),
    ],
)
def test_images_and_masks_are_found_by_the_names_of_folders_and_files(tmp_path, images, masks, suffix, found):
    write_pairs(tmp_path, images, masks, suffix=suffix)
    data = find_data(tmp_path)
    assert {key: getattr(data, key) for key in found} == found and data.num_folds == 5 and not data.test_fraction
    assert len(build_dataset(dataclasses.replace(data, masks="objects"), "train", 0)) in (4, 5)


def test_splits_of_the_folder_are_used(tmp_path):
    for split in ("training", "val", "test"):
        write_pairs(tmp_path / split)
    data = find_data(tmp_path)
    assert (data.train_split, data.val_split, data.test_split, data.num_folds) == ("training", "val", "test", 0)
    write_pairs(tmp_path / "one", number=40)
    assert find_data(tmp_path / "one").test_fraction == 0.15


def test_a_folder_that_cannot_be_understood_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected the folder of a data set"):
        find_data(tmp_path / "none")
    with pytest.raises(UserError, match="no image is in this folder"):
        find_data(tmp_path)
    write_pairs(tmp_path, "left", "right")
    with pytest.raises(UserError, match="cannot say which of the folders left, right holds the images"):
        find_data(tmp_path)


def masks_of(*values, colours=None):
    return [
        Mask(np.array(v, np.uint16 if np.max(v) > 255 else np.uint8).reshape(1, -1, *([3] * bool(colours))))
        for v in values
    ]


def test_the_values_of_masks_say_what_they_mean():
    data = DataConfig(dataset="image_folder", root="x")
    objects, reason = guess_masks(data, masks_of(range(5), range(9), [0, 1, 2, 4, 5, 6], [0], range(301)))
    assert objects.masks == "objects" and "up to 300" in reason
    two, _ = guess_masks(data, masks_of([0, 255], [255, 255]))
    assert (two.class_names, two.value_map) == (("background", "object"), {0: 0, 255: 1})
    classes, _ = guess_masks(data, masks_of([0, 1, 5, 255], [0, 3, 5, 255], [0, 5, 1, 1]))
    assert (
        classes.value_map == {0: 0, 1: 1, 3: 2, 5: 3} and classes.ignore_value == 255 and len(classes.class_names) == 4
    )
    coloured, _ = guess_masks(data, masks_of([[0, 0, 0], [255, 0, 0]], [[0, 0, 0], [0, 0, 255]], colours=True))
    assert coloured.palette == ((0, 0, 0), (0, 0, 255), (255, 0, 0))
    with pytest.raises(UserError, match="one value"):
        guess_masks(data, masks_of([0, 0], [0, 0]))
    crops, _ = guess_masks(data, masks_of(range(0, 250, 7), range(0, 250, 7), range(0, 250, 7)))
    assert crops.masks == "objects"  # numbers with gaps, but one region each
    with pytest.raises(UserError, match="too many for classes"):
        guess_masks(data, masks_of(*3 * [[*range(0, 250, 7), *range(0, 250, 7)]]))


def facts_of(tmp_path, **settings):
    write_pairs(tmp_path, number=10)
    data = dataclasses.replace(find_data(tmp_path), masks="objects", channels=1, **settings)
    return survey(build_dataset(data, "train", 0), 2, data, lambda items, **labels: items)


def test_a_survey_counts_what_is_there(tmp_path):
    facts = facts_of(tmp_path)
    assert facts.num_train == facts.num_read == 8 and facts.median_size == (40, 50)
    images = [np.asarray(Image.open(path)) / 255 for path in sorted((tmp_path / "images").iterdir())]
    assert facts.mean[0] == pytest.approx(np.mean(images), abs=0.02) and len(facts.std) == 1
    assert set(facts.areas_m) == {72, 80} and facts.shares_k.sum() == pytest.approx(1)
    assert 0.3 < facts.touching < 1  # every second square reaches the next one


def test_settings_follow_from_the_facts(tmp_path):
    facts = facts_of(tmp_path)
    large = dataclasses.replace(facts, sizes_n2=np.array([[700, 900], [300, 256]]), shares_k=np.array([0.99, 0.01]))
    settings = {p.key: p.value for p in propose(large, choose_shape(large, 32), Length(10, 4, "long"), "wide")}
    assert settings["data.size"] == [480, 512] and settings["training.batch_size"] == 2
    assert settings["loss.class_weighting"] == "median_frequency" and settings["instances.method"] == "watershed"
    apart = {
        p.key: p.value for p in propose(dataclasses.replace(facts, touching=0.0), choose_shape(facts, 32), Length(), "")
    }
    assert apart["data.size"] == [32, 32] and apart["model.depth"] == 2
    assert apart["instances.method"] == "components" and "loss.class_weighting" not in apart
    assert all(
        p.reason
        for p in propose(facts, choose_shape(facts, 32), Length(9, 3, "l"), "w")
        if p.key.endswith(("size", "name"))
    )


def costing(step_s):
    """Return a stand-in for `measure_cost`: the time of a step by width and pixels."""

    def measure(config, facts, shape):
        work = shape.base_width**1.8 * shape.side[0] * shape.side[1] * shape.batch_size
        return Cost(step_s * work / 1e6, 1.0, 0.1, 1000, 1 << 20)

    return measure


@pytest.mark.parametrize("minutes", [1, 5, 60, 600])
def test_a_plan_for_a_time_fits_it_with_the_widest_network(tmp_path, monkeypatch, minutes):
    facts = facts_of(tmp_path)
    monkeypatch.setattr("seg.planning.cost.measure_cost", costing(0.5))
    shape, cost, length = fit_time(facts, minutes, lambda shape: Config(), lambda text: None)
    steps = length.epochs * -(-facts.num_train // shape.batch_size)
    assert cost.seconds(steps, length.evaluations) <= 60 * minutes and 1 <= length.evaluations <= length.epochs
    ladder = make_ladder(facts)
    if ladder.index(shape):
        wider = ladder[ladder.index(shape) - 1]
        assert costing(0.5)(None, facts, wider).seconds(ENOUGH_STEPS, 1) > 60 * minutes * 0.5
    else:
        assert shape.base_width == WIDTHS[0]


def test_a_batch_is_as_large_as_the_memory_allows(monkeypatch, tmp_path):
    shape = dataclasses.replace(choose_shape(facts_of(tmp_path), 32), batch_size=8)
    monkeypatch.setattr("seg.planning.cost.free_memory", lambda: 1000)
    assert fit_memory(shape, Cost(1, 1, 1, 1, 600)) == shape
    assert fit_memory(shape, Cost(1, 1, 1, 1, 1400)).batch_size == 4
    with pytest.raises(UserError, match="close other programs, or plan for less"):
        fit_memory(shape, Cost(1, 1, 1, 1, 9000))


def run_plan(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["plan", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        run_command(plan_command.main)
    return end.value.code


def test_the_written_config_is_the_plan_with_its_reasons(monkeypatch, tmp_path, capsys):
    write_pairs(tmp_path / "cells", number=10)
    monkeypatch.setattr("seg.planning.plan.measure_cost", costing(0.01))
    monkeypatch.setattr("seg.planning.cost.measure_cost", costing(0.01))
    out = tmp_path / "plan.yaml"
    assert (
        run_plan(monkeypatch, tmp_path / "cells", "--out", out, "--minutes", "5", "optimizer.learning_rate=1e-3") == 0
    )
    config, text = load_start_config(out), out.read_text()
    assert (config.name, config.data.channels, config.data.masks) == ("cells", 1, "objects")
    assert config.optimizer.learning_rate == 1e-3 and config.data.num_folds == 5
    assert "number their objects" in text and "# as stated" in text
    output = capsys.readouterr().out
    assert "8 training and 2 validation images" in output and f"seg train --config {out} --folds" in output

    assert run_plan(monkeypatch, tmp_path / "cells", "--out", out) == 2  # it exists
    assert run_plan(monkeypatch, "--config", out, "--out", out, "--force", "model.base_width=4") == 0
    again = load_start_config(out)
    assert again.model.base_width == 4 and again.data == config.data and again.training == config.training
    first = out.read_text()
    assert run_plan(monkeypatch, "--config", out, "--out", out, "--force", "model.base_width=4") == 0
    assert out.read_text() == first  # the same data give the same plan
    assert set(yaml.safe_load(first)) >= {"name", "data", "model", "training", "instances"}


@pytest.mark.parametrize("model", ["encoder: resnet18", "name: transunet"])
def test_another_architecture_is_kept(monkeypatch, tmp_path, model):
    (tmp_path / "own.yaml").write_text(f"model: {{{model}}}\ndata: {{toy: {{num_train: 16, num_val: 4}}}}\n")
    base, kept = read_stated(tmp_path / "own.yaml", [])
    monkeypatch.setattr("seg.planning.cost.measure_cost", costing(0.01))
    plan = plan_run(base, kept, 5, lambda items, **labels: items, lambda text: None)
    assert [p.key for p in plan.proposals if p.key.startswith("model.")] == [f"model.{model.split(':')[0]}"]
    assert "data.mean" in {p.key for p in plan.proposals}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one folder"),
        (["a", "b"], "expected one folder"),
        (["x", "--minutes", "0"], "--minutes: expected"),
        (["x", "--out", "plan.txt"], "ends in .yaml"),
        (["x", "--out", "no/such/plan.yaml"], "there is no folder"),
        (["no_such_folder"], "expected the folder of a data set"),
    ],
)
def test_mistakes_are_answered(monkeypatch, tmp_path, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run_plan(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_real_step_is_measured(tmp_path):
    facts = facts_of(tmp_path)
    shape = choose_shape(facts, 4)
    data = DataConfig(size=shape.side, channels=1)
    model = dataclasses.replace(Config().model, name="unet", base_width=4, depth=1, num_classes=2)
    config = dataclasses.replace(
        Config(data=data, model=model), training=dataclasses.replace(Config().training, batch_size=2)
    )
    cost = measure_cost(config, facts, dataclasses.replace(shape, batch_size=2))
    assert 0 < cost.step_s < 60 and cost.parameters > 100 and cost.seconds(10, 1) > 10 * cost.step_s
    assert isinstance(facts, Facts)
