"""Manifests of all kinds: equal entries, and every line that cannot be used named by file and line."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr.config import Config, DataConfig
from asr.data import build_dataset
from asr.data.fingerprint import describe_differences, take_fingerprint
from asr.data.manifest_dataset import open_manifest_dataset
from asr.data.manifests.kaldi import read_kaldi
from asr.data.manifests.manifest import read_jsonl, read_tsv
from asr.data.sounds.audio import WHOLE, Span
from asr.errors import UserError
from asr.inference.sound_lists import read_list

RATE_HZ = 8000
NAMES = ("a", "b", "c")


@pytest.fixture
def root(tmp_path):
    """Three sounds of 0.1, 0.2 and 0.3 s, and a manifest of each kind of them."""
    (tmp_path / "wav").mkdir()
    for k, name in enumerate(NAMES, 1):
        soundfile.write(tmp_path / "wav" / f"{name}.wav", np.full(800 * k, 0.1 * k, np.float32), RATE_HZ)
    write(tmp_path / "funasr.jsonl", [{"key": n, "source": f"wav/{n}.wav", "target": f"say {n}"} for n in NAMES])
    write(tmp_path / "nemo.jsonl", [{"audio_filepath": f"wav/{n}.wav", "text": f"say {n}"} for n in NAMES])
    (tmp_path / "kaldi").mkdir()
    (tmp_path / "kaldi/wav.scp").write_text("".join(f"{n} wav/{n}.wav\n" for n in NAMES))
    (tmp_path / "kaldi/text").write_text("".join(f"{n} say {n}\n" for n in reversed(NAMES)))
    rows = "".join(f"{n}\tx\ttrain\twav/{n}.wav\tsay {n}\n" for n in NAMES)
    (tmp_path / "manifest.tsv").write_text(f"utt\tspeaker\tsplit\tpath\ttext\n{rows}")
    return tmp_path


def write(path, lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))


def open_train(root, dataset, split, **settings):
    config = DataConfig(dataset=dataset, root=str(root), train_split=split, **settings)
    return open_manifest_dataset(config, "train", RATE_HZ)


ALL = [("jsonl", "funasr.jsonl"), ("jsonl", "nemo.jsonl"), ("kaldi", "kaldi"), ("tsv", "train")]


@pytest.mark.parametrize(("dataset", "split"), ALL)
def test_every_kind_gives_the_same_utterances(dataset, split, root):
    found = open_train(root, dataset, split)
    assert len(found) == 3
    assert found.texts() == [f"say {n}" for n in NAMES]
    assert found.names() == [f"wav/{n}.wav" for n in NAMES] if split == "nemo.jsonl" else list(NAMES)
    np.testing.assert_allclose(found.durations_s(), [0.1, 0.2, 0.3])
    for index, name in enumerate(NAMES):
        utterance = found[index]
        assert (utterance.text, utterance.name) == (f"say {name}", found.names()[index])
        np.testing.assert_allclose(utterance.wave, 0.1 * (index + 1), atol=1e-4)
        assert len(utterance.wave) == 800 * (index + 1) and utterance.sample_rate_hz == RATE_HZ
    line = {"tsv": 3}.get(dataset, 2)
    assert found.where(1).endswith(f":{line}") and split.split(".")[0].replace("train", "manifest") in found.where(1)
    for index in (-1, 3):
        with pytest.raises(IndexError):
            found[index]


def test_the_kinds_of_a_line_may_be_mixed_and_paths_be_absolute(root):
    lines = [
        {"key": "one", "source": str(root / "wav/a.wav"), "target": "x", "source_len": 5, "target_len": 1},
        {"audio_filepath": "wav/b.wav", "text": "y", "utt_id": "two", "offset": 0, "source": "mic"},
    ]
    write(root / "mixed.jsonl", lines)
    found = open_train(root, "jsonl", str(root / "mixed.jsonl"))
    assert found.names() == ["one", "two"] and found.durations_s().tolist() == [0.1, 0.2]


def test_lengths_are_taken_from_the_manifest_and_else_from_the_sound(root):
    lines = [
        {"audio_filepath": "wav/a.wav", "text": "x", "duration": 7.5},
        {"audio_filepath": "wav/b.wav", "text": "x", "duration": None},
        {"key": "c", "source": "wav/c.wav", "target": "x", "source_len": 4000},
    ]
    write(root / "some.jsonl", lines)
    assert open_train(root, "jsonl", "some.jsonl").durations_s().tolist() == [7.5, 0.2, 0.3]
    (root / "kaldi/utt2dur").write_text("a 1.5\nc 2.5\n")
    assert open_train(root, "kaldi", "kaldi").durations_s().tolist() == [1.5, 0.2, 2.5]
    rows = "split\tseconds\ttext\tpath\ntrain\t3.5\tx\twav/a.wav\ntrain\t\tx\twav/b.wav\n"
    (root / "manifest.tsv").write_text(rows)
    assert open_train(root, "tsv", "train").durations_s().tolist() == [3.5, 0.2]


def test_sound_whose_header_does_not_say_its_length_is_counted(root):
    soundfile.write(root / "wav/piped.flac", np.zeros(4000, np.float32), RATE_HZ)
    content = bytearray((root / "wav/piped.flac").read_bytes())
    content[21] &= 0xF0  # the number of samples in the stream's header: 36 bits of zeros say that it is not known
    content[22:26] = bytes(4)
    (root / "wav/piped.flac").write_bytes(content)
    write(root / "some.jsonl", [{"audio_filepath": "wav/piped.flac", "text": "x"}])
    assert open_train(root, "jsonl", "some.jsonl").durations_s().tolist() == [0.5]


def test_a_table_has_several_splits(root):
    rows = [("a", "train"), ("b", "dev"), ("c", "test")]
    text = "path\ttext\tsplit\r\n" + "".join(f"wav/{n}.wav\tx\t{split}\r\n" for n, split in rows)
    (root / "manifest.tsv").write_text(text)
    assert open_train(root, "tsv", "train+dev").names() == ["wav/a.wav", "wav/b.wav"]
    (root / "other.tsv").write_text(text)
    assert open_train(root, "tsv", "test", tsv_file="other.tsv").names() == ["wav/c.wav"]
    with pytest.raises(UserError, match=r"manifest\.tsv: no line of the split 'val'; .* 'train' \(1\), 'dev' \(1\)"):
        open_train(root, "tsv", "train+val")


def test_each_split_is_named_by_its_own_setting(root):
    config = Config(data=DataConfig(dataset="jsonl", root=str(root), val_split="nemo.jsonl", test_split="nowhere"))
    assert build_dataset(config, "val").names()[0] == "wav/a.wav"
    with pytest.raises(UserError, match=r"nowhere: expected a manifest .* holds .*funasr\.jsonl"):
        build_dataset(config, "test")


NEMO = {"audio_filepath": "wav/b.wav", "text": "x"}

BAD_JSON = [
    ("no json", ":2: not JSON"),
    ("[1, 2]", r":2: expected a JSON object"),
    ("[" * 100_000, ":2: (not JSON|expected a JSON object, found brackets)"),
    (
        {"key": "x", "source": "wav/b.wav"},
        ":2: the key of the text is missing; .* text, target, found key, source",
    ),
    ({"text": "x"}, ":2: the key of the sound is missing; expected one of audio_filepath, .* found text"),
    ({}, ":2: the key of the sound is missing; .* found none"),
    ({"key": "x", "source": 5, "target": "x"}, ":2: source: expected a text, found 5"),
    ({"key": ["x"], "source": "wav/b.wav", "target": "x"}, ":2: key: expected a text"),
    ({"audio_filepath": "", "text": "x"}, ":2: audio_filepath: the path is empty"),
    ({"audio_filepath": "wav/b.wav", "text": " "}, ":2: the text of 'wav/b.wav' is empty"),
    (NEMO | {"utt_id": ""}, ":2: the name of the utterance is empty"),
    (
        {"audio_filepath": "wav/b.wav", "text": "x", "duration": "long"},
        ":2: duration: expected seconds above 0, found 'long'",
    ),
    (NEMO | {"duration": -1}, ":2: duration: expected seconds above 0, found -1"),
    (
        {"audio_filepath": "wav/b.wav", "text": "x", "duration": [1]},
        r":2: duration: expected seconds above 0, found \[1\]",
    ),
    (
        {"audio_filepath": "wav/b.wav", "text": "x", "duration": True},
        ":2: duration: expected seconds above 0, found True",
    ),
    (
        '{"audio_filepath": "wav/b.wav", "text": "x", "duration": NaN}',
        ":2: duration: expected seconds above 0, found nan",
    ),
    (
        {"audio_filepath": "wav/b.wav", "text": "x", "offset": -1.5},
        ":2: offset: expected a start of 0 s or later, found -1.5",
    ),
    (NEMO | {"offset": "x"}, ":2: offset: expected a start .*, found 'x'"),
    (
        {"audio_filepath": "wav/b.wav", "text": "x", "offset": 0.5},
        ":2: .*b.wav: expected sound at 0.50 s, found its end at 0.20",
    ),
    (NEMO | {"offset": 0.2}, ":2: .*b.wav: expected sound at 0.20 s, found its end at 0.20"),
    ({"path": "wav/b.wav", "text": "x", "offset": 0.1, "duration": 9}, ":2: .*b.wav: expected sound at 9.10 s, found"),
    ({"audio_filepath": "wav/a.wav", "text": "x"}, r":2: the utterance 'wav/a\.wav' is already in .*:1"),
    ({"audio_filepath": "wav/none.wav", "text": "x"}, r":2: .*none\.wav: no such file"),
    ({"audio_filepath": "wav/none.wav", "text": "x", "duration": 1}, r":2: .*none\.wav: no such file"),
    ({"audio_filepath": "wav", "text": "x"}, ":2: .*wav: expected a file, found a folder"),
    ({"audio_filepath": "n" * 5000, "text": "x", "duration": 1}, ":2: .*too long"),
    ({"audio_filepath": "nemo.jsonl", "text": "x"}, r":2: .*nemo\.jsonl: .*expected a sound file"),
    ({"audio_filepath": "wav/\0.wav", "text": "x"}, ":2: characters that no file name"),
    ({"audio_filepath": "wav/\x1b[2J.wav", "text": "x"}, r":2: the control character '\\x1b' in a name or a path"),
    ({"audio_filepath": "x" * 5000, "text": "x"}, ":2: a name or path that is too long, more than 1024 characters"),
    ('{"text": ' + "9" * 5000 + "}", ":2: a number with too many digits: "),
    ({"audio_filepath": "wav/b.wav", "text": "\ud800"}, ":2: characters that no .* text can have"),
]


@pytest.mark.parametrize(("line", "message"), BAD_JSON)
def test_a_bad_json_line_is_named(line, message, root):
    good = {"audio_filepath": "wav/a.wav", "text": "x"}
    write(root / "bad.jsonl", [good, line, {"audio_filepath": "wav/c.wav", "text": "x"}])
    with pytest.raises(UserError, match=message) as error:
        open_train(root, "jsonl", "bad.jsonl")
    assert "lines that cannot be used: 1" in str(error.value) and "bad.jsonl:2" in str(error.value)


BAD_KALDI = [
    ("wav.scp", "b flac -c -d b.flac |", r"wav\.scp:2: 'flac .*' is a command; commands are not run"),
    ("wav.scp", "b data.ark:12", r"wav\.scp:2: 'data.ark:12' is a place in a Kaldi archive"),
    ("wav.scp", "b https://x.org/b.wav", r"wav\.scp:2: 'https://x.org/b.wav' is an address"),
    ("wav.scp", "b", r"wav\.scp:2: the path of 'b' is missing"),
    ("wav.scp", "a wav/b.wav", r"wav\.scp:2: the utterance 'a' is already in .*wav\.scp:1"),
    ("wav.scp", "x wav/b.wav", r"wav\.scp:2: no text of 'x' in .*text"),
    ("wav.scp", "b wav/none.wav", r"wav\.scp:2: .*none\.wav: no such file"),
    ("text", "b", r"text:2: the text of 'b' is empty"),
    ("text", "x say x", r"text:2: no sound of 'x' in wav\.scp"),
    ("utt2dur", "b none", r"\n  \S*utt2dur:2: expected seconds above 0, found 'none'"),
    ("utt2dur", "b 0", r"utt2dur:2: expected seconds above 0, found '0'"),
]


@pytest.mark.parametrize(("file", "line", "message"), BAD_KALDI)
def test_a_bad_line_of_a_kaldi_folder_is_named(file, line, message, root):
    (root / "kaldi/utt2dur").write_text("a 0.1\nb 0.2\nc 0.3\n")
    (root / "kaldi/text").write_text("a say a\nb say b\nc say c\n")
    lines = (root / "kaldi" / file).read_text().splitlines()
    write(root / "kaldi" / file, [lines[0], line, lines[2]])
    with pytest.raises(UserError, match=message):
        open_train(root, "kaldi", "kaldi")


def test_commands_of_a_kaldi_folder_are_not_run(root):
    (root / "kaldi/wav.scp").write_text(f"a touch {root}/run |\nb | touch {root}/run\n")
    assert len(read_kaldi(root / "kaldi", root).problems) == 3
    assert not (root / "run").exists()


def test_missing_files_of_kaldi_are_named(root):
    os.remove(root / "kaldi/text")
    with pytest.raises(UserError, match=r"text: expected lines of an utterance and its text .* holds wav\.scp"):
        open_train(root, "kaldi", "kaldi")
    with pytest.raises(UserError, match="nowhere: expected a folder with wav.scp and text; .* kaldi/"):
        open_train(root, "kaldi", "nowhere")


def cut_into_utterances(root):
    """Replace the folder of Kaldi's by one recording of two utterances: 0.2 s of 0.1, and 0.1 s of 0.2."""
    wave_n = np.repeat(np.float32([0.1, 0.2]), 1600)
    soundfile.write(root / "wav/call.wav", wave_n, RATE_HZ, subtype="FLOAT")
    (root / "kaldi/wav.scp").write_text("call wav/call.wav\nunused wav/gone.wav\n")
    (root / "kaldi/text").write_text("u1 one\nu2 two\n")
    (root / "kaldi/segments").write_text("u1 call 0.00 0.20\nu2 call 0.3 -1\n")


