"""What FFmpeg reads: the sound where it was and as long as it was, and of damaged files a message that names them."""

import functools
import io
import re
import sys

import numpy as np
import pytest

from asr.data.sounds.audio import Span, audio_duration_s, iterate_audio, read_audio
from asr.data.sounds.header import DEMUXERS, is_sound, sound_kind
from asr.data.sounds.media import LENGTH_ERROR_S, MediaFile
from asr.data.sounds.sound_input import open_sound
from asr.errors import UserError

av = pytest.importorskip("av", reason="needs the extra `media`")

from media_files import make_media  # noqa: E402

SECONDS = 2.0


def make_wave(rate_hz, seconds=SECONDS):
    """Return a sweep that swells and fades, with some noise, so that only the right place correlates."""
    time_n = np.arange(round(seconds * rate_hz)) / rate_hz
    level_n = 0.3 * (0.5 + 0.5 * np.sin(2 * np.pi * 0.9 * time_n))
    noise_n = 0.01 * np.random.default_rng(0).standard_normal(len(time_n))
    return (level_n * np.sin(2 * np.pi * (200 * time_n + 150 * time_n**2)) + noise_n).astype(np.float32)


# container, codec, rate in Hz, channels, whether with pictures, samples of a frame
FILES = {
    "a.m4a": ("ipod", "aac", 44100, "stereo", False, 1024),
    "low.m4a": ("ipod", "aac", 8000, "mono", False, 1024),
    "a.mp4": ("mp4", "aac", 48000, "mono", True, 1024),
    "a.mov": ("mov", "pcm_s16le", 16000, "stereo", False, 1),
    "a.webm": ("webm", "libopus", 48000, "mono", False, 960),
    "video.webm": ("webm", "libopus", 48000, "mono", True, 960),
    "a.mkv": ("matroska", "flac", 16000, "stereo", True, 1),
    "a.mka": ("matroska", "flac", 16000, "mono", False, 1),
    "a.3gp": ("3gp", "amr_nb", 8000, "mono", False, 160),
    "a.wma": ("asf", "wmav2", 44100, "mono", False, 2048),
    "a.aiff": ("aiff", "pcm_s16be", 22050, "mono", False, 1),
    "a.caf": ("caf", "pcm_s16le", 16000, "mono", False, 1),
    "a.avi": ("avi", "pcm_s16le", 16000, "mono", True, 1),
    "a.aac": ("adts", "aac", 44100, "mono", False, 1024),
    "a.amr": ("amr", "amr_nb", 8000, "mono", False, 160),
}
PRIMED = {"a.aac": 1024, "a.wma": -2048, "a.3gp": 0, "a.amr": 40}
"""By how many samples the sound comes later than it was, where the file does not state it; AMR is not exact."""

UNSTATED = {"a.aac", "a.amr", "a.avi"}  # without a length of the sound


@functools.cache
def content_of(name):
    kind, codec, rate_hz, layout, video, _ = FILES[name]
    try:
        av.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this FFmpeg has no encoder {codec}")
    return make_media(make_wave(rate_hz), kind, codec, rate_hz, layout, video=video)


@pytest.fixture
def save(tmp_path):
    def save(name, content=None):
        path = tmp_path / name
        path.write_bytes(content_of(name) if content is None else content)
        return path

    return save


def lag(wave_n, other_n):
    """Return by how many samples `wave_n` comes later than `other_n`: where they correlate most."""
    size = len(wave_n) + len(other_n)
    product = np.fft.rfft(wave_n, size) * np.conj(np.fft.rfft(other_n, size))
    place = int(np.argmax(np.fft.irfft(product, size)))
    return place if place < len(wave_n) else place - size


