"""The written record of a run: table, detail, curves, pictures, TensorBoard, log file, terminal."""

import json
import logging
import math
import os
import sys

import numpy as np
import pytest
from PIL import Image

from seg.classes import make_class_table
from seg.config import Config, TrainingConfig
from seg.errors import UserError
from seg.metrics import compute_metrics
from seg.record import report as report_module
from seg.record import results as results_module
from seg.record.evaluation import Evaluation
from seg.record.log_file import close_logging, open_log_file, setup_logging
from seg.record.report import COLUMNS, Report, draw_curves
from seg.record.results import read_rows
from seg.record.run_dir import RunDir

CLASSES = make_class_table(("background", "circle", "star"))
MATRIX = np.array([[50, 5, 0], [10, 35, 0], [0, 0, 0]], np.int64)  # no star: its scores are NaN
LOG = logging.getLogger("seg")


@pytest.fixture(autouse=True)
def no_curves(request, monkeypatch):
    """Drawing takes most of the time; it is left out where it is not looked at."""
    if "draws" not in request.fixturenames:
        monkeypatch.setattr(report_module, "draw_curves", lambda rows, path: None)


@pytest.fixture
def draws():
    """Asked for by tests in which the curves are drawn."""


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path)


@pytest.fixture
def report(run):
    return Report(run, Config(), CLASSES)


def evaluation(loss=0.5, samples=0, matrix=MATRIX):
    image, mask = np.full((16, 16, 3), 90, np.uint8), np.ones((16, 16), np.uint8)
    return Evaluation(loss, compute_metrics(matrix), [(image, mask, mask)] * samples)


def note(report, *steps, **changed):
    numbers = {"train_loss": 0.75, "learning_rate": 1e-3, "images_per_s": 12.5, "seconds": 60.0}
    for step in steps:
        found = changed.pop("evaluation", evaluation())
        report.evaluation(epoch=step / 10, step=step, evaluation=found, **numbers | changed)


def test_a_class_that_is_never_predicted_is_warned_of(report, caplog):
    with caplog.at_level(logging.INFO, "seg"):
        note(report, 1)
        assert "never predicted" not in caplog.text
        note(report, 2, evaluation=evaluation(matrix=np.array([[50, 5, 0], [10, 32, 0], [3, 0, 0]], np.int64)))
    assert [r.levelname for r in caplog.records if "never predicted: star (3.00% of the pixels)" in r.message] == [
        "WARNING"
    ]


def refuse_constants(text):
    raise AssertionError(f"{text} is no JSON")


def details(report):
    return json.loads(report.results.details_file.read_text(), parse_constant=refuse_constants)


def steps(report):
    return [int(row["step"]) for row in read_rows(report.results.table_file, COLUMNS)]


# --- results.csv ---


def test_each_evaluation_is_one_row_below_one_header(report, run):
    note(report, 10)
    note(Report(run, Config(), CLASSES), 20)  # as after a resume
    lines = report.results.table_file.read_bytes().split(b"\n")
    assert lines[0].decode() == ",".join(COLUMNS) and len(lines) == 4 and lines[-1] == b""
    first = read_rows(report.results.table_file, COLUMNS)[0]
    assert first["run_id"] == run.run_id and first["model_type"] == "unet_transformer"
    assert float(first["mean_iou"]) == pytest.approx((50 / 65 + 35 / 50) / 2)
    assert [float(first[c]) for c in ("epoch", "train_loss", "val_loss", "seconds")] == [1.0, 0.75, 0.5, 60.0]


def test_a_resumed_run_drops_what_came_after_its_checkpoint(report):
    note(report, 10, 20, 30)
    report.results.drop_after(20)
    assert steps(report) == [10, 20] and [d["step"] for d in details(report)] == [10, 20]
    note(report, 30)
    assert steps(report) == [10, 20, 30] and [d["step"] for d in details(report)] == [10, 20, 30]
    report.results.drop_after(0)
    assert steps(report) == [] and details(report) == []
    note(report, 10)
    assert report.results.table_file.read_text().count("run_id") == 1


