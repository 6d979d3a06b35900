"""Sound files: what each kind is read as, and that nothing harmful or damaged gets further than a message."""

import struct

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr.data.sounds import audio, opening
from asr.data.sounds.audio import audio_duration_s, change_speed, changed_length, iterate_audio, read_audio
from asr.errors import UserError

RATE_HZ = 16000


def make_wave(seconds, rate_hz=RATE_HZ, frequency_hz=300.0, level=0.5):
    """Return a tone that swells and fades, so that codecs find an easy start and end."""
    time_n = np.arange(round(seconds * rate_hz)) / rate_hz
    fade_n = np.sin(np.pi * time_n / seconds)
    return (level * fade_n * np.sin(2 * np.pi * frequency_hz * time_n)).astype(np.float32)


def save(path, wave, rate_hz=RATE_HZ, **options):
    soundfile.write(path, wave, rate_hz, **options)
    return path


def read(path, **options):
    return read_audio(path, RATE_HZ, **options)


def refused(path, message, **options):
    """Check that both readers answer with a message that names the file."""
    for attempt in (lambda: read(path, **options), lambda: list(iterate_audio(path, RATE_HZ))):
        with pytest.raises(UserError, match=message) as error:
            attempt()
        assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("subtype", "step"), [("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23), ("PCM_32", 2**-23), ("FLOAT", 0)]
)
def test_every_width_of_sample_has_full_scale_one(subtype, step, tmp_path):
    wave = make_wave(0.05)
    found = read(save(tmp_path / "a.wav", wave, subtype=subtype))
    assert found.dtype == np.float32 and found.shape == (800,)
    np.testing.assert_allclose(found, wave, atol=step)
    lowest = save(tmp_path / "lowest.wav", np.full(10, -1.0), subtype=subtype)
    np.testing.assert_array_equal(read(lowest), -1.0)


def test_flac_is_exact_and_its_duration_known(tmp_path):
    wave = np.round(make_wave(0.5) * 32768) / 32768
    path = save(tmp_path / "a.flac", wave)
    np.testing.assert_array_equal(read(path), wave)
    assert audio_duration_s(path) == 0.5


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [("a.ogg", {}, 0.02), ("a.opus", {"format": "OGG", "subtype": "OPUS"}, 0.05), ("a.mp3", {}, 0.04)],
)
def test_lossy_formats_are_close(name, options, tolerance, tmp_path):
    wave = make_wave(1.0)
    path = save(tmp_path / name, wave, **options)
    found = read(path)
    assert audio_duration_s(path) == 1.0 and found.shape == wave.shape
    np.testing.assert_allclose(found, wave, atol=tolerance)


def test_the_suffix_does_not_matter(tmp_path):
    wave = make_wave(0.1)
    path = save(tmp_path / "a.flac", wave).rename(tmp_path / "a.wav")
    np.testing.assert_allclose(read(path), wave, atol=1e-4)


@pytest.mark.parametrize("rate_hz", [8000, 11025, 44100, 48000, 96000])
def test_any_rate_is_resampled(rate_hz, tmp_path):
    path = save(tmp_path / "a.wav", make_wave(0.4, rate_hz), rate_hz, subtype="FLOAT")
    found = read(path)
    assert found.dtype == np.float32 and found.shape == (6400,)
    np.testing.assert_allclose(found, make_wave(0.4), atol=2e-3)


def test_frequencies_above_half_the_new_rate_are_gone(tmp_path):
    path = save(tmp_path / "a.wav", make_wave(0.5, 96000, frequency_hz=20_000.0), 96000)
    assert np.abs(read(path)).max() < 1e-3


def test_channels_are_averaged(tmp_path):
    wave = make_wave(0.25, 8000)
    path = save(tmp_path / "a.wav", np.stack([wave, 0 * wave], axis=1), 8000, subtype="FLOAT")
    found = read(path)
    assert found.shape == (4000,)
    np.testing.assert_allclose(found, make_wave(0.25) / 2, atol=2e-3)