@pytest.mark.parametrize("name", FILES)
def test_the_sound_begins_and_ends_where_it_did(name, save):
    _, codec, rate_hz, _, _, frame = FILES[name]
    path, wave_n = save(name), make_wave(rate_hz)
    read_n = read_audio(path, rate_hz)
    assert read_n.dtype == np.float32
    assert abs(lag(read_n, wave_n) - PRIMED.get(name, 0)) <= (40 if codec == "amr_nb" else 0)
    assert abs(len(read_n) - len(wave_n) - max(PRIMED.get(name, 0), 0)) <= frame
    if FILES[name][0] in ("ipod", "mp4", "mov"):
        assert len(read_n) == len(wave_n)  # by the edit list
    elif not PRIMED.get(name):
        assert len(read_n) >= len(wave_n)
    if codec.startswith(("pcm", "flac", "alac")):
        np.testing.assert_allclose(read_n, wave_n, atol=2**-15)
    assert np.isnan(audio_duration_s(path)) if name in UNSTATED else abs(audio_duration_s(path) - SECONDS) < 0.1


@pytest.mark.parametrize("name", ["a.m4a", "a.webm", "a.aac"])
def test_blocks_make_up_the_whole(name, save):
    path, rate_hz = save(name), FILES[name][2]
    whole_n = read_audio(path, rate_hz)
    blocks = list(iterate_audio(path, rate_hz, 0.3))
    assert {len(block) for block in blocks[:-1]} == {round(0.3 * rate_hz)}
    np.testing.assert_array_equal(np.concatenate(blocks), whole_n)
    with MediaFile(path.open("rb"), sound_kind(content_of(name)[:64])) as sound:
        parts = [sound.read(1000) for _ in range(3)]
    assert [len(part) for part in parts] == [1000] * 3
    np.testing.assert_array_equal(np.concatenate(parts).mean(axis=1), whole_n[:3000])


@pytest.mark.parametrize("name", ["a.m4a", "a.mp4", "a.mov", "a.webm", "a.mka", "a.aac", "a.3gp"])
def test_a_part_is_that_part(name, save):
    path, rate_hz = save(name), FILES[name][2]
    whole_n = read_audio(path, rate_hz)
    for span in (Span(0.25, 0.5), Span(1.4)):  # read from the start; found by the index
        part_n = np.concatenate(list(iterate_audio(path, rate_hz, span=span)))
        start = round(span.start_s * rate_hz)
        expected_n = whole_n[start:][: None if span.duration_s is None else round(span.duration_s * rate_hz)]
        tolerance = 1e-3 * rate_hz if name in ("a.webm", "a.mka") else 0  # Matroska's times are in milliseconds
        assert abs(len(part_n) - len(expected_n)) <= tolerance
        assert abs(lag(part_n, expected_n)) <= tolerance
    for span in (Span(5.0), Span(1.0, 2.0)):
        with pytest.raises(UserError, match=rf"{name}: expected sound at \d.00 s, found its end at"):
            list(iterate_audio(path, rate_hz, span=span))


def test_a_part_far_behind_is_found_by_the_index(save, monkeypatch):
    num_decoded, to_array = 0, MediaFile._to_array

    def counted(self, frame):
        nonlocal num_decoded
        num_decoded += frame.samples
        return to_array(self, frame)

    monkeypatch.setattr(MediaFile, "_to_array", counted)
    for name, rate_hz in (("a.m4a", 44100), ("a.webm", 48000)):
        num_decoded = 0
        assert len(read_audio(save(name), rate_hz, span=Span(1.5, 0.1))) == round(0.1 * rate_hz)
        assert num_decoded < 1.3 * rate_hz  # from a second before it


