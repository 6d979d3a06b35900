"""Training with teachers (`scripts/distill.py`): labels, losses, a run; and what their heads have in common."""

import json
import runpy
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.api import train
from asr.checkpoints import CheckpointStore, restore_variables
from asr.cli import run_command
from asr.config.reader import load_config
from asr.data.frontend import make_train_frontend
from asr.errors import EXIT_UNFINISHED, UserError
from asr.losses import ctc_loss, masked_cross_entropy
from asr.models import init_variables
from asr.ops.masks import length_mask
from asr.record.run_dir import create_run_dir
from asr.training import step
from asr.training.setup import build_setup

SCRIPTS = Path(__file__).parents[1] / "scripts"

SMALL = """
name: small
features: {num_mels: 12, lfr_m: 2, lfr_n: 2}
model:
  ctc_head: true
  sampling_ratio: 0
  encoder: {kind: conv, num_layers: 1, width: 16, num_heads: 2, ffn_width: 32, kernel_size: 3}
  predictor: {append_eos: false}
  decoder: {num_layers: 0, num_ffn_layers: 1, num_heads: 2, ffn_width: 32, kernel_size: 3}
data:
  num_threads: 1
  num_buckets: 1
  toy: {num_train: 8, num_val: 2, num_letters: 4, max_words: 1, max_word_letters: 3}
loss: {ctc_weight: 0.3}
optimizer: {learning_rate: 3e-3, schedule: constant, warmup_fraction: 0}
training: {batch_seconds: 8.5, num_epochs: 2, num_sample_pictures: 0}
"""


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPTS / "distill.py"))


def spelled(*spikes, num_frames=12, vocab_size=6):
    """Return logits float32[1, t, v], sure of the blank except at the spikes, (frame, {token: probability})."""
    p_tv = np.full((num_frames, vocab_size), 1e-9)
    p_tv[:, 0] = 1
    for frame, shares in spikes:
        p_tv[frame, 0] = 1e-9
        for token, share in shares.items():
            p_tv[frame, token] = share
    return jnp.log(jnp.asarray(p_tv, jnp.float32))[None]


def test_a_teacher_labels_a_token_wherever_it_writes_it(script):
    transcript = jnp.array([12]), jnp.array([[1, 1, 2, 0]]), jnp.array([3])
    # Of the first, what is not blank counts. The second is a mistake, which is what the teacher would write.
    doubts = {1: 0.7, 3: 0.2, 0: 0.1}, {1: 0.4, 4: 0.6}, {2: 1.0}
    expected_uv = [[0, 7 / 9, 0, 2 / 9, 0, 0], [0, 0.4, 0, 0, 0.6, 0], [0, 0, 1, 0, 0, 0], [0] * 6]
    label = jax.jit(script["token_labels"])
    for frames in ((1, 4, 7), (3, 8, 11)):
        labels_buv = label(spelled(*zip(frames, doubts, strict=True)), *transcript)
        np.testing.assert_allclose(labels_buv[0], expected_uv, atol=1e-4)


def test_labels_without_doubt_have_the_gradient_of_the_losses(script):
    of_frames, of_tokens = jax.random.split(jax.random.key(0))
    logits_btv, logits_buv = 3 * jax.random.normal(of_frames, (3, 14, 7)), jax.random.normal(of_tokens, (3, 4, 7))
    lengths_b, token_lengths_b = jnp.array([14, 9, 0]), jnp.array([4, 2, 0])
    tokens_bu = jnp.array([[1, 1, 2, 3], [4, 5, 0, 0], [0, 0, 0, 0]])
    labels_buv = jax.nn.one_hot(tokens_bu, 7) * length_mask(token_lengths_b, 4)[..., None]
    expected_btv = jax.jit(jax.grad(ctc_loss))(logits_btv, lengths_b, tokens_bu, token_lengths_b)
    found_btv = jax.jit(jax.grad(script["soft_ctc"]))(logits_btv, lengths_b, tokens_bu, token_lengths_b, labels_buv)
    assert jnp.abs(expected_btv).max() > 0.5
    np.testing.assert_allclose(found_btv, expected_btv, atol=1e-5)
    expected = masked_cross_entropy(logits_buv, tokens_bu, token_lengths_b)
    assert script["soft_cross_entropy"](logits_buv, labels_buv) == pytest.approx(float(expected), rel=1e-5)


