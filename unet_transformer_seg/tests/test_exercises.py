"""The exercises: each test fails as long as nothing is written, passes with the code of src, and finds mistakes."""

import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.inference.tiling import blend_windows, gaussian, place_windows
from seg.losses import dice_loss
from seg.metrics import compute_metrics, confusion_matrix
from seg.ops.attention import attention
from seg.ops.conv import conv2d, up_conv
from seg.ops.cpu_conv import conv_by_patches

PROJECT = Path(__file__).parents[1]
FOLDER = PROJECT / "docs" / "exercises"
TESTS = sorted(FOLDER.glob("test_*.py"))


def mean_iou(matrix_kk):
    return compute_metrics(np.asarray(matrix_kk, np.int64)).mean_iou


def blend_tiles(image_hwc, predict, *, tile, overlap):
    """The bands of `blend_windows` in one piece, its weights applied where the device would."""

    def forward(windows_bhwc, weights_bh, weights_bw):
        return predict(windows_bhwc) * weights_bh[:, :, None, None] * weights_bw[:, None, :, None]

    bands = blend_windows(image_hwc, forward, tile=tile, overlap=overlap, batch_size=2)
    return np.concatenate([band.probabilities for band in bands])


SOLUTIONS = {
    "conv2d": {"conv2d": conv2d},
    "attention": {"attention": attention},
    "dice": {"dice_loss": dice_loss},
    "up_conv": {"up_conv": up_conv},
    "mean_iou": {"confusion_matrix": confusion_matrix, "mean_iou": mean_iou},
    "blend_tiles": {"blend_tiles": blend_tiles},
}


def load(name):
    """Return the module of an exercise, fresh."""
    module = types.ModuleType(name)
    exec(compile((FOLDER / f"{name}.py").read_text(encoding="utf-8"), f"{name}.py", "exec"), vars(module))
    return module


def load_tests(name, monkeypatch, **functions):
    """Return the test functions of an exercise in which these functions are written."""
    module = load(name)
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, name, module)
    path, names = FOLDER / f"test_{name}.py", {"__name__": f"test_{name}"}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    return {key: value for key, value in names.items() if key.startswith("test_")}


def test_each_exercise_has_a_test_and_a_solution():
    assert [path.stem.removeprefix("test_") for path in TESTS] == sorted(SOLUTIONS)
    text = (PROJECT / "docs" / "exercises.md").read_text(encoding="utf-8")
    for name, functions in SOLUTIONS.items():
        assert vars(load(name)).keys() >= functions.keys() and text.count(f"test_{name}.py") >= 1


@pytest.mark.parametrize("name", SOLUTIONS)
def test_what_is_not_written_fails(name, monkeypatch):
    for test in load_tests(name, monkeypatch).values():
        with pytest.raises(NotImplementedError):
            test()


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_code_of_src_passes(name, monkeypatch):
    for test in load_tests(name, monkeypatch, **SOLUTIONS[name]).values():
        test()


def test_the_form_that_the_page_shows_passes_too(monkeypatch):
    def by_patches(x, kernel, bias=None):
        return conv_by_patches(x, kernel) + (0.0 if bias is None else bias[None, None, None])

    for test in load_tests("conv2d", monkeypatch, conv2d=by_patches).values():
        test()


# --- mistakes ---


def flipped_kernel(x, kernel, bias=None):
    return conv2d(x, kernel[::-1, ::-1], bias)


def edge_padding(x, kernel, bias=None):
    i, j = kernel.shape[0] // 2, kernel.shape[1] // 2
    return conv2d(jnp.pad(x, ((0, 0), (i, i), (j, j), (0, 0)), mode="edge"), kernel, bias, padding="VALID")


def forgotten_bias(x, kernel, bias=None):
    return conv2d(x, kernel)


def attention_by(q, k, v, mask=None, *, scale=True, lowest=-1e30, renormalise=True, shift=True):
    scores = jnp.einsum("bsae,bjae->basj", q, k) * (q.shape[-1] ** -0.5 if scale else 1)
    if mask is not None:
        scores = jnp.where(mask[:, None], scores, lowest)
    weights = jax.nn.softmax(scores) if shift else jnp.exp(scores) / jnp.exp(scores).sum(-1, keepdims=True)
    if mask is not None and renormalise:
        weights = jnp.where(mask[:, None], weights, 0.0)
    return jnp.einsum("basj,bjae->bsae", weights, v)


def softmax_before_mask(q, k, v, mask=None):
    weights = jax.nn.softmax(jnp.einsum("bsae,bjae->basj", q, k) * q.shape[-1] ** -0.5)
    return jnp.einsum("basj,bjae->bsae", weights if mask is None else weights * mask[:, None], v)


def dice_by(logits, labels, *, absent=False, ignore=True, per_image=False, clean=True):
    k = logits.shape[-1]
    counted = (labels != 255)[..., None]
    logits = jnp.where(counted, logits, 0.0) if clean else logits
    p = jax.nn.softmax(logits) * (counted if ignore else 1)
    t = jax.nn.one_hot(labels, k)
    axes = (1, 2) if per_image else (0, 1, 2)
    both, predicted, true = (jnp.sum(x, axes) for x in (p * t, p, t))
    loss = 1 - (2 * both + 1e-5) / (predicted + true + 1e-5)
    present = jnp.ones_like(true) if absent else (true > 0).astype(jnp.float32)
    return jnp.sum(loss * present) / jnp.maximum(jnp.sum(present), 1)