def refused(path, message):
    for read in (lambda: read_audio(path, 16000), lambda: list(iterate_audio(path, 16000))):
        with pytest.raises(UserError, match=message) as error:
            read()
        assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_cut_off_is_named(name, save):
    content = content_of(name)
    for size in (60, len(content) // 3, len(content) * 9 // 10, len(content) - 1):
        refused(save(name, content[:size]), "cut off|damaged")


@pytest.mark.parametrize("name", FILES)
def test_damage_gives_a_message_or_a_sound_but_no_crash(name, save):
    content, random = content_of(name), np.random.default_rng(0)
    start = content[:16]
    spoilt = [start + random.bytes(2000), start + bytes(2000), start]
    for _ in range(6):
        damaged = bytearray(content)
        for place in random.integers(16, len(content) - 40, 5):
            damaged[place : place + 40] = random.bytes(40)
        spoilt.append(bytes(damaged))
    for content in spoilt:
        path = save(name, content)
        try:
            assert np.isfinite(read_audio(path, 16000, max_seconds=60)).all()
        except UserError as error:
            assert str(error).startswith(f"{path}: ")


def test_a_hole_is_named_whether_or_not_sound_follows_it(save, caplog):
    content = content_of("a.webm")  # one cluster: nothing is found behind the hole
    start, stop = len(content) // 2, len(content) * 3 // 4
    refused(save("a.webm", content[:start] + bytes(stop - start) + content[stop:]), "cut off, or its header is wrong")
    assert not caplog.messages
    parts = [make_media(make_wave(48000), "webm", "libopus", start_s=start_s, live=True) for start_s in (0.0, 3.0)]
    cluster = parts[1].index(b"\x1f\x43\xb6\x75")
    path = save("a.webm", parts[0] + parts[1][cluster:])  # a pause from 2 to 3 s
    for _ in range(2):
        assert abs(len(read_audio(path, 16000)) / 16000 - 2 * SECONDS) < 0.05
    (warning,) = caplog.messages
    assert re.fullmatch(rf"{path}: 1\.0 s of sound are missing in the middle: .*", warning)


def test_sound_that_begins_behind_the_video_is_not_taken_for_cut(save, caplog):
    for kind, codec in (("webm", "libopus"), ("mp4", "aac"), ("matroska", "flac")):
        content = make_media(make_wave(48000, 1.0), kind, codec, video=True, start_s=2.0)
        assert abs(len(read_audio(save("a", content), 48000)) - 48000) <= 1024
    assert not caplog.messages


def test_a_video_without_sound_and_a_recording_without_an_index_are_named(save):
    silent = make_media(None, "mp4", "", video=True, sound=False)
    refused(save("a.mp4", silent), "holds no sound, only video$")
    content = content_of("a.mp4")
    unfinished = content[: content.index(b"moov") - 4]
    refused(save("a.mp4", unfinished), "cut off: its index is missing, as in a recording that was not finished")


def test_tags_may_be_in_any_encoding(save):
    content = make_media(make_wave(8000, 0.2), "ipod", "aac", 8000, title="TITLE")
    assert content.count(b"TITLE") == 1
    assert len(read_audio(save("a.m4a", content.replace(b"TITLE", b"\xd6\xd0\xce\xc4\xff")), 8000)) == 1600


def test_the_seconds_are_bounded_where_the_header_does_not_state_them(save):
    with pytest.raises(UserError, match=r"a.aac: longer than the 1 s allowed"):
        read_audio(save("a.aac"), 16000, max_seconds=1)
    with pytest.raises(UserError, match=r"a.m4a: 2.0 s by its header, more than the 1 s allowed"):
        read_audio(save("a.m4a"), 16000, max_seconds=1)


def test_bytes_and_open_files_are_read_as_files_are(save):
    path = save("a.m4a")
    expected_n = read_audio(path, 16000)
    with path.open("rb") as file:
        for sound in (content_of("a.m4a"), file, io.BytesIO(content_of("a.m4a")), path):
            np.testing.assert_array_equal(np.concatenate(list(open_sound(sound).blocks(16000, 0))), expected_n)


def test_without_the_extra_the_message_names_it(save, monkeypatch):
    path = save("a.m4a")
    monkeypatch.setitem(sys.modules, "av", None)
    refused(path, r'sound of the kind MPEG-4 .*pip install "paraformer-asr\[media\]"; or convert it: ffmpeg -i ')


def test_every_kind_is_told_by_content_and_pictures_are_not_taken_for_videos(save):
    assert {sound_kind(content_of(name)[:64]) for name in FILES} == set(DEMUXERS)
    assert all(is_sound(save("no suffix", content_of(name))) for name in FILES)
    for brand in (b"heic", b"mif1", b"avif", b"crx "):
        assert not is_sound(save("picture", b"\0\0\0\x18ftyp" + brand + bytes(64)))
    assert LENGTH_ERROR_S < SECONDS  # else no length would be compared