def test_offset_clipping_and_floats_above_full_scale_are_kept(tmp_path):
    wave = make_wave(0.1)
    for number, changed in enumerate((wave + 0.25, np.clip(5 * wave, -1, 1), 3 * wave)):
        path = save(tmp_path / f"{number}.wav", changed, subtype="FLOAT")
        np.testing.assert_allclose(read(path), changed, atol=1e-6)


def test_ten_milliseconds_and_a_single_sample_are_read(tmp_path):
    for num_samples, rate_hz, expected in ((160, 16000, 160), (1, 16000, 1), (441, 44100, 160), (1, 96000, 0)):
        path = save(tmp_path / "a.wav", np.full(num_samples, 0.1), rate_hz)
        assert read(path).shape == (expected,)


@pytest.mark.parametrize("rate_hz", [16000, 44100])
def test_blocks_put_together_are_the_whole(rate_hz, tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 5000)  # several reads for a block, and several blocks for a read
    path = save(tmp_path / "a.flac", np.stack([make_wave(3.3, rate_hz)] * 2, axis=1), rate_hz)
    whole = read(path)
    for block_seconds in (1.0, 0.05, 10.0):
        blocks = list(iterate_audio(path, RATE_HZ, block_seconds))
        assert {len(block) for block in blocks[:-1]} <= {round(block_seconds * RATE_HZ)}
        assert 0 < len(blocks[-1]) <= block_seconds * RATE_HZ
        np.testing.assert_array_equal(np.concatenate(blocks), whole)
    np.testing.assert_allclose(whole, make_wave(3.3), atol=2e-3)


def test_blocks_of_a_long_file_take_little_memory(tmp_path):
    path = save(tmp_path / "a.flac", np.zeros(RATE_HZ * 600, np.int16))
    assert path.stat().st_size < 100_000
    lengths = {len(block) for block in iterate_audio(path, 8000, 60.0)}
    assert lengths == {480_000}


NO_SOUND = {
    "empty": (b"", "an empty file; expected a sound file"),
    "text": (b"hello, this is no sound\n", "a text that begins with 'hello, this"),
    "bytes": (bytes(range(128, 255)), "no sound that can be read, its first bytes are 80 81"),
    "half a header": (b"RIFF\x24\x08\x00\x00WAVEfmt ", "it ends before its samples begin"),
}


@pytest.mark.parametrize("name", NO_SOUND)
@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "raw", "txt"])
def test_what_is_no_sound_is_named(name, suffix, tmp_path):
    content, message = NO_SOUND[name]
    (tmp_path / f"a.{suffix}").write_bytes(content)
    refused(tmp_path / f"a.{suffix}", message)


def test_missing_files_folders_devices_and_closed_files_are_named(tmp_path, monkeypatch):
    refused(tmp_path / "none.wav", "no such file")
    (tmp_path / "folder.wav").mkdir()
    refused(tmp_path / "folder.wav", "expected a file, found a folder")
    refused("/dev/null", "a pipe or a device")
    path = save(tmp_path / "a.wav", make_wave(0.1))

    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", forbidden)
    refused(path, r"cannot be read \(Permission denied\)")


def test_other_formats_rates_and_channels_are_refused(tmp_path):
    refused(save(tmp_path / "a.au", make_wave(0.1)), "sound of the kind AU; expected WAV, FLAC, OGG, MP3, M4A, WebM")
    refused(save(tmp_path / "slow.wav", make_wave(0.1), 500), "expected 1000 to 384000 Hz .*found 500 Hz and 1")
    many = save(tmp_path / "many.wav", np.zeros((10, 65)))
    refused(many, "at most 64 channels, found 16000 Hz and 65")


def test_no_samples_are_named(tmp_path):
    refused(save(tmp_path / "a.wav", np.zeros(0)), "holds no samples")


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (1e30, "1e\\+30")])
def test_samples_that_are_no_numbers_are_named_with_their_place(value, shown, tmp_path):
    wave = np.stack([make_wave(6.0)] * 2, axis=1)
    wave[80_000, 1] = value
    path = save(tmp_path / "a.wav", wave, subtype="FLOAT")
    refused(path, rf"expected samples in −1…1, found {shown} at 5.000 s")