def test_segments_and_offsets_cut_a_recording_into_utterances(root):
    cut_into_utterances(root)
    parts = [{"offset": 0, "duration": 0.2, "text": "one"}, {"offset": 0.3, "duration": None, "text": "two"}]
    write(root / "parts.jsonl", [{"audio": "wav/call.wav"} | part for part in parts])
    for dataset, split, names in (
        ("kaldi", "kaldi", ["u1", "u2"]),
        ("jsonl", "parts.jsonl", ["wav/call.wav@0.0", "wav/call.wav@0.3"]),
    ):
        found = open_train(root, dataset, split)
        assert found.names() == names and found.texts() == ["one", "two"]
        np.testing.assert_allclose(found.durations_s(), [0.2, 0.1])
        for index, level in enumerate([0.1, 0.2]):
            np.testing.assert_array_equal(found[index].wave, np.full(1600 - 800 * index, level, np.float32))
    assert found.where(1).endswith("parts.jsonl:2")


def test_a_part_that_begins_elsewhere_is_another_sound(root):
    cut_into_utterances(root)
    before = take_fingerprint(open_train(root, "kaldi", "kaldi"))
    (root / "kaldi/segments").write_text("u1 call 0.10 0.30\nu2 call 0.3 -1\n")
    after = take_fingerprint(open_train(root, "kaldi", "kaldi"))
    assert describe_differences(before, after) == ["1 utterance with another sound (u1)"]


