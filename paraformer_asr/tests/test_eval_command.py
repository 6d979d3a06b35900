import contextlib
import csv
import dataclasses
import io
import json
import re
import sys
import types

import jax
import numpy as np
import pytest
from PIL import Image

from asr import eval as eval_command
from asr.checkpoints import CheckpointStore
from asr.cli import run_command
from asr.config import (
    Config,
    DataConfig,
    FeaturesConfig,
    InferenceConfig,
    LossConfig,
    ToyConfig,
)
from asr.data import build_dataset
from asr.data.text.tokenizer import Tokenizer, with_special_tokens
from asr.data.toy_seq2seq import ToySeq2Seq
from asr.inference.loading import load_parts
from asr.inference.model_folder import save_model_folder
from asr.inference.scoring import UtteranceScore, pick_extremes
from asr.inference.shapes import Shape
from asr.inference.transcriber import Transcriber
from asr.metrics import ErrorCounts, bootstrap_interval, character_errors, count_errors, sum_counts, word_errors
from asr.record.run_dir import create_run_dir
from tiny_model import CMVN, NUM_MELS, RATE_HZ, random_variables, tiny_model

BASE = Config(
    features=FeaturesConfig(num_mels=NUM_MELS, sample_rate_hz=RATE_HZ),
    data=DataConfig(toy=ToyConfig(num_train=5, num_val=3, num_test=9, num_letters=2, max_words=1, max_word_letters=2)),
    loss=LossConfig(ctc_weight=0.3),
    inference=InferenceConfig(batch_size=3, decoder="ctc", max_segment_s=1),  # the utterances are longer
)
TOKENIZER = ToySeq2Seq(BASE.data, BASE.features, "train").tokenizer
CONFIG = dataclasses.replace(BASE, model=tiny_model(TOKENIZER, ctc_head=True))


