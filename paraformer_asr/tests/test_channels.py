"""Several channels to one: the mean, a chosen one, and what is done where the mean cancels them."""

import numpy as np
import pytest
import soundfile

from asr.data.sounds import audio
from asr.data.sounds.audio import iterate_audio, read_audio
from asr.data.sounds.channels import Mixing
from asr.errors import UserError

RATE_HZ = 16000


def noise(seed, seconds=1.0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE_HZ)).astype(np.float32)


def save(path, *channels):
    soundfile.write(path, np.stack(channels, axis=1), RATE_HZ, subtype="FLOAT")
    return path


def read_both(path, **options):
    """Return the sound, the same from both readers."""
    whole = read_audio(path, RATE_HZ, **options)
    np.testing.assert_array_equal(np.concatenate(list(iterate_audio(path, RATE_HZ, 0.3, **options))), whole)
    return whole


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("opposite", (1.0, -1.0)),
        ("nearly opposite", (1.0, -0.8)),
        ("the second louder", (-0.9, 1.0)),
        ("a silent third", (1.0, -1.0, 0.0)),
        ("two pairs", (1.0, -1.0, 1.0, -1.0)),
    ],
)
def test_of_channels_that_cancel_the_loudest_is_read_with_a_warning(name, weights, tmp_path, caplog):
    wave = noise(0)
    path = save(tmp_path / "a.wav", *(weight * wave for weight in weights))
    loudest = int(np.argmax(np.abs(weights))) + 1
    np.testing.assert_array_equal(read_both(path), np.float32(weights[loudest - 1]) * wave)
    (warning,) = caplog.messages  # once, though the file was read twice
    assert warning.startswith(f"{path}: its channels cancel each other out, so only channel {loudest} is read")


def test_a_constant_offset_hides_no_cancelling(tmp_path, caplog):
    wave = noise(0)
    read_both(save(tmp_path / "a.wav", wave + 0.3, 0.3 - wave))
    assert "cancel each other out" in caplog.text


@pytest.mark.parametrize(
    "channels",
    [
        (noise(0), noise(0)),
        (noise(0), noise(1)),
        (noise(0), 0 * noise(0)),
        (noise(0), -0.4 * noise(0)),
        (noise(0), *(0 * noise(0),) * 7),
        (0 * noise(0), 0 * noise(0)),
    ],
    ids=["equal", "unlike", "one silent", "partly", "seven silent", "all silent"],
)
def test_of_other_channels_the_mean_is_read(channels, tmp_path, caplog):
    expected = np.stack(channels, axis=1).mean(axis=1)
    np.testing.assert_array_equal(read_both(save(tmp_path / "a.wav", *channels)), expected)
    assert not caplog.messages


def test_a_channel_can_be_chosen(tmp_path, caplog):
    one, other = noise(0), noise(1)
    path = save(tmp_path / "a.wav", one, -one, other)
    for number, wave in enumerate((one, -one, other), 1):
        np.testing.assert_array_equal(read_both(path, channel=number), wave)
    np.testing.assert_array_equal(read_both(save(tmp_path / "mono.wav", one), channel=2), one)
    assert not caplog.messages
    for reader in (read_audio, lambda *given, **options: list(iterate_audio(*given, **options))):
        with pytest.raises(UserError, match=r"a.wav: data.channel is 4, expected 1 to 3, its channels"):
            reader(path, RATE_HZ, channel=4)


def test_what_blocks_a_file_is_read_in_changes_nothing(tmp_path, monkeypatch):
    wave = noise(0)
    path = save(tmp_path / "a.wav", wave, -wave)
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 1000)
    np.testing.assert_array_equal(read_both(path), wave)


def test_nothing_measured_does_not_cancel():
    assert not Mixing().cancels