BAD_SEGMENTS = [
    ("u2 call 0.3", r"segments:2: expected a recording, its start and its end in seconds, found 'call 0\.3'"),
    ("u2 call 0.3 0.4 1", "segments:2: expected a recording, its start and its end"),
    ("u2 call -1 0.4", "segments:2: expected a start of 0 s or later, found '-1'"),
    ("u2 call 0.3 nan", "segments:2: expected seconds above 0, found 'nan'"),
    ("u2 call 0.3 0.3", r"segments:2: expected an end behind the start at 0\.3 s, found 0\.3"),
    ("u2 cell 0.3 0.4", "segments:2: no recording 'cell' in wav.scp"),
    ("u1 call 0.3 0.4", "segments:2: the utterance 'u1' is already in .*segments:1"),
    ("u3 call 0.3 0.4", "segments:2: no text of 'u3' in .*text"),
    ("u2 call 0.3 0.5", r"segments:2: .*call\.wav: expected sound at 0\.50 s, found its end at 0\.40 s"),
    ("u2 call 0.5 -1", r"segments:2: .*call\.wav: expected sound at 0\.50 s, found its end at 0\.40 s"),
    ("u2 unused 0.3 0.5", r"segments:2: .*gone\.wav: no such file"),
]


@pytest.mark.parametrize(("line", "message"), BAD_SEGMENTS)
def test_a_bad_line_of_segments_is_named(line, message, root):
    cut_into_utterances(root)
    (root / "kaldi/segments").write_text(f"u1 call 0.00 0.20\n{line}\n")
    with pytest.raises(UserError, match=message):
        open_train(root, "kaldi", "kaldi")
    if not re.search(
        "text of|no such file|expected sound|already", message
    ):  # found when the sound is read, or allowed
        with pytest.raises(UserError, match=message):
            read_list(root / "kaldi/wav.scp")