VARIABLES = random_variables(CONFIG.model, seed=9)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with an untrained model."""
    config = dataclasses.replace(CONFIG, runs_dir=str(tmp_path_factory.mktemp("runs")))
    run = create_run_dir(config, TOKENIZER, CMVN)
    CheckpointStore(run.checkpoints).save(1, jax.device_put(VARIABLES), {}, score=(0.5,))
    return run.path


@pytest.fixture(scope="module")
def transcriber():
    transcriber = Transcriber(CONFIG, TOKENIZER, CMVN, VARIABLES)
    transcriber.warm_up([Shape(3, 16000)])
    return transcriber


def run_eval(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["eval", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        run_command(eval_command.main)
    return end.value.code


def answers(transcriber, split):
    """(name, reference, hypothesis, tokens of both) of each utterance, each recognised by itself."""
    rows = []
    for utterance in build_dataset(CONFIG, split):
        said = [i for i in transcriber.recognise(utterance.wave).ids if TOKENIZER.is_ordinary(i)]
        rows.append((utterance.name, utterance.text, TOKENIZER.decode(said), TOKENIZER.encode(utterance.text), said))
    return rows


def check_numbers(found, counts):
    total = sum_counts(counts)
    assert found["error_rate"] == pytest.approx(total.rate, abs=1e-6)
    assert found["reference_length"] == total.reference_length
    assert found["substitutions"] + found["deletions"] + found["insertions"] == total.errors
    assert found["interval_95"] == pytest.approx(bootstrap_interval(counts), abs=1e-6)


@pytest.fixture(scope="module")
def evaluated(run):
    """Folder of the results on the test split, and what the command printed."""
    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.redirect_stdout(io.StringIO()) as output:
        assert run_eval(monkeypatch, "--run", run, "--split", "test") == 0
    return run / "eval_test", output.getvalue()


def test_the_numbers_are_those_of_each_utterance_alone(evaluated, transcriber):
    folder, output = evaluated
    pictures = {f"alignment_{kind}_{i}.png" for kind in ("best", "worst") for i in (1, 2)}
    assert {f.name for f in folder.iterdir()} == {"metrics.json", "utterances.csv", "errors.txt", *pictures}
    rows = answers(transcriber, "test")
    found = json.loads((folder / "metrics.json").read_text())
    check_numbers(found["words"], [word_errors(row[1], row[2]) for row in rows])
    check_numbers(found["characters"], [character_errors(row[1], row[2]) for row in rows])
    check_numbers(found["tokens"], [count_errors(row[3], row[4]) for row in rows])
    assert 0.2 < found["characters"]["error_rate"] < 0.9
    assert (found["split"], found["num_utterances"], found["decoder"]) == ("test", 9, "ctc")
    with (folder / "utterances.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [(row["name"], row["reference"], row["hypothesis"]) for row in written] == [row[:3] for row in rows]
    wrong = [int(row["substitutions"]) + int(row["deletions"]) + int(row["insertions"]) for row in written]
    assert sum(wrong) == sum_counts(word_errors(row[1], row[2]) for row in rows).errors
    assert all(line in output for line in ("words, text in training", "words, text not in training", str(folder)))
    for name in pictures:
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 250


def test_utterances_whose_text_occurs_in_training_are_counted_apart(evaluated, transcriber):
    found = json.loads((evaluated[0] / "metrics.json").read_text())
    texts = set(build_dataset(CONFIG, "train").texts())
    rows = answers(transcriber, "test")
    known = [word_errors(row[1], row[2]) for row in rows if row[1] in texts]
    unknown = [word_errors(row[1], row[2]) for row in rows if row[1] not in texts]
    assert found["num_text_in_training"] == len(known) > 0
    assert len(unknown) > 0  # else the comparison says little
    check_numbers(found["words_text_in_training"], known)
    check_numbers(found["words_text_not_in_training"], unknown)


def scores_in(report):
    """Hits, substitutions, deletions and insertions of each utterance in a report, in its order."""
    return [tuple(map(int, line.split()[-4:])) for line in report.splitlines() if line.startswith("Scores: ")]


def test_the_report_counts_words(evaluated):
    report = scores_in((evaluated[0] / "errors.txt").read_text())
    assert {sum(score[1:]) for score in report} == {1}  # an utterance has one word


def test_split_decoder_and_folder_follow_the_arguments_and_the_report_begins_with_the_worst(run, monkeypatch, tmp_path):
    options = ["--split", "train", "--decoder", "ctc_beam", "--out", tmp_path / "deep/out"]
    overrides = ["inference.length_bonus=10", "training.select_by=cer"]
    assert run_eval(monkeypatch, "--run", run, *options, *overrides) == 0
    found = json.loads((tmp_path / "deep/out/metrics.json").read_text())
    assert (found["split"], found["decoder"], found["num_utterances"]) == ("train", "ctc_beam", 5)
    assert found["characters"]["insertions"] > 10  # the bonus
    assert "words_text_in_training" not in found
    assert not (run / "eval_train").exists()
    report = scores_in((tmp_path / "deep/out/errors.txt").read_text())
    assert sum(score[3] for score in report) == found["characters"]["insertions"]  # characters, as select_by says
    errors = [sum(score[1:]) for score in report]
    assert errors == sorted(errors, reverse=True)
    assert len(set(errors)) > 1


def test_a_model_folder_is_scored_without_a_run(evaluated, transcriber, monkeypatch, tmp_path, capsys, caplog):
    monkeypatch.setattr("asr.inference.model_folder.export_program", lambda *_: b"")  # not what is scored
    save_model_folder(tmp_path / "model", CONFIG, TOKENIZER, CMVN, VARIABLES)
    loaded = load_parts(tmp_path / "model")[3]
    jax.tree.map(np.testing.assert_array_equal, loaded, VARIABLES)
    monkeypatch.setattr("asr.inference.transcriber.Transcriber", lambda *_, **__: transcriber)  # it is compiled already
    monkeypatch.setattr(transcriber, "warm_up", lambda shapes, hotwords: None)
    monkeypatch.setattr("asr.inference.eval_report.draw_extremes", lambda *_: None)
    assert run_eval(monkeypatch, "--model", tmp_path / "model", "--split", "test") == 2
    assert "--model needs --out FOLDER" in capsys.readouterr().err
    assert run_eval(monkeypatch, "--model", tmp_path / "model", "--split", "test", "--out", tmp_path / "scores") == 0
    found, expected = (
        json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "scores", evaluated[0])
    )
    assert found.pop("run") == str(tmp_path / "model")
    assert found["words"] == expected["words"] and found["num_utterances"] == 9
    assert "hotwords" not in found
    options = "--out", tmp_path / "hot", "--hotwords", "a, b :2, ж"
    assert run_eval(monkeypatch, "--model", tmp_path / "model", "--split", "test", *options) == 0
    shown, facts = capsys.readouterr(), json.loads((tmp_path / "hot" / "metrics.json").read_text())["hotwords"]
    assert "hot words: recall" in shown.out and "cannot write: 'ж'" in caplog.text and facts["number"] == 3
    said = [word for utterance in build_dataset(CONFIG, "test") for word in utterance.text.split()]
    assert facts["in_reference"] == sum(word in "ab" for word in said) > 0
    with pytest.raises(SystemExit, match="2"):
        monkeypatch.setattr(sys, "argv", ["eval", "--model", "a", "--run", "b"])
        eval_command.main()
    assert "not allowed with" in capsys.readouterr().err


def test_mistakes_are_answered(run, monkeypatch, capsys, tmp_path):
    assert run_eval(monkeypatch, "--run", run, "data.rot=x") == 2
    assert "did you mean 'data.root'" in capsys.readouterr().err
    assert run_eval(monkeypatch, "--run", run, "data.dataset=tsv", f"data.root={tmp_path}") == 2
    assert str(tmp_path) in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert run_eval(monkeypatch, "--run", run, "--out", tmp_path / "file/out") == 2
    assert "cannot make this folder" in capsys.readouterr().err
    assert run_eval(monkeypatch, "--run", tmp_path) == 2
    assert re.search(rf"{tmp_path}: expected a run .* holds no config\.yaml", capsys.readouterr().err)


def score(index, errors, length):
    return UtteranceScore("", "", ErrorCounts(errors, 0, 0, length), index, f"u{index}", 1.0, False)


def test_best_and_worst_are_disjoint_and_the_longer_come_first():
    scores = [score(0, 1, 4), score(1, 0, 3), score(2, 0, 7), score(3, 3, 3), score(4, 0, 0), score(5, 5, 5)]

    def picked(number):
        return [(kind, s.index) for kind, s in pick_extremes(scores, number)]

    assert picked(1) == [("best", 2), ("worst", 5)]
    assert picked(2) == [("best", 2), ("best", 1), ("worst", 5), ("worst", 3)]
    assert picked(9) == [("best", 2), ("best", 1), ("best", 0), ("worst", 5), ("worst", 3)]
    assert pick_extremes(scores[4:5], 3) == []


def test_what_the_model_cannot_write_or_was_not_trained_on_is_named(capsys):
    texts = ["a’b", "ab\u200b", "a b"]
    dataset = types.SimpleNamespace(texts=lambda: texts, where=lambda i: f"t:{i + 1}")
    tokenizer = Tokenizer(with_special_tokens("ab'▁"), "characters")
    eval_command.warn_of_characters(dataset, tokenizer, {"a b"})
    assert capsys.readouterr().err.splitlines() == [
        "warning: references: no token for U+200B ZERO WIDTH SPACE (1 × in 1 text, first in t:2); "
        "'’' (U+2019 RIGHT SINGLE QUOTATION MARK) (1 × in 1 text, first in t:1; write \"'\")",
        "warning: references: invisible: U+200B ZERO WIDTH SPACE (1 × in 1 text, first in t:2); remove it",
        "warning: references: never in the training texts: U+200B ZERO WIDTH SPACE (1 × in 1 text, first in t:2); "
        "'’' (U+2019 RIGHT SINGLE QUOTATION MARK) (1 × in 1 text, first in t:1)",
    ]
    eval_command.warn_of_characters(types.SimpleNamespace(texts=lambda: ["ab a"], where=str), tokenizer, None)
    assert capsys.readouterr().err == ""
