"""A run remembers what it was made of: changed data, files and settings are named on resuming, or written down."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import seg.train as command
from seg.config.reader import load_config
from seg.data.fingerprint import describe_differences, print_of, take_fingerprint
from seg.data.image_folder import open_image_folder
from seg.errors import UserError
from seg.record import resumption as resumption_module
from seg.record.record_file import load_own_config, read_record_file
from seg.record.run_dir import RunDir

CONFIG = """
name: small
model: {{name: unet, base_width: 4, depth: 1}}
data: {{dataset: image_folder, root: {root}, size: [16, 16], num_threads: 0}}
optimizer: {{name: sgd}}
training: {{batch_size: 4, num_epochs: 2, num_sample_pictures: 0, log_every_steps: 1}}
runs_dir: {root}/runs
"""


def write_samples(root, count=12):
    rng = np.random.default_rng(0)
    for split, number in (("train", count), ("val", 4)):
        for part in ("images", "labels"):
            (root / split / part).mkdir(parents=True)
        for i in range(number):
            image = rng.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(image).save(root / split / "images" / f"{i:02d}.png")
            Image.fromarray((image[..., 0] > 99).astype(np.uint8)).save(root / split / "labels" / f"{i:02d}.png")
    (root / "classes.json").write_text('{"names": ["ground", "thing"]}')
    (root / "config.yaml").write_text(CONFIG.format(root=root))


def call(*arguments):
    """Call the command in this process; return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["seg.train", *map(str, arguments)])
        return command.main()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with data and a run that has done its 6 steps."""
    root = tmp_path_factory.mktemp("finished") / "data"
    write_samples(root)
    assert call("--config", root / "config.yaml") == 0
    return root


@pytest.fixture
def root(finished, tmp_path):
    """A copy of it; the run keeps `data.root`, so that it is given a new one."""
    return shutil.copytree(finished, tmp_path / "data")


@pytest.fixture
def run(root):
    (path,) = (root / "runs").iterdir()
    return path


def resume(run, root, *arguments):
    return call(
        "--resume", run, f"data.root={root}", f"inference.batch_size={run.parts[-4].count('x') + 5}", *arguments
    )


# --- the data ---


def exchange_masks(root):
    """Names and sizes stay: those bytes move."""
    folder = root / "train" / "labels"
    first, second = sorted(folder.iterdir())[:2]
    for file in (first, second):
        image = Image.fromarray(np.zeros((16, 16), np.uint8))
        size = file.stat().st_size
        image.save(file)
        file.write_bytes(file.read_bytes().ljust(size, b"\0")[: max(size, file.stat().st_size)])


def remove_eight(root):
    for file in sorted((root / "train" / "images").iterdir())[:8]:
        file.unlink()
        (root / "train" / "labels" / file.name).unlink()


def reverse(root):
    names = sorted(file.stem for file in (root / "train" / "images").iterdir())
    (root / "train.txt").write_text("\n".join(reversed(names)))


def add_one(root):
    for part in ("images", "labels"):
        shutil.copy(root / "val" / part / "00.png", root / "val" / part / "zz.png")


def rename_class(root):
    (root / "classes.json").write_text('{"names": ["thing", "ground"]}')


CHANGES = [
    (exchange_masks, "data: train split: 2 samples with another mask (train/00, train/01)"),
    (remove_eight, "data: train split: 8 samples removed (train/00, train/01, train/02, …)"),
    (reverse, "data: train split: 12 samples at another position (train/00, train/01, train/02, …)"),
    (add_one, "data: val split: 1 sample added (val/zz)"),
    (rename_class, "classes: class 0 of the data set was 'ground', is 'thing'"),
]


@pytest.mark.parametrize(("change", "line"), CHANGES, ids=lambda x: getattr(x, "__name__", ""))
def test_changed_data_are_refused_in_words_and_allowed_by_name(root, run, change, line, capsys):
    before = (run / "record.json").read_bytes()
    change(root)
    with pytest.raises(UserError) as error:
        resume(run, root)
    name = line.split(":")[0]
    assert line in str(error.value) and f"--allow-changed {name}" in str(error.value)
    assert (run / "record.json").read_bytes() == before

    assert resume(run, root, "--allow-changed", name) == 0
    assert "allowed: " + line.removeprefix(f"{name}: ") in capsys.readouterr().out
    assert resume(run, root) == 0  # from now on the run is made of these
    record = read_record_file(run)
    assert record["changes"][0]["step"] == 6 and line.split(": ", 1)[1] in record["changes"][0]["allowed"]


def test_fewer_samples_change_the_steps_and_the_log_says_so(root, run, capsys):
    remove_eight(root)
    resume(run, root, "--allow-changed", "data")
    assert "the run has 2 steps instead of 6; the cosine schedule is spread over them" in capsys.readouterr().out
    assert read_record_file(run)["num_steps"] == 2


def test_data_that_moved_to_another_folder_are_the_same(root, run):
    assert resume(run, root) == 0
    assert load_own_config(run).data.root == str(root)


# --- the fingerprint ---


def test_contents_are_chosen_by_name_so_that_prints_stay_comparable(root):
    config = load_config(root / "config.yaml")
    dataset = open_image_folder(config.data, "train")
    every, third = take_fingerprint(dataset), take_fingerprint(dataset, one_in=3)
    with_contents = [sample[0] for sample in third.samples if ":" in sample[1]]
    assert 0 < len(with_contents) < len(dataset) == sum(":" in sample[2] for sample in every.samples)
    dataset.pairs = dataset.pairs[3:]
    lines = describe_differences(third, take_fingerprint(dataset, one_in=3))
    assert lines == ["3 samples removed (train/00, train/01, train/02)"]
    assert third.of_json(json.loads(json.dumps(third.to_json()))) == third


def test_a_large_file_is_read_at_three_places(tmp_path):
    file, content = tmp_path / "large", bytearray(1_000_000)
    prints = set()
    for place in (None, 10, 500_000, 999_999):
        changed = bytearray(content)
        if place is not None:
            changed[place] = 1
        file.write_bytes(changed)
        prints.add(print_of(file, True))
    assert len(prints) == 4 and all(p.startswith("1000000:") for p in prints)


# --- the run's own files ---


def test_an_edited_class_table_is_refused_and_kept_when_it_is_allowed(root, run):
    text = (run / "classes.json").read_text().replace("thing", "cell")
    (run / "classes.json").write_text(text)
    with pytest.raises(UserError, match=r"classes: .*/classes\.json was edited"):
        resume(run, root)
    assert resume(run, root, "--allow-changed", "classes") == resume(run, root) == 0
    assert (run / "classes.json").read_text() == text


def edit_config(run, before, after):
    text = (run / "config.yaml").read_text()
    assert before in text
    (run / "config.yaml").write_text(text.replace(before, after))


def test_an_edited_config_is_refused_and_allowed_by_name(root, run, capsys):
    edit_config(run, "weight_decay: 0.01", "weight_decay: 0.02  # tried")
    with pytest.raises(UserError, match=r"config\.yaml was edited: optimizer\.weight_decay 0\.01 → 0\.02"):
        resume(run, root)
    with pytest.raises(UserError, match="without effect"):  # the run is finished
        resume(run, root, "--allow-changed", "config")


def test_an_edit_that_no_run_can_make_is_refused_although_it_is_allowed(root, run):
    edit_config(run, "seed: 0", "seed: 1")
    with pytest.raises(UserError, match=r"cannot change once a run has started:\n  seed 0 → 1"):
        resume(run, root, "--allow-changed", "config")


def test_other_words_for_the_same_settings_are_no_edit(root, run):
    (run / "config.yaml").write_text("# mine\n" + (run / "config.yaml").read_text())
    assert resume(run, root) == 0


# --- settings ---


def unfinished(run):
    """Take the last checkpoint away: 3 of 6 steps are done."""
    shutil.rmtree(run / "checkpoints" / "step_00000006")


@pytest.fixture
def untrained(monkeypatch):
    """Resuming ends before the first step, after everything was compared and written down."""
    from seg.training.loop import Training

    monkeypatch.setattr(Training, "train", lambda self, state: int(state.step))


def test_a_setting_given_to_a_resume_stays_with_the_step_from_which_it_holds(root, run, untrained, capsys):
    unfinished(run)
    settings = ("training.num_epochs=4", "optimizer.learning_rate=0.002", "loss.dice_weight=0.5")
    resume(run, root, *settings)
    told = capsys.readouterr().out
    assert "from step 3 on: training.num_epochs 2 → 4" in told and "optimizer.learning_rate 0.001 → 0.002" in told
    assert "12 steps instead of 6; the cosine schedule is spread over them: the learning rate at step 3 is " in told
    config = load_config(run / "config.yaml")
    assert (config.training.num_epochs, config.optimizer.learning_rate, config.loss.dice_weight) == (4, 0.002, 0.5)
    (change,) = read_record_file(run)["changes"]
    assert change["step"] == 3 and change["settings"]["training.num_epochs"] == [2, 4]
    resume(run, root)
    told = capsys.readouterr().out
    assert "step 3 of 12" in told and "from step" not in told
    resume(run, root, "training.num_epochs=4")  # what it is already
    assert len(read_record_file(run)["changes"]) == 1


def test_a_kill_between_record_and_config_loses_no_change(root, run, untrained, monkeypatch):
    unfinished(run)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(resumption_module, "save_config", killed)
        resume(run, root, "training.num_epochs=4")
    assert load_config(run / "config.yaml").training.num_epochs == 2
    resume(run, root)
    assert load_config(run / "config.yaml").training.num_epochs == 4


@pytest.mark.parametrize(
    "setting", ["training.log_every_steps=5", "training.num_epochs=1", "optimizer.learning_rate=1"]
)
def test_a_setting_without_effect_on_a_finished_run_is_refused(root, run, setting):
    before = (run / "config.yaml").read_bytes()
    with pytest.raises(UserError, match="without effect, as nothing is left to train: 6 steps are done") as error:
        resume(run, root, setting)
    assert (run / "config.yaml").read_bytes() == before
    assert f"python -m seg.train --resume {run} training.num_epochs=4" in str(error.value)


def test_more_epochs_train_a_finished_run_on(root, run, untrained, capsys):
    resume(run, root, "training.num_epochs=4")
    assert "step 6 of 12" in capsys.readouterr().out


def test_resuming_a_finished_run_says_that_nothing_is_left(root, run, capsys):
    assert resume(run, root) == 0
    told = capsys.readouterr().out
    assert "nothing is left to train: 6 steps are done, and the run has 6." in told
    assert f"To train on: python -m seg.train --resume {run} training.num_epochs=4" in told


def test_a_run_of_an_earlier_version_gets_its_record(root, run, capsys):
    (run / "record.json").unlink()
    reverse(root)
    assert resume(run, root) == 0
    assert "nothing could be compared" in capsys.readouterr().out
    assert set(read_record_file(run)["data"]) == {"train", "val"}
    assert resume(run, root) == 0 and "could be compared" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--allow-changed", "weather"), "--allow-changed: expected some of data, classes, config, found 'weather'"),
        (("--resume", "nowhere"), "--resume: expected a run directory, .* at nowhere"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        call(*(() if "--resume" in arguments else ("--resume", ".")), *arguments)
    with pytest.raises(UserError, match="goes with --resume"):
        call("--config", "c.yaml", "--allow-changed", "data")


def test_a_run_directory_has_the_record_before_it_is_complete(finished):
    (path,) = (finished / "runs").iterdir()
    run = RunDir(path)
    assert (path / "record.json").stat().st_mtime_ns <= run.environment_file.stat().st_mtime_ns