def test_a_row_that_was_cut_off_anywhere_is_no_row(report):
    note(report, 10, 20)
    content = report.results.table_file.read_bytes()
    last = content.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(content)):
        report.results.table_file.write_bytes(content[:end])
        assert steps(report) == [10], content[last:end]
    report.results.drop_after(20)
    note(report, 20)
    assert steps(report) == [10, 20]


@pytest.mark.parametrize(
    "line", [b"\x00" * 40, b"\xff\xfe", b"a\rb", b'"open', b"a,b", b",".join([b"x"] * 12), b",".join([b"1"] * 13)]
)
def test_lines_that_are_no_rows_do_no_harm(report, line):
    note(report, 10)
    with report.results.table_file.open("ab") as file:
        file.write(line + b"\n")
    assert steps(report) == [10]
    report.results.drop_after(10)
    note(report, 20)
    assert steps(report) == [10, 20]


# --- metrics.json ---


def test_the_detail_has_the_scores_of_each_class_and_no_nan(report):
    note(report, 10, evaluation=evaluation(loss=math.nan), train_loss=math.inf)
    (detail,) = details(report)
    assert detail["val_loss"] is None and detail["train_loss"] is None
    assert [c["name"] for c in detail["classes"]] == list(CLASSES.names)
    assert detail["classes"][2]["iou"] is None and detail["classes"][0]["iou"] == pytest.approx(50 / 65)


def test_the_detail_is_replaced_as_a_whole(report, monkeypatch):
    note(report, 10)

    def power_cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.fsync", power_cut)
        results_module.replace_json(report.results.details_file, [1, 2, 3])
    assert [d["step"] for d in details(report)] == [10]


@pytest.mark.parametrize("content", ["", "[{", "{}x", "[1]", '[{"epoch": 1}]', "3"])
def test_a_detail_file_that_cannot_be_read_is_named(report, content):
    note(report, 10)
    report.results.details_file.write_text(content)
    with pytest.raises(UserError, match=r"metrics\.json: expected .*move the file away"):
        report.results.drop_after(10)


def test_a_disk_that_refuses_is_an_error_of_the_user(report, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report_module, "draw_curves", refuse)
    with pytest.raises(UserError, match="cannot write the record.*No space left on device.*resume"):
        note(report, 10)


# --- pictures ---


def test_curves_and_samples_are_pictures(report, run, draws):
    note(report, 10, 20, evaluation=evaluation(samples=2))
    for path in (run.path / "curves.png", run.samples / "step_00000010.png"):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert min(pixels.shape[:2]) > 50 and pixels.std() > 1
    assert not list(run.path.rglob("*.part"))
    assert not (run.samples / "step_00000020.png").exists()


def test_the_curves_show_every_column(monkeypatch, tmp_path):
    names = ("epoch", "train_loss", "val_loss", "mean_iou", "mean_dice", "pixel_accuracy", "learning_rate")
    rows = [
        dict(zip(names, map(str, (e, 1 / e, 2 / e, 0.1 * e, 0.2 * e, "nan", 1e-4 * e)), strict=True)) for e in (1, 2)
    ]
    drawn = []
    from matplotlib.axes import Axes

    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *a, **kw: drawn.append(a[1:3]) or plot(*a, **kw))
    draw_curves(rows, tmp_path / "curves.png")
    assert all(x == [1, 2] for x, _ in drawn)
    assert [y for _, y in drawn if not math.isnan(y[0])] == [[1, 0.5], [2, 1], [0.1, 0.2], [0.2, 0.4], [1e-4, 2e-4]]
    assert (tmp_path / "curves.png").stat().st_size > 1000


# --- TensorBoard ---


def test_tensorboard_gets_scalars_and_pictures(run):
    pytest.importorskip("tensorboardX")
    report = Report(run, Config(training=TrainingConfig(tensorboard=True)), CLASSES)
    report.log_step(1, 0.5, 2.0, 1e-3)
    note(report, 10, evaluation=evaluation(samples=1))
    report.tensorboard._writer.close()
    (events,) = (run.path / "tensorboard").iterdir()
    content = events.read_bytes()
    for name in (b"loss/train", b"grad_norm", b"loss/val", b"val/mean_iou", b"val/samples", b"PNG"):
        assert name in content, name