def test_floats_in_the_scale_of_16_bits_are_refused_and_a_loud_mix_is_not(tmp_path):
    path, wave = tmp_path / "a.wav", np.sin(np.arange(1600, dtype=np.float32))
    soundfile.write(path, wave * 20_000, 16_000, subtype="FLOAT")
    refused(path, "divide them by 32768")
    soundfile.write(path, soundfile.read(path)[0] / 32768, 16_000, subtype="FLOAT")
    assert np.abs(read_audio(path, 16_000)).max() < 1
    soundfile.write(path, wave * 4, 16_000, subtype="FLOAT")
    assert np.abs(read_audio(path, 16_000)).max() > 3


@pytest.mark.parametrize("suffix", ["wav", "rf64", "flac", "ogg", "opus", "mp3"])
def test_a_truncated_file_is_named(suffix, tmp_path):
    options = {"opus": {"format": "OGG", "subtype": "OPUS"}, "rf64": {"format": "RF64", "subtype": "PCM_16"}}
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 3 * RATE_HZ)
    path = save(tmp_path / f"cut.{suffix}", noise, **options.get(suffix, {}))
    content = path.read_bytes()
    for share in (0.001, 0.02, 0.3, 0.7, 0.97):
        path.write_bytes(content[: int(len(content) * share)])
        refused(path, f"cut.{suffix}")
    path.write_bytes(content)
    assert len(read(path)) == 3 * RATE_HZ


def test_a_file_written_into_a_pipe_does_not_know_its_length(tmp_path):
    wave = make_wave(0.5)
    path = save(tmp_path / "a.wav", wave)
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    np.testing.assert_allclose(read(path), wave, atol=1e-4)
    path = forge_length(save(tmp_path / "a.flac", wave), 0)
    assert np.isnan(audio_duration_s(path))
    np.testing.assert_allclose(read(path), wave, atol=1e-4)
    with pytest.raises(UserError, match=r"longer than the 0.4 s allowed"):
        read(path, max_seconds=0.4)


def forge_length(path, num_samples):
    """Make the header of a FLAC file claim another number of samples."""
    content = bytearray(path.read_bytes())
    content[21] = content[21] & 0xF0 | num_samples >> 32
    content[22:26] = struct.pack(">I", num_samples & 0xFFFFFFFF)
    path.write_bytes(content)
    return path


def test_a_forged_header_is_named_and_allocates_nothing(tmp_path, monkeypatch):
    path = save(tmp_path / "a.flac", make_wave(1.0))
    refused(forge_length(path, 2**36 - 1), r"its header says 68719476735 samples, which \d+ bytes cannot hold")
    refused(forge_length(path, 16_001), r"cut off, or its header is wrong: it says 1.00 s \(16001 samples\), 1.00 s")
    forge_length(path, 20_000_000)
    monkeypatch.setattr(np, "concatenate", lambda *_: pytest.fail("put together"))
    with pytest.raises(UserError, match=r"a.flac: 1250.0 s by its header, more than the 60 s allowed"):
        read(path, max_seconds=60.0)
    with pytest.raises(UserError, match=r"it says 1250.00 s \(20000000 samples\), 1.00 s \(16000\) are there"):
        read(path)
    # What passes through are the 16,000 samples that are there, nothing of the header's size.
    sizes = []
    monkeypatch.setattr(audio, "_check_samples", lambda path, block_nc, *_: sizes.append(block_nc.nbytes))
    with pytest.raises(UserError, match="its header is wrong"):
        list(iterate_audio(path, RATE_HZ))
    assert sum(sizes) == 64_000


def test_a_second_of_sound_costs_a_bounded_number_of_samples(tmp_path):
    path = save(tmp_path / "a.wav", np.zeros((30, 64)), 48_000)
    assert read(path).shape == (10,)
    path = save(tmp_path / "a.wav", np.zeros((10, 64)), 96_000)
    refused(path, "64 channels at 96000 Hz, expected at most 3072000 samples in a second")


