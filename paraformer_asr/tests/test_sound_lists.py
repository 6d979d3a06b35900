"""Lists of sounds as input: what their lines say, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data.sounds.audio import WHOLE, Span, iterate_audio, read_audio
from asr.errors import UserError
from asr.inference.done_record import DoneRecord
from asr.inference.output import Job, plan_jobs
from asr.inference.sound_lists import Listed, read_list

RATE_HZ = 8000


def write(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_wav_scp_gives_names_and_paths(tmp_path):
    path = write(tmp_path / "wav.scp", "utt1 wav/a.flac", "", "utt2  /abs/my file.wav ")
    assert read_list(path) == [Listed("utt1", tmp_path / "wav/a.flac"), Listed("utt2", Path("/abs/my file.wav"))]


def test_jsonl_gives_parts_of_files(tmp_path):
    path = write(
        tmp_path / "list.jsonl",
        {"audio_filepath": "a.wav", "duration": 1.234, "text": "not looked at"},
        {"audio_filepath": "a.wav", "offset": 1.5, "duration": 2},
        {"audio_filepath": "a.wav", "offset": 2.5},
        {"key": "utt", "source": "sub/b.wav", "source_len": 100},
        {"source": "/abs/sub/c.wav"},
    )
    assert [(one.name, one.span) for one in read_list(path)] == [
        ("a", WHOLE), ("a@1.5", Span(1.5, 2.0)), ("a@2.5", Span(2.5)), ("utt", WHOLE), ("c", WHOLE)
    ]  # fmt: skip
    assert read_list(path)[3].path == tmp_path / "sub/b.wav"


def test_a_path_may_start_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    (tmp_path / "a.wav").touch()
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "lists/x.scp", "a a.wav", "b b.wav")
    assert [one.path for one in read_list(path)] == [Path("a.wav"), tmp_path / "lists/b.wav"]


def test_segments_beside_a_wav_scp_cut_its_recordings(tmp_path):
    write(tmp_path / "wav.scp", "rec a.wav", "other b.wav")
    write(tmp_path / "segments", "u1 rec 0.5 1.25", "u2 other 2 -1")
    parts = [Listed("u1", tmp_path / "a.wav", Span(0.5, 0.75)), Listed("u2", tmp_path / "b.wav", Span(2.0))]
    assert read_list(tmp_path / "wav.scp") == parts
    assert [one.where for one in read_list(tmp_path / "wav.scp")] == [f"{tmp_path}/segments:{i}" for i in (1, 2)]
    (tmp_path / "wav.scp").rename(tmp_path / "all.scp")
    assert [one.span for one in read_list(tmp_path / "all.scp")] == [WHOLE, WHOLE]
    for line in ("u1", "u1 rec 1", "u1 gone 0 1"):
        write(tmp_path / "wav.scp", "rec a.wav")
        write(tmp_path / "segments", "u0 rec 0 1", line)
        with pytest.raises(UserError, match=rf"{tmp_path}/segments:2: "):
            read_list(tmp_path / "wav.scp")


BAD = {
    "x.scp": ["alone", "a sox b.wav -t wav - |"],
    "x.jsonl": ["{", "[1]", {"text": "a"}, {"audio_filepath": 3}, {"source": "a", "key": 1}, {"source": "a\u0007"}]
    + [{"source": "a", "offset": -1}, {"source": "a", "offset": "two"}, {"source": "a", "offset": 0, "duration": 0}],
}


@pytest.mark.parametrize("name", BAD)
def test_all_bad_lines_are_named_at_once(name, tmp_path):
    path = write(tmp_path / name, *BAD[name])
    with pytest.raises(UserError) as error:
        read_list(path)
    for number in range(1, len(BAD[name]) + 1):
        assert f"{path}:{number}: " in str(error.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("sox a.wav -t wav - |", "is a command"),
        ("data.ark:123", "Kaldi archive"),
        ("https://x.org/a.wav", "is an address"),
    ],
)
def test_a_source_that_is_no_path_is_called_what_it_is(source, said, tmp_path):
    for name, line in (("l.scp", f"a {source}"), ("l.jsonl", json.dumps({"audio_filepath": source}))):
        with pytest.raises(UserError, match=rf"{name}:1: .*{said}"):
            read_list(write(tmp_path / name, line))


def test_no_lines_and_no_file_are_named(tmp_path):
    with pytest.raises(UserError, match="found an empty file"):
        read_list(write(tmp_path / "x.scp", ""))
    with pytest.raises(UserError, match="y.jsonl: expected a JSON object"):
        read_list(tmp_path / "y.jsonl")


def test_names_stay_in_the_folder_of_the_results_and_are_told_apart(tmp_path):
    names = ["../../etc/x", "/abs", "..", "a/../b", "same", "Same", "a_b", "x" * 300]
    path = write(tmp_path / "x.jsonl", *({"key": name, "source": "a.wav"} for name in names))
    jobs = plan_jobs([path], tmp_path / "out", ".txt")
    assert [str(job.result.relative_to(tmp_path / "out")) for job in jobs] == [
        "__/__/etc/x.txt", "abs.txt", "__.txt", "a/__/b.txt", "same.txt", "Same_2.txt", "a_b.txt", "x" * 200 + ".txt"
    ]  # fmt: skip
    assert [job.label for job in jobs] == [job.name for job in jobs]


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_part_of_a_file_is_that_part(suffix, tmp_path):
    wave = np.random.default_rng(0).normal(0, 0.1, 4 * RATE_HZ)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, wave, RATE_HZ)
    (whole,) = iterate_audio(path, RATE_HZ)
    for span, samples in (
        (Span(1.0, 1.5), slice(8000, 20000)),
        (Span(3.5), slice(28000, None)),
        (Span(0, 1), slice(8000)),
    ):
        (part,) = iterate_audio(path, RATE_HZ, span=span)
        np.testing.assert_allclose(part, whole[samples], atol=1e-4)
    part = read_audio(path, RATE_HZ, max_seconds=1.0, span=Span(2.5, 1.0))  # the part is bounded, not the file
    np.testing.assert_allclose(part, whole[20000:28000], atol=1e-4)
    with pytest.raises(UserError, match=rf"a.{suffix}: 1.5 s by its header, more than the 1 s allowed"):
        read_audio(path, RATE_HZ, max_seconds=1.0, span=Span(2.5))


def test_a_part_behind_the_end_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(RATE_HZ), RATE_HZ)
    assert sum(map(len, iterate_audio(path, RATE_HZ, span=Span(0.5, 0.54)))) == 4000  # rounded by who wrote the list
    for span, place in ((Span(2.0), "2.00"), (Span(0.5, 1.0), "1.50")):
        with pytest.raises(UserError, match=rf"a.wav: expected sound at {place} s, found its end at 1.00 s"):
            list(iterate_audio(path, RATE_HZ, span=span))


def test_each_part_of_a_file_is_done_by_itself(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"sound")
    result = tmp_path / "utt.txt"
    result.write_text("text")
    (job,) = plan_jobs(
        [write(tmp_path / "x.jsonl", {"audio_filepath": "a.wav", "offset": 1, "key": "utt"})], tmp_path, ".txt"
    )
    DoneRecord(tmp_path, "model").add(job.source, [job.result], job.part)
    record = DoneRecord(tmp_path, "model")
    assert record.is_done(job.source, [result], job.part)
    assert not record.is_done(job.source, [result])
    assert not record.is_done(job.source, [result], Job(job.source, None, span=Span(2.0)).part)


def test_a_folder_of_lists_without_sounds_says_what_to_name(tmp_path):
    write(tmp_path / "wav.scp", "rec /elsewhere/a.wav")
    with pytest.raises(UserError, match=rf"no sound file is in this folder .*name {tmp_path}/wav.scp$"):
        plan_jobs([tmp_path], None, ".txt")
