"""The check command: what it counts, what it finds, and that it goes on to the last line."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import yaml

from asr import check
from asr.config import AugmentConfig, Config, DataConfig, FeaturesConfig, ToyConfig, TrainingConfig
from asr.data import build_dataset
from asr.data.inspection import count_reasons, find_duplicates, inspect_split, inspect_tokens
from asr.data.loader import TrainLoader
from asr.data.text.building import build_tokenizer
from asr.errors import EXIT_OK, EXIT_USER_ERROR, UserError

RATE_HZ = 8000
SECONDS = {"train": (0.5, 1.0, 1.5, 2.5), "val": (0.6, 1.1), "test": (0.7,)}


@pytest.fixture
def folder(tmp_path):
    """Write a small data set, three splits in one table and one JSON manifest for each."""
    rng = np.random.default_rng(0)
    rows = ["path\ttext\tsplit\tseconds"]
    for split, seconds in SECONDS.items():
        lines = []
        for i, s in enumerate(seconds):
            soundfile.write(tmp_path / f"{split}{i}.wav", rng.uniform(-0.1, 0.1, round(s * RATE_HZ)), RATE_HZ)
            rows.append(f"{split}{i}.wav\tsay {'abcd'[i]}\t{split}\t{s}")
            lines.append({"audio_filepath": f"{split}{i}.wav", "text": f"say {'abcd'[i]}", "duration": s})
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "manifest.tsv").write_text("\n".join(rows))
    return tmp_path


def run(folder, monkeypatch, *arguments, **data):
    settings = {"dataset": "tsv", "root": str(folder)} | data
    features = {"sample_rate_hz": RATE_HZ, "num_mels": 20}
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": settings, "features": features}))
    monkeypatch.setattr(sys, "argv", ["check", "--config", str(folder / "config.yaml"), *arguments])
    return check.main()


def row(output, name):
    line = next(line for line in output.splitlines() if line.startswith(name))
    return [cell.strip() for cell in line.split("│")[1:]]


def replace_line(path, number, line):
    lines = path.read_text().splitlines()
    lines[number - 1] = line
    path.write_text("\n".join(lines))


def test_a_good_data_set(folder, monkeypatch, capsys):
    assert run(folder, monkeypatch) == EXIT_OK
    output = capsys.readouterr().out
    assert row(output, "utterances ") == ["4", "2", "1"]
    assert row(output, "hours") == ["0.002", "0.000", "0.000"]
    assert row(output, "shortest") == ["0.50 1.38 2.50", "0.60 0.85 1.10", "0.70 0.70 0.70"]
    assert row(output, "words ") == ["8", "4", "2"]
    assert row(output, "characters in") == ["5.0", "5.0", "5.0"]
    assert row(output, "different texts") == ["4", "2", "1"]
    assert row(output, "utterances whose text is in train") == ["4", "2", "1"]
    assert row(output, "tokens ") == ["20", "10", "5"]
    assert row(output, "tokens in a second") == ["3.6", "5.9", "7.1"]
    assert "vocabulary: 11 tokens" in output  # a b c d s y, the space, four special ones
    assert "warning" not in output and "all lines are usable" in output


def test_the_histogram_counts_each_length_once(folder, monkeypatch, capsys):
    run(folder, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.lstrip().startswith("seconds"))
    found = {}
    for line in lines[start + 1 :]:
        if "–" in line:
            edges, *cells = line.split("│")
            found[float(edges.split("–")[0])] = [int(cell.replace("█", "")) for cell in cells]
    counts = np.array(list(found.values()))
    np.testing.assert_array_equal(counts.sum(axis=0), [4, 2, 1])
    step = sorted(found)[1]
    for split, column in zip(SECONDS, counts.T, strict=True):
        expected = np.bincount([int(s / step) for s in SECONDS[split]], minlength=len(found))
        np.testing.assert_array_equal(column, expected)
    bars = np.array([[cell.count("█") for cell in line.split("│")[1:]] for line in lines if "–" in line])
    assert (bars.max(axis=0) == check.BAR_WIDTH).all() and ((bars > 0) == (counts > 0)).all()


def test_the_plan_is_that_of_the_training(folder, monkeypatch, capsys):
    run(folder, monkeypatch, "training.batch_seconds=4", "data.max_seconds=2", "data.augment.speeds=[0.9, 1.1]")
    output = capsys.readouterr().out
    config = Config(
        features=FeaturesConfig(sample_rate_hz=RATE_HZ, num_mels=20),
        data=DataConfig(dataset="tsv", root=str(folder), max_seconds=2.0, augment=AugmentConfig(speeds=(0.9, 1.1))),
        training=TrainingConfig(batch_seconds=4.0),
    )
    train_set = build_dataset(config, "train")
    loader = TrainLoader(train_set, build_tokenizer(config.tokenizer, train_set.texts()), config)
    assert f"{loader.steps_per_epoch} batches an epoch of " in output
    for shape in loader.plan.shapes:
        assert f"{shape.batch_size} × {shape.num_samples / RATE_HZ:g} s" in output
    assert f"{loader.plan.padding_share(0):.1%} of them is padding" in output


def test_every_bad_line_is_listed(folder, monkeypatch, capsys):
    (folder / "train0.wav").write_bytes(b"")
    (folder / "train2.wav").write_bytes(b"not a sound")
    (folder / "val1.wav").unlink()
    table = folder / "manifest.tsv"
    replace_line(table, 3, "train1.wav\t \ttrain\t1.0")  # empty text
    replace_line(table, 6, "val0.wav\tsay x\tval\tlong")
    replace_line(table, 8, "test0.wav\tsay x\ttest\t0.3")  # the sound has 0.7 s
    table.write_text(table.read_text() + "\nno columns")
    assert run(folder, monkeypatch, "data.num_threads=3") == EXIT_USER_ERROR
    output = capsys.readouterr().out
    for found in (
        "train: {}:3: the text of 'train1.wav' is empty",
        "train: {}:2: {root}/train0.wav: an empty file",
        "train: {}:4: {root}/train2.wav: a text that begins",
        "val: {}:6: expected seconds above 0, found 'long'",
        "val: {}:7: {root}/val1.wav: no such file",
        "test: {}:8: stated to be 0.30 s long, but the sound has 0.70 s",
        "{}:9: expected 4 columns, found 1",
    ):
        assert found.format(table, root=folder) in output
    assert row(output, "utterances ") == ["1", "0", "0"]
    assert "\nproblems: 9\n" in output  # the line without columns belongs to no split and is named for each
    assert "all lines are usable" not in output


def test_unknown_characters_are_a_problem_in_training_and_a_warning_elsewhere(folder, monkeypatch, capsys):
    (folder / "tokens.txt").write_text("\n".join(["a", "b", "d", "s", "y", "▁"]))
    replace_line(folder / "val.jsonl", 2, json.dumps({"audio_filepath": "val1.wav", "text": "say ß"}))
    data = {"dataset": "jsonl"} | {f"{split}_split": f"{split}.jsonl" for split in SECONDS}
    tokens = ["tokenizer.kind=file", f"tokenizer.file={folder / 'tokens.txt'}"]
    assert run(folder, monkeypatch, *tokens, **data) == EXIT_USER_ERROR
    output = capsys.readouterr().out
    assert f"train: {folder / 'train.jsonl'}:3: no token for 'c'" in output
    assert f"warning: val: {folder / 'val.jsonl'}:2: no token for 'ß'" in output
    assert "problems: 1\n" in output
    assert run(folder, monkeypatch, **data) == EXIT_OK  # tokens are taken from the training texts
    output = capsys.readouterr().out
    assert "warning: val:" in output
    assert row(output, "utterances whose text is in train") == ["4", "1", "1"]


def test_texts_without_blanks_are_scored_by_characters(folder, monkeypatch, capsys):
    for split, seconds in SECONDS.items():
        lines = [{"audio_filepath": f"{split}{i}.wav", "text": "今天天气" + "一二三四"[i]} for i in range(len(seconds))]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = {"dataset": "jsonl"} | {f"{split}_split": f"{split}.jsonl" for split in SECONDS}
    for select_by, said in (
        ("auto", "auto chooses the best checkpoint by characters"),
        ("wer", "cer"),
        ("cer", "suits"),
    ):
        assert run(folder, monkeypatch, f"training.select_by={select_by}", **data) == EXIT_OK
        output = capsys.readouterr().out
        (line,) = [line for line in output.splitlines() if "a whole sentence is one word" in line]
        assert line.startswith("warning: val: the model writes no spaces") and said in line.split(";")[1]
    assert "never in the training texts" not in output


def test_odd_characters_are_warnings_of_their_split(folder, monkeypatch, capsys):
    replace_line(folder / "manifest.tsv", 2, "train0.wav\tsay\u200b a\ttrain\t0.5")
    replace_line(folder / "manifest.tsv", 6, "val0.wav\tsay ａ\tval\t0.6")
    assert run(folder, monkeypatch) == EXIT_OK
    output = capsys.readouterr().out
    table = folder / "manifest.tsv"
    assert f"warning: train: invisible: U+200B ZERO WIDTH SPACE (1 × in 1 text, first in {table}:2)" in output
    assert "warning: val: never in the training texts: 'ａ' (U+FF41 FULLWIDTH LATIN SMALL LETTER A)" in output
    assert f"first in {table}:6; write 'a')" in output


def test_reasons_are_counted_without_what_differs():
    problems = [
        "a/b.jsonl:3: the text of 'x' is empty",
        "a/b.jsonl:14: the text of 'y: 3' is empty",
        "m.tsv:4: /d/x y.wav: no such file",
        "m.tsv:5: /d/z.wav: no such file",
        "m.tsv:6: d/z.wav: no such file",
        "t.tsv:8: stated to be 0.30 s long, but the sound has 0.70 s",
    ]
    assert count_reasons(problems) == (
        ": 3 × no such file, 2 × the text of … is empty, 1 × stated to be N s long, but the sound has N s"
    )
    assert count_reasons([]) == ""


def test_lengths_that_are_suspicious_or_left_out_are_warnings(folder, monkeypatch, capsys):
    soundfile.write(folder / "val1.wav", np.zeros(RATE_HZ), RATE_HZ)
    replace_line(folder / "manifest.tsv", 8, "test0.wav\tsay a\ttest\t0.9")
    replace_line(folder / "manifest.tsv", 3, f"train1.wav\t{'say ' * 30}b\ttrain\t1.0")
    assert run(folder, monkeypatch, "data.min_seconds=0.6", "data.max_seconds=2") == EXIT_OK
    output = capsys.readouterr().out
    table = folder / "manifest.tsv"
    for found in (
        f"train: {table}:2: left out, 0.50 s are less than data.min_seconds = 0.6",
        f"train: {table}:5: left out, 2.50 s are more than data.max_seconds = 2",
        f"train: {table}:3: 122 tokens, more than the sound has frames",
        f"val: {table}:7: the sound is silent",
        f"val: {table}:7: stated to be 1.10 s long, but the sound has 1.00 s",
        f"test: {table}:8: stated to be 0.90 s long, but the sound has 0.70 s",
    ):
        assert f"warning: {found}\n" in output
    assert output.count("warning") == 6


def test_sounds_and_names_that_splits_share_are_warnings(folder, monkeypatch, capsys):
    sound, _ = soundfile.read(folder / "train1.wav", dtype="int16")
    soundfile.write(folder / "other.flac", sound, RATE_HZ)  # equal samples, another file
    replace_line(folder / "manifest.tsv", 7, "other.flac\tsay b\tval\t1.0")
    shutil.copy(folder / "train2.wav", folder / "train3.wav")
    replace_line(folder / "manifest.tsv", 5, "train3.wav\tsay d\ttrain\t1.5")
    replace_line(folder / "manifest.tsv", 8, "val0.wav\tsay a\ttest\t0.6")
    assert run(folder, monkeypatch) == EXIT_OK
    output = capsys.readouterr().out
    assert "warning: train: 1 sounds occur more than once, such as train2.wav = train3.wav" in output
    assert "warning: 1 sounds of val are in train too, such as train1.wav = other.flac" in output
    assert "warning: 1 sounds of test are in val too, such as val0.wav = val0.wav" in output
    assert "warning: 1 names of test are in val too, such as val0.wav" in output
    assert output.count("warning") == 4


def test_a_test_split_may_be_missing_but_not_the_others(folder, monkeypatch, capsys):
    assert run(folder, monkeypatch, test_split="nowhere") == EXIT_OK
    assert "no test split" in capsys.readouterr().out
    with pytest.raises(UserError, match="nowhere"):
        run(folder, monkeypatch, val_split="nowhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.min_seconds=20"], "no training utterance is left"),
        (["tokenizer.kind=file", "tokenizer.file=nowhere.txt"], r"nowhere\.txt"),
        (["tokenizer.kind=bpe", "tokenizer.vocab_size=8"], None),
    ],
)
def test_the_report_is_given_even_where_no_training_could_be(arguments, message, folder, monkeypatch, capsys):
    code = run(folder, monkeypatch, *arguments)
    output = capsys.readouterr().out
    assert row(output, "utterances ") == ["4", "2", "1"]
    assert code == (EXIT_USER_ERROR if message else EXIT_OK)
    assert message is None or message.replace("\\", "") in output.split("problems: 1\n")[1]


def test_a_data_set_without_a_usable_line_is_reported(folder, monkeypatch, capsys):
    for file in folder.glob("*.wav"):
        file.unlink()
    assert run(folder, monkeypatch) == EXIT_USER_ERROR
    output = capsys.readouterr().out
    assert "no training utterance can be used: 4 × no such file" in output and "all are empty" not in output


def test_the_command_answers_a_mistake_without_a_traceback(folder):
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": {"dataset": "tsv", "root": str(folder / "none")}}))
    command = [sys.executable, "-m", "asr.check", "--config", str(folder / "config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_USER_ERROR
    assert done.stderr.startswith("error: data.root: expected the folder") and "Traceback" not in done.stderr


def test_generated_speech_shares_no_sound():
    config = Config(data=DataConfig(toy=ToyConfig(num_train=8, num_val=4, num_test=4)))
    reports = {s: inspect_split(config, s, lambda findings, **_: findings) for s in ("train", "val", "test")}
    assert [len(report.texts) for report in reports.values()] == [8, 4, 4]
    assert not any(report.problems or report.warnings for report in reports.values())
    assert not [message for message in find_duplicates(reports) if "sounds" in message]
    tokens = inspect_tokens(config, reports)
    assert {split: len(lengths) for split, lengths in tokens.lengths.items()} == {"train": 8, "val": 4, "test": 4}