def test_decoded_samples_are_bounded_whatever_the_seconds(tmp_path, monkeypatch):
    """Silence is packed a thousandfold: neither bytes nor seconds say how much is decoded."""
    path = save(tmp_path / "a.flac", np.zeros((48_000, 8), np.int16), 48_000)
    assert path.stat().st_size < 1000 and read(path, max_seconds=1.0).shape == (RATE_HZ,)
    monkeypatch.setattr(audio, "MAX_SAMPLES", 8 * 48_000 - 1)
    message = r"a.flac: 1 s and more of 8 channels at 48000 Hz are too many samples for one array, 383999 are allowed"
    with monkeypatch.context() as patch:
        patch.setattr(opening._Sequential, "read", lambda *_, **__: pytest.fail("decoded"))
        with pytest.raises(UserError, match=message):
            read(path, max_seconds=1e9)
    assert sum(len(block) for block in iterate_audio(path, RATE_HZ)) == RATE_HZ  # its memory is that of a block
    forge_length(path, 0)  # nothing is known before it is decoded
    with pytest.raises(UserError, match=r"a.flac: \d+ s and more of 8 channels at 48000 Hz are too many"):
        read(path, max_seconds=1e9)
    slow = save(tmp_path / "slow.wav", np.zeros(24_000, np.int16), 1000)  # 16 times as many after resampling
    with pytest.raises(UserError, match=r"slow.wav: 24 s and more of 1 channels at 1000 Hz are too many"):
        read(slow)


@pytest.mark.parametrize(
    ("form", "subtype", "tolerance"),
    [("WAV", "ULAW", 0.03), ("WAV", "ALAW", 0.03), ("WAV", "DOUBLE", 0), ("WAVEX", "PCM_24", 2**-23)]
    + [("RF64", "PCM_16", 2**-15), ("WAV", "IMA_ADPCM", 0.05), ("FLAC", "PCM_24", 2**-23), ("FLAC", "PCM_S8", 2**-7)],
)
def test_other_codings_of_samples_are_read(form, subtype, tolerance, tmp_path):
    wave = make_wave(0.253)
    path = tmp_path / "a.wav"
    soundfile.write(path, wave, RATE_HZ, format=form, subtype=subtype)
    found = read(path)
    np.testing.assert_allclose(found[: len(wave)], wave, atol=tolerance)
    assert len(wave) <= len(found) < len(wave) + 1024  # ADPCM fills its last block


def test_the_limit_is_that_of_the_caller(tmp_path):
    path = save(tmp_path / "a.ogg", make_wave(1.0))
    assert read(path, max_seconds=1.0).shape == (RATE_HZ,)
    with pytest.raises(UserError, match=r"a.ogg: 1.0 s by its header, more than the 0.9 s allowed"):
        read(path, max_seconds=0.9)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from(["wav", "flac", "ogg", "mp3"]),
    places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
    at_start=st.booleans(),
)
def test_a_damaged_file_gives_sound_or_a_message(suffix, places, at_start, tmp_path):
    path = save(tmp_path / f"damaged.{suffix}", make_wave(0.2))
    content = bytearray(path.read_bytes())
    for place, value in places:
        content[int(place * (60 if at_start else len(content)))] = value
    path.write_bytes(content)
    try:
        wave_n = read(path, max_seconds=60.0)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert wave_n.ndim == 1 and np.isfinite(wave_n).all()


@pytest.mark.parametrize("speed", [0.9, 1.1, 1.05, 2.0])
def test_speed_changes_length_and_pitch(speed):
    played = change_speed(make_wave(1.0, frequency_hz=400.0), speed, RATE_HZ)
    assert played.dtype == np.float32 and len(played) == round(RATE_HZ / speed) == changed_length(RATE_HZ, speed)
    np.testing.assert_allclose(played, make_wave(1 / speed, frequency_hz=400.0 * speed)[: len(played)], atol=5e-3)


def test_the_length_after_a_change_of_speed_is_known_beforehand():
    for speed in (0.87, 0.9, 1.1, 1.15, 2.0):
        for num_samples in (0, 1, 2, 5, 159, 12345):
            assert len(change_speed(np.ones(num_samples, np.float32), speed, RATE_HZ)) == changed_length(
                num_samples, speed
            )


def test_speed_one_is_the_wave_itself():
    wave = make_wave(0.1)
    assert change_speed(wave, 1.0, RATE_HZ) is wave and changed_length(7, 1.0) == 7
