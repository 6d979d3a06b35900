"""The alignment's picture: firing times, what is drawn where, and texts that must not break it."""

import numpy as np
import pytest
from PIL import Image

from asr import pictures
from asr.pictures import draw_alignment, firing_times_s, mean_times_s


def overlap(alpha_t, num_tokens):
    """Integrate and fire as a loop over frames: what is left of a frame goes to the next token."""
    alignment_ut, collected, token = np.zeros((num_tokens, len(alpha_t))), 0.0, 0
    for frame, left in enumerate(alpha_t):
        while left > 1e-12 and token < num_tokens:
            given = min(left, 1.0 - collected)
            alignment_ut[token, frame] += given
            collected, left = collected + given, left - given
            if collected > 1 - 1e-12:
                token, collected = token + 1, 0.0
    return alignment_ut


def test_a_token_fires_where_the_sum_of_the_weights_passes_its_number():
    alignment_ut = overlap([0.0, 0.5, 0.25, 0.0, 0.5, 2.0, 0.75], 4)
    # 1 is passed in the middle of frame 4; 2 and 3 in frame 5, at 0.75 / 2 and 1.75 / 2 of it; 4 at the end.
    np.testing.assert_allclose(firing_times_s(alignment_ut, 0.1), [0.45, 0.5375, 0.5875, 0.7], atol=1e-4)


def test_a_whole_number_reached_before_a_silence_fires_at_its_start():
    np.testing.assert_allclose(firing_times_s(overlap([1.0, 0.0, 0.0, 1.0], 2), 1.0), [1.0, 4.0], atol=1e-3)


def test_a_token_that_is_not_complete_lasts_to_the_end():
    np.testing.assert_allclose(firing_times_s(overlap([0.5, 0.7, 0.0], 2), 1.0), [1 + 0.5 / 0.7, 3.0], atol=1e-3)
    assert firing_times_s(np.zeros((0, 4)), 1.0).shape == (0,)


def test_the_mean_time_of_a_token_is_weighted_by_what_the_frames_gave():
    alignment_ut = np.array([[0.25, 0.75, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(mean_times_s(alignment_ut, 2.0), [2 * (0.25 * 0.5 + 0.75 * 1.5), 2 * 2.5, 2 * 3.0])


@pytest.mark.parametrize("seed", range(3))
def test_firings_do_not_go_back_in_time(seed):
    rng = np.random.default_rng(seed)
    alpha_t = rng.uniform(0, 1, 40) * (rng.uniform(size=40) < 0.5)
    times = firing_times_s(overlap(alpha_t, int(alpha_t.sum())), 0.06)
    assert (np.diff(times) >= 0).all() and times[0] > 0 and times[-1] <= 40 * 0.06


@pytest.fixture
def drawn(monkeypatch):
    """Return what was plotted: images by their extent, and texts."""
    from matplotlib.axes import Axes

    seen = {"images": [], "texts": []}
    imshow, text = Axes.imshow, Axes.text
    monkeypatch.setattr(Axes, "imshow", lambda *a, **kw: seen["images"].append((a[1], kw)) or imshow(*a, **kw))
    monkeypatch.setattr(Axes, "text", lambda *a, **kw: seen["texts"].append(a[1:4]) or text(*a, **kw))
    return seen


def test_spectrogram_and_matrix_share_one_time_axis(drawn, tmp_path):
    mel_tm = np.random.default_rng(0).normal(size=(57, 12))
    alignment_ut = overlap([0.5, 0.5, 0.5, 0.5, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5], 4)
    draw_alignment(mel_tm, alignment_ut, ["a", "▁", "b", "▁cd"], 0.06, tmp_path / "a.png", "x", mel_shift_s=0.01)
    (shown_mel, mel), (shown_alignment, matrix) = drawn["images"]
    np.testing.assert_array_equal(shown_mel, mel_tm.T)
    np.testing.assert_array_equal(shown_alignment, alignment_ut)
    assert mel["extent"][:2] == (0, pytest.approx(0.57)) and matrix["extent"][:2] == (0, pytest.approx(0.6))
    assert [text for _, _, text in drawn["texts"]] == ["a", "␣", "b", "␣cd"]
    times = [x for x, _, _ in drawn["texts"]]
    np.testing.assert_allclose(times, [0.06, 0.18, 0.42, 0.54], atol=1e-4)  # the pause is in frames 4 and 5
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG" and np.asarray(image.convert("RGB")).std() > 10
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    "tokens", [[], ["$x$", "$\\frac{$", "\\frac{", "_^"], ["中", "文", "\U0001f600", "</s>"], ["x"] * 200]
)
def test_any_text_can_be_drawn(tokens, tmp_path):
    alignment_ut = overlap([1.0] * len(tokens) + [0.0], len(tokens))
    draw_alignment(np.zeros((5, 4)), alignment_ut, tokens, 0.06, tmp_path / "a.png", f"{tokens[:4]}")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_without_any_frame_there_is_an_empty_picture(tmp_path):
    draw_alignment(np.zeros((0, 4)), np.zeros((0, 1)), [], 0.06, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_the_width_follows_the_sound_within_bounds(tmp_path):
    widths = []
    for num_frames in (5, 150, 2000):
        draw_alignment(np.zeros((num_frames, 4)), np.zeros((0, num_frames)), [], 0.06, tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as image:
            widths.append(image.width)
    assert widths == [100 * pictures.MIN_WIDTH, 100 * pictures.INCHES_PER_S * 9, 100 * pictures.MAX_WIDTH]


def test_tokens_that_no_font_can_write_are_drawn_as_numbers(drawn, monkeypatch, tmp_path):
    monkeypatch.setattr(pictures, "find_fonts", lambda texts: (["DejaVu Sans"], {"今"}))
    for ids, names in (((5, 7), ["#5", "b"]), ((), ["#1", "b"])):
        drawn["texts"].clear()
        draw_alignment(np.zeros((4, 3)), overlap([0.5] * 4, 2), ["今", "b"], 1.0, tmp_path / "a.png", token_ids=ids)
        assert [text for _, _, text in drawn["texts"]] == names
