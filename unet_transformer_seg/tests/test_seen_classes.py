"""The warning of classes that no training mask has."""

import numpy as np
import pytest

from seg.record import recorder
from seg.record.recorder import SeenClasses

NAMES = ("sky", "road", "tree", "car")


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    monkeypatch.setattr(recorder.log, "warning", lambda message, *values: lines.append(message % values))
    return lines


def test_missing_classes_are_named_once_after_the_first_pass(warnings):
    seen = SeenClasses(NAMES, 2)
    seen.add(np.full((1, 2, 2), 0, np.uint8))
    assert not warnings
    seen.add(np.array([[[3, 255]]], np.uint8))
    assert len(warnings) == 1 and "no pixel of road, tree was" in warnings[0]
    seen.add(np.array([[[1, 2]]], np.uint8))
    assert len(warnings) == 1


@pytest.mark.parametrize("steps", [0, 1])
def test_nothing_is_said_of_classes_that_were_seen_or_not_looked_for(steps, warnings):
    SeenClasses(NAMES, steps).add(np.arange(4 if steps else 1, dtype=np.uint8).reshape(1, 1, -1))
    assert not warnings
