"""The written record of a run: table, detail, pictures, texts, TensorBoard, log file, terminal."""

import json
import logging
import math
import os
import sys

import numpy as np
import pytest
from PIL import Image

from asr.config import Config, TrainingConfig
from asr.errors import UserError
from asr.metrics import ErrorCounts
from asr.record import report as report_module
from asr.record import results as results_module
from asr.record.evaluation import Aligned, Evaluation, Transcribed
from asr.record.log_file import close_logging, open_log_file, setup_logging
from asr.record.report import COLUMNS, Report, draw_curves
from asr.record.results import read_rows
from asr.record.run_dir import RunDir

LOG = logging.getLogger("asr")
STEP = {"loss": 0.5, "quantity": 0.1, "grad_norm": 2.0}


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
    return Report(run, Config())


def evaluation(loss=0.5, samples=0, words=(3, 1, 1, 20)):
    transcribed = Transcribed("utterance 7", "zwei größen", "zwei größe")
    aligned = Aligned(np.random.default_rng(0).normal(size=(30, 8)), np.eye(3, 5), ("a", "b", "c"))
    return Evaluation(
        losses={"loss": loss, "cross_entropy": 0.4, "quantity": 0.1, "token_accuracy": 0.75},
        words=ErrorCounts(*words),
        characters=ErrorCounts(4, 2, 2, 100),
        tokens=ErrorCounts(0, 5, 0, 50),
        quantity_error=0.25,
        transcripts=[transcribed] * samples,
        alignments=[(transcribed, aligned)] * samples,
    )


