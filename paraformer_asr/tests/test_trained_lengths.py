"""A run keeps how long its training utterances were, and what is made of the run cuts long sound by it."""

import jax
import numpy as np
import pytest

from asr.config import Config, InferenceConfig
from asr.config.reader import load_config, override_config, save_config
from asr.data.frontend import augment_wave
from asr.errors import UserError
from asr.infer import note_on_lengths
from asr.inference.exported_program import num_samples
from asr.training.setup import with_lengths

OLD = InferenceConfig(max_segment_s=20.0)
"""As the config of a run has it that was made before lengths were kept."""


def test_the_lengths_are_kept_in_the_config_and_decide_the_segments(tmp_path):
    config = with_lengths(Config(), np.arange(101) / 10)
    assert config.inference.trained_s == (5.0, 9.5, 10.0)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert num_samples(config) == 9.5 * 16000
    assert num_samples(override_config(config, ["inference.max_segment_s=30"])) == 30 * 16000
    stated = override_config(config, ["inference.max_segment_s=30"])
    assert override_config(stated, ["inference.max_segment_s=null"]) == config
    with pytest.raises(UserError, match="inference.max_segment_s: expected 1 to 120, found 0"):
        override_config(config, ["inference.max_segment_s=0"])


def test_long_sound_of_a_model_that_does_not_say_its_lengths_is_noted():
    for settings in (OLD, InferenceConfig()):
        assert "inference.max_segment_s=6 may lose fewer words" in note_on_lengths(settings, 20.1)
        assert not note_on_lengths(settings, 20.0)
    assert not note_on_lengths(InferenceConfig(trained_s=(1.0, 2.0, 3.0)), 100.0)
    assert not note_on_lengths(InferenceConfig(max_segment_s=6.0), 100.0)


def test_levels_are_changed_by_default_and_not_in_a_run_from_before(tmp_path):
    assert Config().data.augment.gain_db == 20.0
    (tmp_path / "config.yaml").write_text("data: {augment: {gain_db: 0.0}}\n")
    old = load_config(tmp_path / "config.yaml")
    wave_bn, lengths_b = np.full((2, 400), 0.1, np.float32), np.full(2, 400, np.int32)
    for config, changed in ((Config(), True), (old, False)):
        assert (
            bool(
                (np.asarray(augment_wave(jax.random.key(0), wave_bn, lengths_b, config.data.augment)) != wave_bn).any()
            )
            == changed
        )
