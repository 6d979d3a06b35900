"""The generated pictures in which a ring's class depends on a disc far away."""

import dataclasses

import numpy as np
import pytest

from seg.config import DataConfig, ToyConfig
from seg.config.packaged import find_config
from seg.config.reader import load_config
from seg.data import build_dataset
from seg.data.toy_far import KEY_PLACE, ToyFar
from seg.errors import UserError

CONFIG = DataConfig(dataset="toy_far", size=(48, 144), toy=ToyConfig(num_train=200, num_val=20, num_test=20, noise=0.0))


def redness(image_hwc):
    return image_hwc[..., 0].astype(int) - image_hwc[..., 2]


def key_sign(image_hwc):
    """Return 1 for a red key and −1 for a blue one: the strongest colour of its column."""
    red_h = redness(image_hwc)[:, round(KEY_PLACE * CONFIG.size[0])]
    return int(np.sign(red_h[np.abs(red_h).argmax()]))


def test_the_key_says_the_class_of_all_rings():
    dataset, keys, redness_of_rings = build_dataset(CONFIG, "train", 0), [], {1: [], 2: []}
    for index in range(len(dataset)):
        sample = dataset[index]
        keys.append(key_sign(sample.image))
        label = 1 if keys[-1] > 0 else 2
        assert set(np.unique(sample.mask)) <= {0, label}
        redness_of_rings[label].append(redness(sample.image)[sample.mask == label].mean())
    assert 0.35 < np.mean(np.array(keys) > 0) < 0.65
    # The colour of the rings does not say it.
    assert abs(np.mean(redness_of_rings[1]) - np.mean(redness_of_rings[2])) < 30


def test_no_ring_touches_the_key():
    dataset = ToyFar(CONFIG, "train")
    first_column = min(int(dataset[i].mask.any(0).argmax()) for i in range(200) if dataset[i].mask.any())
    assert first_column > (KEY_PLACE + 0.12) * CONFIG.size[0]


def test_samples_follow_seed_split_and_index():
    one, other = ToyFar(CONFIG, "val"), ToyFar(CONFIG, "val")
    np.testing.assert_array_equal(one[3].image, other[3].image)
    np.testing.assert_array_equal(one[3].mask, other[3].mask)
    different = [ToyFar(CONFIG, split, seed) for split in ("train", "val", "test") for seed in (0, 1)]
    assert len({dataset[i].image.tobytes() for dataset in different for i in range(5)}) == 30
    assert one.generated_from()["samples"] == len(one) == 20
    with pytest.raises(IndexError, match="20 val samples of toy_far"):
        one[20]


@pytest.mark.parametrize(
    ("changes", "message"), [({"channels": 1}, "draws 3 channels"), ({"size": (64, 64)}, "twice as wide as high")]
)
def test_what_cannot_be_drawn_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        ToyFar(dataclasses.replace(CONFIG, **changes), "train")


def test_overlapping_shapes_are_of_the_other_task():
    with pytest.raises(UserError, match="data.toy.overlap goes with data.dataset: toy_shapes, not toy_far"):
        load_config(find_config("toy_far_unet"), ["data.toy.overlap=true"])