def test_what_padding_holds_reaches_no_gradient(script):
    logits_btv = jnp.full((1, 6, 4), jnp.nan).at[:, :4].set(jax.random.normal(jax.random.key(0), (1, 4, 4)))
    target = jnp.array([4]), jnp.array([[1, 9]]), jnp.array([1])
    labels_buv = jax.jit(script["token_labels"])(logits_btv, *target)
    gradient_btv = jax.jit(jax.grad(script["soft_ctc"]))(logits_btv, *target, labels_buv)
    assert np.isfinite(labels_buv).all() and np.isfinite(gradient_btv).all()
    assert not gradient_btv[:, 4:].any() and not labels_buv[:, 1:].any()


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(SMALL + f"runs_dir: {tmp_path / 'runs'}\n")
    return path


@pytest.fixture
def untrained(config, tmp_path):
    """Return a function that makes a run whose network is as it was initialised."""

    def make(number, *overrides):
        setup = build_setup(load_config(config, [*overrides, f"runs_dir={tmp_path / f'teacher{number}'}"]))
        run = create_run_dir(setup.config, setup.tokenizer, setup.cmvn)
        variables = init_variables(setup.model, setup.config.model.input_dim, jax.random.key(number))
        CheckpointStore(run.checkpoints).save(1, variables, {}, [1.0])
        return run.path

    return make


@pytest.fixture
def distill(config, script, monkeypatch, capsys):
    """Return a function that calls the script and returns what it printed."""

    def run(teachers, *arguments, code=0):
        options = [option for folder in teachers for option in ("--teacher", folder)]
        start = () if "--resume" in arguments else ("--config", config)
        words = "distill.py", *options, "--average", 1, *start, *arguments
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        with pytest.raises(SystemExit) as end:
            run_command(script["main"])
        printed = "".join(capsys.readouterr())
        assert end.value.code == code and "Traceback" not in printed, printed
        return printed

    return run


def test_a_run_is_recorded_like_any_other_with_tokens_and_normalisation_of_its_teachers(distill, untrained, tmp_path):
    teachers = [untrained(1), untrained(2)]
    distill(teachers, "data.toy.num_letters=3", "data.toy.num_train=12")  # of which both would be different
    (run,) = (tmp_path / "runs").iterdir()
    assert str(teachers[1]) in json.loads((run / "environment.json").read_text())["command"]
    assert restore_variables(run / "checkpoints", "last", 1)
    for name in ("tokenizer.json", "cmvn.txt"):
        assert (run / name).read_bytes() == (teachers[0] / name).read_bytes()


def test_a_stopped_run_resumes_with_its_teachers_only(distill, untrained, tmp_path):
    teachers, others = [untrained(1), untrained(2)], [untrained(3, "data.toy.num_train=12")]
    distill(teachers, "--max-minutes", "0", "training.num_epochs=3", code=EXIT_UNFINISHED)
    (run,) = (tmp_path / "runs").iterdir()
    named = " ".join(f"--teacher {folder}" for folder in teachers)
    printed = distill(teachers, "--max-minutes", "0", "--resume", run, code=EXIT_UNFINISHED)
    assert f"resume with: python distill.py {named} --weight 1.0 --average 1 --resume {run}" in printed
    assert "its normalisation of the features" in distill(others, "--resume", run, code=2)
    with pytest.raises(UserError, match="loss.name: custom"):
        train(resume=run)
    assert "finished" in distill(teachers, "--resume", run)


