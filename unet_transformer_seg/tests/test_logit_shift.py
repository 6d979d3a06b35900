"""The script that chooses a shift of the logits: it decides anew at each strength, and a rare class gains."""

import importlib.util
import types
from pathlib import Path

import numpy as np
import pytest

from seg.data.dataset import Sample

PATH = Path(__file__).parents[1] / "scripts/choose_logit_shift.py"
MASK = np.array([[0] * 9 + [1]] * 4, np.uint8)
UNSURE = np.where(MASK == 1, 0.4, 0.1)  # the rare class is always the less likely one
PROBABILITIES = np.stack([1 - UNSURE, UNSURE], -1).astype(np.float32)


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("choose_logit_shift", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("shift", "first"), [(1.0, 0.5), (2.0, 0.3), (-1.0, -0.5), (0.3, None)])
def test_a_rare_class_is_found_from_the_strength_at_which_its_odds_pass_one(script, shift, first):
    model = types.SimpleNamespace(
        predict=lambda image, probabilities: types.SimpleNamespace(probabilities=PROBABILITIES)
    )
    dataset = [Sample(np.zeros((4, 10, 3), np.uint8), MASK, "one")]
    scores = np.array(script.score_strengths(model, dataset, np.array([0.0, shift])))
    missed = 0.9 / 2  # the mean of 36 of 40 pixels of the ground, and none of the class
    assert script.STRENGTHS[0] == -1 and script.STRENGTHS[-1] == 1
    # The odds are multiplied by exp(strength · shift); for a shift below 0 a strength below 0 raises them.
    is_found = np.array([first is not None and strength / first >= 1 for strength in script.STRENGTHS])
    np.testing.assert_allclose(scores, np.where(is_found, 1.0, missed))
