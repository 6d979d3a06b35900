"""Each setting that a message on masks suggests is followed, and must make the masks readable."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from mask_folders import config_for, drawn, follow, suggested, with_palette, write_masks
from seg.data import build_dataset
from seg.data.inspection import describe_problems, find_warnings, inspect_split
from seg.errors import UserError

LABELS = np.zeros((16, 20), np.uint8)
LABELS[2:9, 3:12], LABELS[11:14, 2:18] = 1, 2
TWO = np.minimum(LABELS, 1)
BLACK, RED, GREEN, BLUE = (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)
BITS = Image.fromarray(TWO == 1)
JPEG = (Image.fromarray(TWO * 255), "jpg", {"quality": 70})
OBJECTS = [drawn(LABELS, 0, 1, 2), np.arange(320, dtype=np.uint16).reshape(16, 20) // 20]
MANY_OBJECTS = np.arange(80).reshape(8, 10).repeat(4, axis=0).repeat(4, axis=1).astype(np.uint16)
SOFT = Image.fromarray(TWO * 255).resize((200, 160), Image.Resampling.BICUBIC)
THREE = {"names": ("background", "car", "tree")}

CASES = {
    "0 and 255": ([TWO * 255], {}, [{"value_map": {0: 0, 255: 1}}]),
    "0 and 65535": ([drawn(TWO, 0, 65535)], {}, [{"value_map": {0: 0, 65535: 1}}]),
    "128 and 7": ([drawn(TWO, 7, 128)], {}, [{"value_map": {7: 0, 128: 1}}]),
    "1 and 2": ([TWO + 1], {}, [{"value_map": {1: 0, 2: 1}}]),
    "0 and 1 beside 0 and 255": ([TWO, TWO * 255], {}, [{"value_map": {0: 0, 255: 1, 1: 1}}]),
    "1 bit beside 0 and 255": ([BITS, TWO * 255], {}, [{"value_map": {0: 0, 255: 1, 1: 1}}]),
    "1 beside the map of 255": (
        [TWO, TWO * 255],
        {"value_map": {0: 0, 255: 1}},
        [{"value_map": {0: 0, 255: 1, 1: 1}}],
    ),
    "grey steps": ([drawn(LABELS, 0, 127, 255)], THREE, [{"value_map": {0: 0, 127: 1, 255: 2}}]),
    "void beside two classes": ([drawn(LABELS, 0, 1, 255)], {}, [{"class_names": 3}, {"ignore_value": 255}]),
    "void of 16 bits": ([drawn(LABELS, 0, 1, 65535)], {}, [{"class_names": 3}, {"ignore_value": 65535}]),
    "void beside a stated void": (
        [drawn(LABELS, 0, 1, 254), drawn(LABELS, 0, 1, 255)],
        {"ignore_value": 255},
        [{"class_names": 3}, {"value_map": {0: 0, 1: 1, 255: 255, 254: 255}}],
    ),
    "a third class": ([LABELS], {}, [{"class_names": 3}, {"ignore_value": 2}]),
    "classes with gaps": ([drawn(LABELS, 0, 7, 33), drawn(LABELS, 0, 7, 100)], {}, [{"class_names": 4}]),
    "a class beyond the colours": ([LABELS], {"palette": (BLACK, RED)}, [{"class_names": 3}, {"ignore_value": 2}]),
    "numbered objects": (OBJECTS, {}, [{"class_names": 16}, {"threshold": 1}]),
    "many numbered objects": ([MANY_OBJECTS], {}, [{"threshold": 1}]),
    "many objects, three classes": ([MANY_OBJECTS], THREE, [{"threshold": 1}]),
    "JPEG": ([JPEG], {"value_map": {0: 0, 255: 1}}, [{"threshold": 128, "value_map": {}}]),
    "soft edges": ([SOFT], {}, [{"threshold": 128}]),
    "colours": ([drawn(TWO, BLACK, RED)], {}, [{"palette": [[0, 0, 0], [255, 0, 0]]}]),
    "more colours than names": ([drawn(LABELS, BLACK, RED, GREEN)], {}, [{"class_names": 3}]),
    "fewer colours than names": ([drawn(TWO, BLACK, RED)], THREE, [{"palette": 3}]),
    "colours of several masks": ([drawn(TWO, BLACK, RED), drawn(TWO, BLACK, BLUE)], THREE, [{"palette": 3}]),
    "an unknown colour": (
        [drawn(LABELS, BLACK, RED, GREEN)],
        {"palette": (BLACK, RED)},
        [{"class_names": 3}, {"class_names": 3, "ignore_value": 2}],
    ),
    "unknown colours": ([drawn(LABELS, BLACK, GREEN, BLUE)], {"palette": (BLACK, RED)}, [{"class_names": 4}]),
    "another palette": (
        [with_palette(TWO, BLACK, GREEN)],
        {"palette": (BLACK, RED)},
        [{"read_masks_by": "value"}, {"class_names": 3}],
    ),
    "colours read by value": (
        [drawn(TWO, BLACK, RED)],
        {"palette": (BLACK, RED), "read_masks_by": "value"},
        [{"read_masks_by": "auto"}],
    ),
    "colours with a threshold": ([drawn(TWO, BLACK, RED)], {"threshold": 9}, [{"threshold": 0, "palette": 2}]),
}


@pytest.mark.parametrize("case", CASES)
def test_each_suggestion_by_itself_reads_all_masks(case, tmp_path):
    masks, settings, expected = CASES[case]
    for split in ("train", "val"):
        write_masks(tmp_path, split, **{f"m{i}": mask for i, mask in enumerate(masks)})
    config = config_for(tmp_path, **settings)
    message = "\n".join(problems(config))
    suggestions = suggested(message)
    assert len(suggestions) == len(expected), message
    for overrides, values in zip(suggestions, expected, strict=True):
        data = follow(config, overrides)
        assert problems(data) == [], (overrides, message)
        for key, value in values.items():
            stated = getattr(data, key)
            if isinstance(value, int) and not isinstance(stated, int):
                assert len(stated) == value, (key, stated)
            else:
                assert stated == (tuple(map(tuple, value)) if key == "palette" else value), (key, stated)
        labels = {int(label) for i in range(len(masks)) for label in np.unique(build_dataset(data, "train")[i].mask)}
        assert len(labels - {255}) >= 2, (overrides, message)


@pytest.mark.parametrize("case", CASES)
def test_a_mask_alone_gives_advice_that_reads_it(case, tmp_path):
    masks, settings, _ = CASES[case]
    for number, mask in enumerate(masks):
        root = tmp_path / str(number)
        write_masks(root, m=mask)
        config = config_for(root, **settings)
        try:
            build_dataset(config, "train")[0]
        except UserError as error:
            suggestions = suggested(str(error))
            assert "labels/m." in str(error) and suggestions
            for overrides in suggestions:
                build_dataset(follow(config, overrides), "train")[0]


def problems(config):
    reports = {s: inspect_split(config, s, 0, lambda findings, **_: findings) for s in ("train", "val")}
    return describe_problems(reports)


HOPELESS = {
    "two classes of three in JPEG": (JPEG, THREE, "JPEG.*as PNG"),
    "three classes in JPEG": ((Image.fromarray(LABELS * 100), "jpg", {"quality": 50}), THREE, "JPEG.*as PNG"),
    "a photo": (np.random.default_rng(0).integers(0, 256, (16, 20), dtype=np.uint8), {}, "photo.*as PNG"),
    "colours with soft edges": (
        Image.fromarray(drawn(LABELS, BLACK, RED, GREEN)).resize((200, 160), Image.Resampling.BICUBIC),
        {},
        "soft edges.*one colour a class",
    ),
    "colours in JPEG": ((Image.fromarray(drawn(LABELS, BLACK, RED, GREEN)), "jpg", {}), {}, "JPEG.*one colour"),
}


@pytest.mark.parametrize("case", HOPELESS)
def test_masks_that_no_setting_can_read_are_said_to_be_so(case, tmp_path):
    mask, settings, message = HOPELESS[case]
    write_masks(tmp_path, m=mask)
    with pytest.raises(UserError, match=message) as error:
        build_dataset(config_for(tmp_path, **settings), "train")[0]
    assert not suggested(str(error.value))


def test_names_that_yaml_would_misread_are_quoted(tmp_path):
    write_masks(tmp_path, m=LABELS)
    config = config_for(tmp_path, ("no: thing", "1e5"))
    with pytest.raises(UserError) as error:
        build_dataset(config, "train")[0]
    for overrides in suggested(str(error.value)):
        assert follow(config, overrides).class_names[:2] == ("no: thing", "1e5")


def test_values_are_counted_over_all_masks(tmp_path):
    write_masks(tmp_path, a=TWO * 255, b=TWO, c=TWO * 0)
    for split in ("val",):
        write_masks(tmp_path, split, d=TWO * 0)
    lines = problems(dataclasses.replace(config_for(tmp_path), num_threads=2))
    assert len(lines) == 1


def test_palettes_that_differ_are_named_and_can_be_read_both_ways(tmp_path):
    write_masks(
        tmp_path, a=with_palette(TWO, BLACK, RED), b=with_palette(TWO, BLACK, RED), c=with_palette(1 - TWO, RED, BLACK)
    )
    config = config_for(tmp_path)
    (warning,) = warnings_of(config)
    assert "(0, 0, 0) in 2 masks" in warning and "(255, 0, 0) in " in warning and "labels/c.png" in warning
    by_position, by_colour = suggested(warning)
    assert by_position == ["data.read_masks_by=value"] and not warnings_of(follow(config, by_position))
    config = follow(config, by_colour)
    for i in range(3):
        np.testing.assert_array_equal(build_dataset(config, "train")[i].mask, TWO)
    (warning,) = warnings_of(config)
    assert "labels/c.png" in warning and "another order than data.palette" in warning


def warnings_of(config):
    report = inspect_split(config, "train", 0, lambda findings, **_: findings)
    assert not report.num_bad
    return [line for line in find_warnings({"train": report}) if "more than once" not in line]


def test_what_was_read_and_yet_is_odd_is_named(tmp_path):
    settings = {"value_map": {0: 0, 255: 1}}
    write_masks(tmp_path, a=BITS, b=TWO * 255)
    (warning,) = warnings_of(config_for(tmp_path, **settings))
    assert "labels/a.png: 1 bit, of which 1 is read as 255" in warning
    write_masks(tmp_path, a=with_palette(TWO, BLACK, (255,) * 3), b=with_palette(1 - TWO, (255,) * 3, BLACK))
    (warning,) = warnings_of(config_for(tmp_path, **settings))
    assert "labels/b.png: a palette of greys that do not rise" in warning
    write_masks(tmp_path, a=TWO * 0, b=TWO * 0)
    one, absent = warnings_of(config_for(tmp_path, **settings))
    assert "all 2 masks have a single class, background" in one and "no pixel of car" in absent
    write_masks(tmp_path, a=TWO * 0 + 9, b=TWO * 0 + 9)
    assert warnings_of(config_for(tmp_path, ignore_value=9)) == ["train: every pixel of every mask is ignored"]
    rare = np.zeros((40, 50), np.uint8)
    rare[3, 3:8] = 1
    write_masks(tmp_path, a=rare, b=rare)
    (warning,) = warnings_of(config_for(tmp_path))
    assert "rare: car (0.25% of the pixels)" in warning
    write_masks(tmp_path, a=TWO, b=TWO)
    assert len(warnings_of(config_for(tmp_path, THREE["names"], ignore_value=2, value_map={0: 0, 1: 1}))) == 2


def test_many_problems_of_one_kind_are_few_lines(tmp_path):
    write_masks(tmp_path, **{f"m{i:02}": TWO[: 10 + i % 2] for i in range(30)})
    for i in range(30):
        Image.new("RGB", (20, 16)).save(tmp_path / "train/images" / f"m{i:02}.png")
    write_masks(tmp_path, "val", v=TWO)
    report = inspect_split(config_for(tmp_path), "train", 0, lambda findings, **_: findings)
    assert report.num_bad == 30
    lines = describe_problems({"train": report})
    assert len(lines) == 6 and "m04" in lines[4] and "and 25 more like these" in lines[5]
    assert len(describe_problems({"train": report}, list_all=True)) == 30
