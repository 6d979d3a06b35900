"""The exercises: their tests fail as long as nothing is written, accept the code of the project, and catch mistakes."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.losses import ctc
from asr.models.sampler import glance
from asr.ops import attention, cif
from test_cif import loop_cif
from test_fbank import slow_stack

PROJECT = Path(__file__).parents[1]
FOLDER = PROJECT / "docs" / "exercises"


def ctc_loss(logits_tv, tokens_u, blank=0):
    """The project's loss, for one utterance. A column of padding stands behind the tokens."""
    lengths = np.array([len(logits_tv)], np.int32), np.array([len(tokens_u)], np.int32)
    return ctc.ctc_loss(logits_tv[None], lengths[0], np.pad(tokens_u, (0, 1))[None], lengths[1], blank)


SOLUTIONS = {
    "low_frame_rate": {"stack_frames": slow_stack},
    "integrate_and_fire_loop": {"integrate_and_fire": loop_cif},
    "integrate_and_fire_overlap": {"align": cif.align, "scaled_cumulative": cif.scaled_cumulative},
    "sampler": {"glance": glance},
    "ctc_forward_sum": {"ctc_loss": ctc_loss},
    "attention_with_mask": {"attention": attention.attention},
}


# What one writes first.


def stack_with_zeros(x_tm, lfr_m, lfr_n):
    before = (lfr_m - 1) // 2
    padded = np.pad(x_tm, ((before, lfr_m + lfr_n), (0, 0)))
    return np.stack([padded[s : s + lfr_m].ravel() for s in range(0, len(x_tm), lfr_n)])


def fire_once_per_frame(alpha_t, hidden_td, num_rows):
    rows, row, level, vector = np.zeros((num_rows, hidden_td.shape[1])), 0, 0.0, 0.0
    for weight, hidden_d in zip(alpha_t, hidden_td, strict=True):
        if level + weight >= 1 - 1e-9:
            if row < num_rows:
                rows[row] = vector + (1 - level) * hidden_d
            row, level, vector = row + 1, level + weight - 1, (level + weight - 1) * hidden_d
        else:
            level, vector = level + weight, vector + weight * hidden_d
    if row < num_rows:
        rows[row] = vector
    return rows


def scale_by_a_factor(alpha_bt, valid_bt, num_tokens_b):
    return jnp.cumsum(alpha_bt * (num_tokens_b / alpha_bt.sum(1))[:, None], axis=1)


def show_the_wrong_tokens(key, acoustic_bud, label_bud, predicted_bu, tokens_bu, lengths_b, *, ratio):
    shown_bu = (predicted_bu != tokens_bu) & (jax.random.uniform(key, tokens_bu.shape) < ratio)
    return jnp.where(shown_bu[..., None], label_bud, acoustic_bud), shown_bu


def ctc_without_the_rule_for_equal_tokens(logits_tv, tokens_u, blank=0):
    def step(states, log_q_v):
        spelled_s, blank_s = states
        before_u = jnp.logaddexp(spelled_s[:-1], blank_s[:-1])
        spelled_u = jnp.logaddexp(spelled_s[1:], before_u) + log_q_v[tokens_u]
        return (jnp.append(spelled_s[0], spelled_u), jnp.logaddexp(blank_s, spelled_s) + log_q_v[blank]), None

    nothing_s = jnp.full(len(tokens_u) + 1, -1e30)
    (spelled_s, blank_s), _ = jax.lax.scan(step, (nothing_s, nothing_s.at[0].set(0.0)), jax.nn.log_softmax(logits_tv))
    return -jnp.logaddexp(spelled_s[-1], blank_s[-1])


def attend_with_minus_infinity(q_btae, k_bjae, v_bjae, mask_btj):
    scores = jnp.einsum("btae,bjae->batj", q_btae, k_bjae) / np.sqrt(q_btae.shape[-1])
    weights = jax.nn.softmax(jnp.where(mask_btj[:, None], scores, -jnp.inf))
    return jnp.einsum("batj,bjae->btae", weights, v_bjae)


MISTAKES = {
    "low_frame_rate": {"stack_frames": stack_with_zeros},
    "integrate_and_fire_loop": {"integrate_and_fire": fire_once_per_frame},
    "integrate_and_fire_overlap": {"align": cif.align, "scaled_cumulative": scale_by_a_factor},
    "sampler": {"glance": show_the_wrong_tokens},
    "ctc_forward_sum": {"ctc_loss": ctc_without_the_rule_for_equal_tokens},
    "attention_with_mask": {"attention": attend_with_minus_infinity},
}


class Outcomes:
    """Of each test of the exercises: passed or failed, and the text of its failure."""

    def __init__(self):
        self.of = {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.failed:
            name = Path(report.location[0]).stem.removeprefix("test_")
            self.of.setdefault(name, []).append((report.outcome, str(report.longrepr or "")))


@pytest.fixture
def run(monkeypatch):
    """Return a function that runs all tests of the exercises with these functions written."""
    monkeypatch.syspath_prepend(FOLDER)

    def run(written):
        for name, functions in written.items():
            for function, body in functions.items():
                monkeypatch.setattr(importlib.import_module(name), function, body)
        outcomes = Outcomes()
        options = ["-p", "no:cacheprovider", "-c", PROJECT / "pyproject.toml"]
        with jax.numpy_rank_promotion("allow"):  # as for the reader, who has no conftest of the project
            code = pytest.main([*map(str, options), str(FOLDER)], plugins=[outcomes])
        assert code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        assert set(outcomes.of) == set(SOLUTIONS)
        return outcomes.of

    return run


def test_every_exercise_is_here():
    names = {path.stem for path in FOLDER.glob("*.py")} - {"conftest"}
    assert names == set(SOLUTIONS) | {f"test_{name}" for name in SOLUTIONS}
    page = (PROJECT / "docs" / "exercises.md").read_text()
    assert all(f"exercises/{name}.py" in page and f"test_{name}.py" in page for name in SOLUTIONS)


def test_tests_fail_until_something_is_written(run):
    for name, results in run({}).items():
        assert all(outcome == "failed" and "NotImplementedError" in text for outcome, text in results), name


def test_the_code_of_the_project_solves_them(run):
    for name, results in run(SOLUTIONS).items():
        assert [text for outcome, text in results if outcome != "passed"] == [], name


def test_mistakes_are_caught(run):
    for name, results in run(MISTAKES).items():
        assert "failed" in {outcome for outcome, _ in results}, name
        assert not any("NotImplementedError" in text for _, text in results), name


def test_the_command_of_the_page_runs_one_exercise():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "docs/exercises/test_low_frame_rate.py"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NotImplementedError" in done.stdout and "1 passed" not in done.stdout