def divided_by_nothing(logits, labels):
    value = dice_loss(logits, labels)
    return jnp.where((labels != 255).any(), value, value / 0.0)


def rotated_blocks(x, kernel, bias=None):
    return up_conv(x, kernel[:, ::-1, ::-1], bias)


def transposed_blocks(x, kernel, bias=None):
    return up_conv(x, kernel, bias) if kernel.shape[1] != kernel.shape[2] else up_conv(x, kernel.swapaxes(1, 2), bias)


def resized_image(x, kernel, bias=None):
    r, s = kernel.shape[1:3]
    y = jnp.repeat(jnp.repeat(x, r, 1), s, 2)
    return jnp.einsum("bhwc,co->bhwo", y, kernel.mean((1, 2)))


def transposed_matrix(predicted, labels, num_classes):
    return confusion_matrix(predicted, labels, num_classes).T


def ignored_as_class_0(predicted, labels, num_classes):
    return confusion_matrix(predicted, jnp.where(labels == 255, 0, labels), num_classes)


def absent_as_0(matrix):
    return float(np.nan_to_num(compute_metrics(np.asarray(matrix, np.int64)).iou).mean())


def in_float32(matrix):
    matrix = np.asarray(matrix, np.float32)
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return float(np.mean(np.diag(matrix)[union > 0] / union[union > 0])) if union.any() else np.nan


def only_true_classes(matrix):
    metrics = compute_metrics(np.asarray(matrix, np.int64))
    return float(np.nanmean(np.where(metrics.true_share > 0, metrics.iou, np.nan))) if matrix.any() else np.nan


def blend_by(image, predict, *, tile, overlap, bell=gaussian, starts=place_windows, mode="edge"):
    (h, w), (rows, columns) = image.shape[:2], tile
    padding = ((0, max(rows - h, 0)), (0, max(columns - w, 0)), (0, 0))
    image, total, weights = np.pad(image, padding, mode=mode), 0.0, 0.0
    for top in starts(image.shape[0], rows, overlap):
        for left in starts(image.shape[1], columns, overlap):
            window = (slice(top, top + rows), slice(left, left + columns))
            weight_hw1 = np.zeros((*image.shape[:2], 1))
            weight_hw1[window] = np.outer(bell(rows), bell(columns))[..., None]
            p = predict(image[window][None])[0]
            part = np.zeros((*image.shape[:2], p.shape[-1]))
            part[window] = p
            total, weights = total + weight_hw1 * part, weights + weight_hw1
    return (total / weights)[:h, :w].astype(np.float32)


def steps_from_the_start(length, side, overlap):
    step = max(int(side * (1 - overlap)), 1)
    return sorted({min(start, length - side) for start in range(0, length - side + step, step)})


MISTAKES = {
    "conv2d": {"conv2d": [flipped_kernel, edge_padding, forgotten_bias]},
    "attention": {
        "attention": [
            lambda *x: attention_by(*x, scale=False),
            lambda *x: attention_by(*x, renormalise=False),
            lambda *x: attention_by(*x, shift=False),
            softmax_before_mask,
        ]
    },
    "dice": {
        "dice_loss": [
            lambda *x: dice_by(*x, absent=True),
            lambda *x: dice_by(*x, ignore=False),
            lambda *x: dice_by(*x, per_image=True),
            lambda *x: dice_by(*x, clean=False),
            divided_by_nothing,
        ]
    },
    "up_conv": {"up_conv": [rotated_blocks, transposed_blocks, resized_image]},
    "mean_iou": {
        "confusion_matrix": [transposed_matrix, ignored_as_class_0],
        "mean_iou": [absent_as_0, in_float32, only_true_classes],
    },
    "blend_tiles": {
        "blend_tiles": [
            lambda *x, **y: blend_by(*x, **y, bell=np.ones),
            lambda *x, **y: blend_by(*x, **y, bell=lambda n: gaussian(n) ** 2),
            lambda *x, **y: blend_by(*x, **y, starts=steps_from_the_start),
            lambda *x, **y: blend_by(*x, **y, mode="constant"),
        ]
    },
}
"""By exercise and function: what a learner may write."""

CASES = [
    (exercise, function, number)
    for exercise, functions in MISTAKES.items()
    for function, mistakes in functions.items()
    for number in range(len(mistakes))
]


@pytest.mark.parametrize(("exercise", "function", "number"), CASES)
def test_mistakes_are_found(exercise, function, number, monkeypatch):
    written = SOLUTIONS[exercise] | {function: MISTAKES[exercise][function][number]}
    failed = 0
    for test in load_tests(exercise, monkeypatch, **written).values():
        try:
            test()
        except (AssertionError, ZeroDivisionError):
            failed += 1
    assert failed


@pytest.mark.parametrize("written", ["dice_by", "attention_by", "blend_by"])
def test_without_its_mistake_each_of_these_passes(written, monkeypatch):
    exercise, function = {
        "dice_by": ("dice", {"dice_loss": dice_by}),
        "attention_by": ("attention", {"attention": attention_by}),
        "blend_by": ("blend_tiles", {"blend_tiles": blend_by}),
    }[written]
    for test in load_tests(exercise, monkeypatch, **function).values():
        test()


def test_the_command_of_the_page_runs_one_exercise(tmp_path):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "docs/exercises/test_mean_iou.py"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    end = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert end.returncode == 1, end.stdout + end.stderr
    assert "NotImplementedError" in end.stdout and "7 failed" in end.stdout