def note(report, *steps, **changed):
    numbers = {"train_loss": 0.75, "learning_rate": 1e-3, "audio_s_per_s": 12.5, "seconds": 60.0}
    for step in steps:
        found = changed.pop("evaluation", evaluation())
        report.evaluation(epoch=step // 10, step=step, evaluation=found, **numbers | changed)


def refuse_constants(text):
    raise AssertionError(f"{text} is no JSON")


def details(report):
    return json.loads(report.results.details_file.read_text(), parse_constant=refuse_constants)


def steps(report):
    return [int(row["step"]) for row in read_rows(report.results.table_file, COLUMNS)]


# --- results.csv ---


def test_each_evaluation_is_one_row_below_one_header(report, run):
    note(report, 10)
    note(Report(run, Config()), 20)  # as after a resume
    lines = report.results.table_file.read_bytes().split(b"\n")
    assert lines[0].decode() == ",".join(COLUMNS) and len(lines) == 4 and lines[-1] == b""
    first = read_rows(report.results.table_file, COLUMNS)[0]
    assert first["run_id"] == run.run_id and first["model_type"] == "paraformer"
    assert [float(first[c]) for c in ("wer", "cer", "ter", "quantity_error")] == [0.25, 0.08, 0.1, 0.25]
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
    "line", [b"\x00" * 40, b"\xff\xfe", b"a\rb", b'"open', b"a,b", b",".join([b"x"] * 13), b",".join([b"1"] * 14)]
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


def test_the_detail_has_the_counts_of_each_kind_of_error_and_no_nan(report):
    note(report, 10, evaluation=evaluation(loss=math.nan), train_loss=math.inf)
    (detail,) = details(report)
    assert detail["val_loss"] is None and detail["train_loss"] is None and detail["losses"]["loss"] is None
    assert detail["losses"]["cross_entropy"] == 0.4
    kinds = ("substitutions", "deletions", "insertions", "reference_length")
    assert [detail["words"][kind] for kind in kinds] == [3, 1, 1, 20]
    assert [detail["characters"][kind] for kind in kinds] == [4, 2, 2, 100]
    assert detail["wer"] == 0.25 and detail["quantity_error"] == 0.25


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


# --- pictures and transcripts ---


def test_curves_and_alignments_are_pictures(report, run, draws):
    note(report, 10, 20, evaluation=evaluation(samples=2))
    for path in (run.path / "curves.png", run.samples / "step_00000010.png", run.samples / "step_00000010_2.png"):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert min(pixels.shape[:2]) > 50 and pixels.std() > 1
    assert not list(run.path.rglob("*.part"))
    assert not list(run.samples.glob("step_00000020*"))


def test_transcripts_stand_below_each_other(report, run):
    note(report, 10, evaluation=evaluation(samples=1))
    text = (run.samples / "step_00000010.txt").read_text(encoding="utf-8")
    assert text == "utterance 7\n  REF: zwei größen\n  HYP: zwei größe\n"


def test_alignments_are_drawn_at_their_times(report, monkeypatch):
    drawn = []
    monkeypatch.setattr("asr.record.evaluation.draw_alignment", lambda *arguments: drawn.append(arguments))
    note(report, 10, evaluation=evaluation(samples=1))
    mel_tm, alignment_ut, tokens, shift_s, path, title, mel_shift_s, _ = drawn[0]
    assert (mel_tm.shape, alignment_ut.shape, tokens) == ((30, 8), (3, 5), ("a", "b", "c"))
    assert (shift_s, mel_shift_s) == (0.06, 0.01)
    assert path.name == "step_00000010.png" and "utterance 7" in title and "zwei größen" in title


def test_the_curves_show_every_column(monkeypatch, tmp_path):
    names = ("epoch", "train_loss", "val_loss", "wer", "cer", "ter", "quantity_error", "learning_rate")
    rows = [
        dict(zip(names, map(str, (e, 1 / e, 2 / e, 0.1 * e, 3.0, "nan", 5 * e, 1e-4 * e)), strict=True)) for e in (1, 2)
    ]
    drawn = []
    from matplotlib.axes import Axes

    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *a, **kw: drawn.append(a[1:3]) or plot(*a, **kw))
    draw_curves(rows, tmp_path / "curves.png")
    assert all(x == [1, 2] for x, _ in drawn)
    shown = [y for _, y in drawn if not math.isnan(y[0])]
    assert shown == [[1, 0.5], [2, 1], [0.1, 0.2], [3.0, 3.0], [5, 10], [1e-4, 2e-4]]
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_equal_rates_of_characters_and_tokens_both_show(tmp_path):
    names = ("epoch", "train_loss", "val_loss", "wer", "cer", "ter", "quantity_error", "learning_rate")
    draw_curves([dict.fromkeys(names, str(1 / e)) | {"epoch": str(e)} for e in (1, 2, 3)], tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        pixels = np.asarray(image.convert("RGB"))[:, 400:800].astype(int)
    for colour in ((255, 204, 159), (44, 160, 44)):  # the wide pale line and the thin dashed one above it
        assert (np.abs(pixels - colour).max(-1) < 8).sum() > 200, colour


# --- TensorBoard ---


def test_tensorboard_gets_scalars_and_pictures(run):
    pytest.importorskip("tensorboardX")
    report = Report(run, Config(training=TrainingConfig(tensorboard=True)))
    report.log_step(1, STEP, 1e-3)
    note(report, 10, evaluation=evaluation(samples=1))
    report.tensorboard._writer.close()
    (events,) = (run.path / "tensorboard").iterdir()
    content = events.read_bytes()
    for name in (b"loss/train", b"train/quantity", b"grad_norm", b"loss/val", b"val/wer", b"val/alignment_1", b"PNG"):
        assert name in content, name


def test_without_its_package_tensorboard_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"training\.tensorboard .*pip install .*\[tensorboard\]"):
        Report(run, Config(training=TrainingConfig(tensorboard=True)))
    Report(run, Config()).log_step(1, STEP, 1e-3)
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
    logging.getLogger("asr.checkpoints").warning("damaged")
    report.log_step(7, STEP, 1e-3)
    assert capsys.readouterr().out.splitlines() == ["Größe 3", "damaged"]
    lines = logging_to_file.read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        "INFO Größe 3",
        "WARNING damaged",
        "DEBUG step 7: loss 0.5000 (quantity 0.1000), gradient norm 2.000, learning rate 0.001",
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
    LOG.info("three utterances are left out")
    LOG.debug("a detail")
    assert capsys.readouterr().out == "three utterances are left out\n"
    open_log_file(tmp_path / "train.log")
    LOG.info("later")
    close_logging()
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        "INFO three utterances are left out",
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


def test_an_evaluation_of_empty_texts_is_noted(report, draws):
    note(report, 10, evaluation=evaluation(words=(0, 0, 0, 0)))
    assert details(report)[0]["words"]["reference_length"] == 0
    assert steps(report) == [10]


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
    log = logging.getLogger("asr")
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