def test_each_step_learns_from_one_of_the_teachers(script, config, untrained):
    setup = build_setup(load_config(config))
    frontend = make_train_frontend(setup.config.features, setup.config.data, setup.cmvn)
    batch = setup.put_batch(setup.loader.batch_at(0))
    counts, params = step.split_into_parts(1, batch, jax.random.key(0))[0], setup.init().params
    first, second = (script["Teachers"].load([untrained(number)], 1) for number in (1, 2))
    first_and_second = script["Teachers"]([*first.folders, *second.folders], [*first.parts, *second.parts])
    keys = jax.random.split(jax.random.key(0), 8)

    def losses(teachers, *weights):
        @jax.jit
        def loss(weight, key):
            objective = script["make_distilling_objective"](teachers, weight)(setup.model, frontend, setup.config)
            return objective(params, batch, counts, key)[0]

        return np.array([[loss(weight, key) for key in keys] for weight in weights])

    without, one, twice = losses(first, 0.0, 1.0, 2.0)
    (other,), (both,) = losses(second, 1.0), losses(first_and_second, 1.0)
    np.testing.assert_allclose(twice - one, one - without, rtol=1e-4)
    assert (one > without + 0.1).all() and (abs(one - other) > 1e-4).all()
    of_first, of_second = np.isclose(both, one, rtol=1e-5), np.isclose(both, other, rtol=1e-5)
    assert (of_first ^ of_second).all() and of_first.any() and of_second.any()


def test_teachers_that_do_not_fit_are_refused(distill, untrained, tmp_path):
    teacher, wide = untrained(1), untrained(2, "model.encoder.ffn_width=48")
    headless = untrained(3, "model.ctc_head=false", "loss.ctc_weight=0")
    other = untrained(4, "model.sampling_ratio=0.5")  # a setting that no array shows
    streaming = untrained(5, "model.name=streaming", "model.streaming.chunk_size=[2,4,2]", "model.encoder.kind=sanm")
    renamed = untrained(7)
    tokens = renamed / "tokenizer.json"
    tokens.write_text(tokens.read_text().replace('"a"', '"x"'))
    for teachers, arguments, message in (
        ([], (), "the following arguments are required: --teacher"),
        ([teacher, wide], (), f"{wide}: its arrays are not those of {teacher}"),
        ([teacher, other], (), f"{other}: its settings of model are not those of {teacher}"),
        ([streaming], (), "expected a model of the kind paraformer, found streaming"),
        ([headless], (), f"{headless}: a teacher needs a CTC head"),
        ([teacher], ("model.ctc_head=false", "loss.ctc_weight=0"), "a student needs model.ctc_head=true"),
        ([teacher], ("features.lfr_n=1",), "features.lfr_n differ"),
        ([teacher], ("features.cmvn=none",), "its normalisation of the features"),
        ([teacher, untrained(6, "data.toy.num_train=12")], (), "its normalisation of the features"),
        ([teacher, renamed], (), f"{renamed}: its tokens are not those of this run"),
        ([teacher], ("--max-minutes", "-1"), "max_minutes: expected a number of minutes, at least 0, found -1.0"),
        ([teacher], ("--weight", "nan"), "--weight: expected a positive number, found nan"),
        ([tmp_path / "none"], (), "none: expected a run directory"),
    ):
        assert message in distill(teachers, *arguments, code=2)
    assert not (tmp_path / "runs").exists()


def test_heads_are_compared_frame_by_frame(untrained, monkeypatch, capsys):
    script = runpy.run_path(str(SCRIPTS / "compare_heads.py"))
    assert script["count_common"](np.array([[0, 3, 0, 4, 4], [5, 3, 0, 4, 0], [0, 3, 0, 4, 4]])) == (2, 3)
    runs = [untrained(1), untrained(2)]

    def compare(*folders, code=0):
        words = ["compare_heads.py", *(word for folder in folders for word in ("--run", folder)), "--average", 1]
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        with pytest.raises(SystemExit) as end:
            run_command(script["main"])
        assert end.value.code == code
        return "".join(capsys.readouterr())

    first, *rates = compare(runs[0], runs[0]).splitlines()
    assert first.startswith("100.0% of the ") and rates[-1].startswith("mean of the probabilities: ")
    assert len({rate.rpartition(": ")[2] for rate in rates}) == 1  # the mean of two equal heads is that head
    assert not compare(*runs).startswith("100.0%")
    assert "--run twice or more" in compare(runs[0], code=2)
    headless = untrained(3, "model.ctc_head=false", "loss.ctc_weight=0")
    assert f"{headless}: its model has no CTC head" in compare(runs[0], headless, code=2)
    fine = untrained(5, "features.lfr_n=1")
    assert "different sample rates or frames" in compare(runs[0], fine, code=2)
    assert "write different tokens" in compare(runs[0], untrained(4, "data.toy.num_letters=3"), code=2)
