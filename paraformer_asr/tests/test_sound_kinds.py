"""Kinds of sound, told by their first bytes, and what a message says of those that are not read."""

import re
import sys

import numpy as np
import pytest
import soundfile

from asr.data.sounds.audio import read_audio
from asr.data.sounds.header import is_sound, sound_kind
from asr.errors import UserError

WAVE = np.zeros(1600)

READ = {"WAV": "WAV", "RF64": "WAV", "FLAC": "FLAC", "OGG": "OGG", "MP3": "MP3"}
NOT_READ = {
    "AIFF": "AIFF",
    "AU": "AU",
    "CAF": "CAF",
    "W64": "W64",
    "NIST": "NIST SPHERE",
    "VOC": "VOC",
    "SVX": "IFF SVX",
}
STARTS = {
    b"\0\0\0\x1cftypM4A ": "MPEG-4",
    b"\0\0\0\x18ftypmp42": "MPEG-4",
    b"\x1aE\xdf\xa3\x9fB\x86": "Matroska",
    b"#!AMR\n": "AMR",
    b"\xff\xf1P\x80": "AAC",
    b"0&\xb2u\x8ef\xcf\x11\xa6\xd9": "ASF",
    b"wvpk": "WavPack",
    b"RIFF\x10\0\0\0AVI LIST": "AVI video",
}


@pytest.fixture(autouse=True)
def without_the_extra_media(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)


@pytest.mark.parametrize("form", [*READ, *NOT_READ])
@pytest.mark.parametrize("name", ["a", "a.bin", "a.wav"])
def test_a_kind_is_told_by_content(form, name, tmp_path):
    soundfile.write(tmp_path / name, WAVE, 16000, format=form)
    assert sound_kind((tmp_path / name).read_bytes()) == (READ | NOT_READ)[form]
    assert is_sound(tmp_path / name)
    if form in READ:
        assert len(read_audio(tmp_path / name, 16000)) == 1600
    else:
        with pytest.raises(
            UserError, match=r"sound of the kind .*; (install .*; or )?convert it: ffmpeg -i \S+ -vn \S+\.flac$"
        ):
            read_audio(tmp_path / name, 16000)


@pytest.mark.parametrize("start", STARTS)
def test_kinds_that_no_library_here_reads_are_named_with_what_to_type(start, tmp_path):
    path = tmp_path / "my talk.xyz"
    path.write_bytes(start + bytes(range(128, 200)))
    assert is_sound(path)
    command = re.escape(f"convert it: ffmpeg -i '{path}' -vn '{tmp_path}/my talk.flac'")
    with pytest.raises(UserError, match=f"sound of the kind {STARTS[start]}.*; (install .*; or )?{command}$"):
        read_audio(path, 16000)


@pytest.mark.parametrize("suffix", [".pcm", ".raw", ".PCM"])
def test_samples_without_a_header_must_be_described(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(np.arange(-200, 200, dtype="<i2").tobytes())
    assert is_sound(path)
    with pytest.raises(UserError, match=r"samples without a header: .* ffmpeg -f s16le -ar 16000 -ac 1 -i "):
        read_audio(path, 16000)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", b"some text"), ("a.json", b"{}"), ("a.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF"), ("utf16", b"\xff\xfea\0")]
    + [("a.bin", bytes(64)), ("empty", b"")],
)
def test_other_files_are_no_sounds(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert not is_sound(tmp_path / name)


def test_a_damaged_file_of_a_kind_that_is_read_is_not_to_be_converted(tmp_path):
    (tmp_path / "a.flac").write_bytes(b"fLaC" + bytes(100))
    with pytest.raises(UserError) as error:
        read_audio(tmp_path / "a.flac", 16000)
    assert "damaged sound of the kind FLAC" in str(error.value) and "ffmpeg" not in str(error.value)