def test_training_and_inference_read_the_same_lists(root, monkeypatch):
    cut_into_utterances(root)
    keys = ("audio_filepath", "source", "audio", "path")
    lines = [
        {key: f"wav/{name}.wav", "key": name, "text": "x"} for key, name in zip(keys, (*NAMES, "call"), strict=True)
    ]
    lines += [{"path": "wav/call.wav", "utt_id": "part", "text": "x", "offset": 0.1, "duration": "0.2"}]
    (root / "lists").mkdir()
    write(root / "lists/all.jsonl", lines)
    monkeypatch.chdir(root)
    for dataset, split, path in (("jsonl", "lists/all.jsonl", "lists/all.jsonl"), ("kaldi", "kaldi", "kaldi/wav.scp")):
        trained, listed = open_train(Path(), dataset, split), read_list(Path(path))
        assert len(listed) == len(trained) > 1
        for index, (entry, one) in enumerate(zip(trained.entries, listed, strict=True)):
            span = WHOLE if entry.start_s is None else Span(entry.start_s, entry.stated_s)
            assert (entry.name, entry.path, entry.where, span) == (one.name, one.path, one.where, one.span)
            assert one.path == Path("wav") / one.path.name
            assert trained.where(index) == one.where


def test_a_path_starts_from_the_folder_of_the_list_or_else_from_the_root(root):
    (root / "lists/wav").mkdir(parents=True)
    soundfile.write(root / "lists/wav/a.wav", np.zeros(4000), RATE_HZ)
    write(root / "lists/x.jsonl", [{"path": "wav/a.wav", "text": "x"}, {"path": "wav/b.wav", "text": "x"}])
    assert open_train(root, "jsonl", "lists/x.jsonl").durations_s().tolist() == [0.5, 0.2]