def test_without_its_package_tensorboard_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"training\.tensorboard .*pip install .*\[tensorboard\]"):
        Report(run, Config(training=TrainingConfig(tensorboard=True)), CLASSES)
    Report(run, Config(), CLASSES).log_step(1, 0.5, 2.0, 1e-3)
    assert not (run.path / "tensorboard").exists()


# --- log file and terminal ---


@pytest.fixture
def logging_to_file(run):
    setup_logging()
    open_log_file(run.log_file)
    yield run.log_file
    close_logging()


def test_the_terminal_shows_messages_and_the_file_the_steps_too(report, logging_to_file, capsys):
    LOG.info("Größe %d", 3)
    logging.getLogger("seg.checkpoints").warning("damaged")
    report.log_step(7, 0.5, 2.0, 1e-3)
    assert capsys.readouterr().out.splitlines() == ["Größe 3", "damaged"]
    lines = logging_to_file.read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        "INFO Größe 3",
        "WARNING damaged",
        "DEBUG step 7: loss 0.5000, gradient norm 2.000, learning rate 0.001",
    ]


def test_a_second_run_in_one_process_logs_to_its_own_file_only(tmp_path, caplog):
    for name in ("one", "two"):
        setup_logging()
        open_log_file(tmp_path / name)
        LOG.info("in %s", name)
    close_logging()
    LOG.error("after the runs")
    assert [(tmp_path / n).read_text().strip()[-6:] for n in ("one", "two")] == ["in one", "in two"]
    assert [r.getMessage() for r in caplog.records] == ["after the runs"]


def test_what_is_said_before_there_is_a_log_file_comes_into_it(tmp_path, capsys):
    setup_logging()
    LOG.info("three images are left out")
    LOG.debug("a detail")
    assert capsys.readouterr().out == "three images are left out\n"
    open_log_file(tmp_path / "train.log")
    LOG.info("later")
    close_logging()
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        "INFO three images are left out",
        "DEBUG a detail",
        "INFO later",
    ]
    assert not LOG.handlers and LOG.propagate


def test_a_terminal_that_has_gone_away_does_not_stop_the_run(logging_to_file, monkeypatch):
    class Gone:
        def write(self, _):
            raise BrokenPipeError(32, "Broken pipe")

        flush = write

    monkeypatch.setattr(sys, "stdout", Gone())
    LOG.info("still noted")
    assert "still noted" in logging_to_file.read_text()


def test_an_evaluation_without_a_counted_pixel_is_noted(report, draws):
    note(report, 10, evaluation=evaluation(matrix=np.zeros((3, 3), np.int64)))
    assert details(report)[0]["mean_iou"] is None


def test_a_log_holds_nothing_that_steers_a_terminal_and_goes_to_no_pipe_or_link(tmp_path):
    outside, path = tmp_path / "outside", tmp_path / "train.log"
    outside.write_text("precious")
    for plant in (lambda: os.mkfifo(path), lambda: path.symlink_to(outside), path.mkdir):
        plant()
        with pytest.raises(UserError, match=str(path)):
            setup_logging()
            open_log_file(path)
        close_logging()
        path.rmdir() if path.is_dir() else path.unlink()
    assert outside.read_text() == "precious"
    try:
        setup_logging()
        open_log_file(path)
        LOG.info("%s", "a\x1b[2J" + os.fsdecode(b"\xe9"))
    finally:
        close_logging()
    assert "a\\x1b[2J\\udce9\n" in path.read_text()


def test_the_logger_is_left_as_its_caller_set_it():
    log = logging.getLogger("seg")
    log.setLevel(logging.WARNING)
    log.propagate = False
    try:
        setup_logging()
        setup_logging()
        close_logging()
        assert (log.level, log.propagate, log.handlers) == (logging.WARNING, False, [])
    finally:
        log.setLevel(logging.NOTSET)
        log.propagate = True