BAD_ROWS = [
    ("b\ttrain\twav/b.wav", ":3: expected 5 columns, found 3"),
    ("b\ttrain\twav/b.wav\tx\t0.2\tmore", ":3: expected 5 columns, found 6"),
    ("b\ttrain\t\tx\t0.2", ":3: the path is empty"),
    ("\ttrain\twav/b.wav\tx\t0.2", ":3: the name of the utterance is empty"),
    ("a\ttrain\twav/b.wav\tx\t0.2", ":3: the utterance 'a' is already in .*:2"),
    ("b\ttrain\twav/b.wav\t\t0.2", ":3: the text of 'b' is empty"),
    ("b\ttrain\twav/b.wav\tx\tnan", ":3: expected seconds above 0, found 'nan'"),
    ("b\ttrain\twav/none.wav\tx\t0.2", r":3: .*none\.wav: no such file"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_a_bad_row_of_a_table_is_named(row, message, root):
    head, good = "utt\tsplit\tpath\ttext\tseconds", "a\ttrain\twav/a.wav\tx\t0.1"
    write(root / "manifest.tsv", [head, good, row, "c\ttrain\twav/c.wav\tx\t0.3"])
    with pytest.raises(UserError, match=message):
        open_train(root, "tsv", "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "found no 'path' among nothing"), ("path,text,split\n", "found no 'path' among 'path,text,split'")],
)
def test_a_table_without_its_columns_is_refused(content, message, root):
    (root / "manifest.tsv").write_text(content)
    with pytest.raises(UserError, match=f"manifest.tsv:1: expected the columns path, text, split .*{message}"):
        open_train(root, "tsv", "train")


def test_the_first_problems_are_listed_and_all_counted(root):
    write(root / "bad.jsonl", ["x"])
    with pytest.raises(UserError, match=r"bad\.jsonl:1: not JSON"):  # though no line is left
        open_train(root, "jsonl", "bad.jsonl")
    write(root / "bad.jsonl", ["x"] * 30 + [{"audio_filepath": "wav/none.wav", "text": "x"}])
    with pytest.raises(UserError) as error:
        open_train(root, "jsonl", "bad.jsonl")
    lines = str(error.value).splitlines()
    assert len(lines) == 1 + 20 + 1
    assert (
        "data.train_split 'bad.jsonl': lines that cannot be used: 31" in lines[0]
        and "31 in all; python -m asr.check" in lines[-1]
    )


@pytest.mark.parametrize(
    ("dataset", "split", "message"),
    [
        ("jsonl", "empty.jsonl", r"data.train_split: 'empty.jsonl' has no utterance \(in .*empty.jsonl\)"),
        ("jsonl", "latin.jsonl", r"latin\.jsonl:2: .* UTF-8"),
        ("jsonl", "", "data.train_split is empty"),
        ("tsv", "", "data.train_split is empty"),
    ],
)
def test_a_manifest_without_utterances_or_text_is_refused(dataset, split, message, root):
    (root / "empty.jsonl").write_text("\n\n")
    (root / "latin.jsonl").write_bytes(b"{}\ncaf\xe9\n")
    with pytest.raises(UserError, match=message):
        open_train(root, dataset, split)


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(UserError, match=r"data\.root: .*nowhere"):
        open_train(tmp_path / "nowhere", "jsonl", "x.jsonl")


def test_sound_that_becomes_unreadable_is_named_with_its_line(root):
    found = open_train(root, "jsonl", "nemo.jsonl")
    (root / "wav/b.wav").write_bytes(b"no sound")
    with pytest.raises(UserError, match=r"nemo\.jsonl:2: .*b\.wav: a text that begins"):
        found[1]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=40), max_size=4))
def test_any_text_is_read_without_a_crash(tmp_path, lines):
    (tmp_path / "kaldi").mkdir(exist_ok=True)
    (tmp_path / "cut").mkdir(exist_ok=True)
    for file in ("any.jsonl", "any.tsv", "kaldi/wav.scp", "kaldi/text", "cut/wav.scp", "cut/text", "cut/segments"):
        (tmp_path / file).write_text("\n".join(lines), encoding="utf-8", newline="")
    readings = [read_jsonl(tmp_path / "any.jsonl", tmp_path), read_kaldi(tmp_path / "kaldi", tmp_path)]
    readings.append(read_kaldi(tmp_path / "cut", tmp_path))
    (tmp_path / "any.tsv").write_text("path\ttext\tsplit\n" + "\n".join(lines), encoding="utf-8", newline="")
    try:
        readings.append(read_tsv(tmp_path / "any.tsv", "train", tmp_path))
    except UserError as error:
        assert "no line of the split 'train'" in str(error)
    for reading in readings:
        assert all(":" in problem for problem in reading.problems)
