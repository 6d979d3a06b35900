"""Checkpoints: what is saved comes back bit for bit, and whatever is not as it was saved is found and named."""

import collections
import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from seg.checkpoints import CheckpointStore, restore_variables
from seg.checkpoints.manifest import MANIFEST, DamagedCheckpointError, read_manifest, verify_files, write_manifest
from seg.errors import UserError
from seg.training.state import TrainState

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


def make_state(step=1, width=3, dtype=jnp.float32, ema=True, batch_norm=True, name="head"):
    """Return a small state; its optimizer's part has scalars and nodes without arrays."""
    params = {name: {"kernel": jnp.full((2, width), step / 3, dtype), "scale": jnp.asarray(step / 7, dtype)}}
    stats = {"norm": {"mean": jnp.full((width,), step, jnp.float32)}} if batch_norm else {}
    averaged = jax.tree.map(lambda x: x + 100, (params, stats)) if ema else (None, None)
    return TrainState(jnp.int32(step), params, stats, OPTIMIZER.init(params), *averaged)


def abstract(state, sharding=None):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def save(store, *steps, best=()):
    for step in steps:
        store.save(step, make_state(step), {"epoch": step}, best=step in best)


def restored_step(store, which="last"):
    return int(store.restore(abstract(make_state()), which)[0].step)


def files_of(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def contents(folder):
    return {path: path.read_bytes() for path in files_of(folder)}


@pytest.fixture(autouse=True)
def messages_reach_caplog(caplog):
    caplog.set_level(logging.WARNING, "seg")


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints", keep=2)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A folder with good checkpoints of steps 1 and 2, to be copied, not changed."""
    store = CheckpointStore(tmp_path_factory.mktemp("two") / "checkpoints")
    save(store, 1, 2)
    return store.directory


@pytest.fixture
def copy(two_steps, tmp_path):
    shutil.copytree(two_steps, tmp_path / "checkpoints")
    return CheckpointStore(tmp_path / "checkpoints")


# --- what is saved comes back ---


@pytest.mark.parametrize("ema", [True, False])
def test_what_is_saved_comes_back(store, ema):
    state, progress = make_state(7, ema=ema), {"epoch": 3, "best_iou": 0.1 + 0.2, "note": None, "ü": [1, "x"]}
    store.save(7, state, progress, best=True)
    restored, restored_progress = store.restore(abstract(state))
    assert_same(restored, state)
    assert restored_progress == progress


def test_arrays_are_placed_as_asked_for(copy):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    for sharding in (NamedSharding(mesh, PartitionSpec()), jax.sharding.SingleDeviceSharding(jax.devices()[0])):
        state, _ = copy.restore(abstract(make_state(), sharding))
        assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(state))


def test_the_memory_of_a_restored_state_can_be_taken_over(store):
    """Being deleted is not enough: views of host buffers are deleted too, and the memory doubles all the same."""
    state = {"params": {f"a{i}": jax.device_put(np.full((64, 1 + i), i, np.float32)) for i in range(8)}}
    store.save(1, state, {}, best=False)
    restored, _ = store.restore(abstract(state))
    addresses = lambda tree: [x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree)]  # noqa: E731
    before = addresses(restored)
    updated = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)(restored)
    assert addresses(updated) == before
    assert all(x.is_deleted() for x in jax.tree.leaves(restored))


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("ema", [True, False])
def test_inference_reads_the_weights_that_predict_and_nothing_else(store, monkeypatch, ema, batch_norm):
    state = make_state(1, ema=ema, batch_norm=batch_norm)
    store.save(1, state, {}, best=True)
    asked, read = [], ocp.Checkpointer.restore

    def restore(self, folder, *, args):
        asked.extend(args.item)
        return read(self, folder, args=args)

    monkeypatch.setattr(ocp.Checkpointer, "restore", restore)
    assert_same(restore_variables(store.directory), state.variables)
    prefix = "ema_" if ema else ""
    assert set(asked) == {prefix + "params"} | ({prefix + "batch_stats"} if batch_norm else set())


# --- damage ---


def test_every_flipped_bit_is_found_and_its_file_named(copy, caplog):
    draw, folder = random.Random(0), copy.directory / "step_00000002"
    for path, content in contents(folder).items():
        for position in {0, len(content) - 1, *(draw.randrange(len(content)) for _ in range(30))}:
            flipped = bytes([content[position] ^ 1 << draw.randrange(8)])
            path.write_bytes(content[:position] + flipped + content[position + 1 :])
            with pytest.raises(DamagedCheckpointError) as error:
                verify_files(folder, read_manifest(folder))
            assert str(path) in str(error.value), position
        caplog.clear()
        assert restored_step(copy) == 1 and str(path) in caplog.text
        path.write_bytes(content)
    assert restored_step(copy) == 2


@pytest.mark.parametrize("damage", ["truncated", "deleted", "empty", "a folder"])
def test_missing_and_truncated_files_are_named(copy, caplog, damage):
    for path, content in contents(copy.directory / "step_00000002").items():
        path.unlink()
        if damage == "a folder":
            path.mkdir()
        elif damage != "deleted":
            path.write_bytes(content[:-1] if damage == "truncated" else b"")
        caplog.clear()
        assert restored_step(copy) == 1
        assert str(path) in caplog.text
        path.rmdir() if damage == "a folder" else path.unlink(missing_ok=True)
        path.write_bytes(content)
    assert restored_step(copy) == 2


def test_a_surplus_file_is_named_and_does_no_harm(copy, caplog):
    (copy.directory / "step_00000002" / "arrays" / ".DS_Store").write_text("x")
    assert restored_step(copy) == 2
    assert "arrays/.DS_Store" in caplog.text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"details": 1, "files": []}', "[" * 100_000, "\x00", "NaN"])
def test_a_manifest_that_is_none_is_named(copy, caplog, content):
    path = copy.directory / "step_00000002" / MANIFEST
    path.write_text(content)
    assert copy.steps() == [1] and restored_step(copy) == 1
    assert str(path) in caplog.text


def test_without_a_good_checkpoint_it_is_an_error(copy, tmp_path):
    for path in copy.directory.glob("*/arrays/manifest.ocdbt"):
        path.unlink()
    with pytest.raises(UserError, match="no checkpoint is intact"):
        restored_step(copy)
    with pytest.raises(UserError, match="no checkpoint is intact"):
        restore_variables(copy.directory)
    with pytest.raises(UserError, match="nowhere: there is no checkpoint"):
        restore_variables(tmp_path / "nowhere")


def test_a_step_asked_for_by_number_is_never_replaced_by_another(copy):
    assert restored_step(copy, 1) == 1
    (copy.directory / "step_00000002/arrays/manifest.ocdbt").unlink()
    with pytest.raises(UserError, match="step 2 is missing or damaged; intact steps: 1$"):
        restored_step(copy, 2)
    with pytest.raises(UserError, match="step 3 is missing or damaged; intact steps: 1, 2$"):
        restored_step(copy, 3)


def test_what_is_written_about_a_folder_reads_back(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 1000)
    write_manifest(tmp_path, {10: "number keys become texts", 9: [1.5, None], "shape": (1, 2)})
    manifest = read_manifest(tmp_path)
    assert manifest.details == {"10": "number keys become texts", "9": [1.5, None], "shape": [1, 2]}
    assert manifest.files["file"]["size"] == 1000 and verify_files(tmp_path, manifest) == []


# --- another model ---


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        ({"width": 4}, "params/head/kernel: expected float32[2, 4], found float32[2, 3]"),
        ({"dtype": jnp.bfloat16}, "params/head/scale: expected bfloat16[], found float32[]"),
        ({"name": "tail"}, "params/tail/kernel: expected float32[2, 3], found no such array"),
        ({"ema": False}, "ema_params/head/kernel: expected no such array, found float32[2, 3]"),
    ],
)
def test_another_model_is_refused_with_the_difference(copy, other, shown):
    with pytest.raises(UserError, match="different model") as error:
        copy.restore(abstract(make_state(**other)))
    assert shown in str(error.value)


def test_a_long_difference_is_cut_after_ten(store):
    store.save(1, {"params": {f"a{i}": jnp.zeros(1) for i in range(25)}}, {}, best=False)
    with pytest.raises(UserError, match="and 15 more") as error:
        store.restore({"params": {f"a{i}": jax.ShapeDtypeStruct((2,), jnp.float32) for i in range(25)}})
    assert str(error.value).count(": expected ") == 10


# --- what stays ---


def test_the_newest_and_the_best_stay(store):
    save(store, 1, 2, 3, 4, 5, best=(1, 2))
    assert store.steps() == [2, 4, 5]
    assert sorted(p.name for p in store.directory.iterdir()) == [f"step_0000000{s}" for s in (2, 4, 5)]
    assert [restored_step(CheckpointStore(store.directory), which) for which in ("best", "last", 4)] == [2, 5, 4]


def test_a_damaged_best_falls_back_to_the_newest(store, caplog):
    save(store, 1, 2, 3, best=(1,))
    bad = store.directory / "step_00000001/arrays/manifest.ocdbt"
    bad.write_bytes(b"")
    assert restored_step(store, "best") == 3 and str(bad) in caplog.text
    (bad.parents[1] / MANIFEST).write_bytes(b"")
    assert restored_step(store, "best") == 3
    assert restore_variables(store.directory)["params"]["head"]["kernel"].shape == (2, 3)


def test_a_run_that_goes_on_before_a_damaged_checkpoint_keeps_its_new_ones(tmp_path):
    """With damaged newer ones counted among the newest, the one just saved would be removed."""
    store = CheckpointStore(tmp_path, keep=1)
    for step in (10, 30):
        CheckpointStore(tmp_path, keep=9).save(step, make_state(step), {}, best=False)
    (tmp_path / "step_00000030/arrays/manifest.ocdbt").write_bytes(b"")
    assert restored_step(store) == 10
    save(store, 20)
    assert store.steps() == [20] and restored_step(store) == 20
    save(store, 30)
    assert store.steps() == [30] and restored_step(store) == 30


def test_the_same_step_can_be_saved_again(copy):
    copy.save(2, make_state(2), {"epoch": "again"}, best=True)
    assert copy.restore(abstract(make_state()))[1] == {"epoch": "again"}
    assert len(list(copy.directory.iterdir())) == 2


# --- a save that does not come to its end ---


def test_leftovers_of_killed_saves_do_not_count_and_are_removed(copy):
    for name in ("unfinished_step_00000003", "unfinished_removal_step_00000001"):
        shutil.copytree(copy.directory / "step_00000002", copy.directory / name)
    (copy.directory / "unfinished_step_00000003" / MANIFEST).unlink()
    assert copy.steps() == [1, 2] and restored_step(copy) == 2
    save(copy, 3)
    assert copy.steps() == [2, 3] and len(list(copy.directory.iterdir())) == 2


def test_a_full_disk_is_noticed_before_writing(copy, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    state = {"params": {"a": jnp.zeros(1_000_000, jnp.float32)}}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 8_900_000))
    before = contents(copy.directory)
    with pytest.raises(UserError, match=r"needs 9\.0 MB of free disk space .*found 8\.9 MB.*intact"):
        copy.save(3, state, {}, best=False)
    assert contents(copy.directory) == before
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 9_000_000))
    copy.save(3, state, {}, best=False)
    assert copy.steps() == [2, 3]


def test_a_disk_that_is_full_in_the_middle_leaves_the_earlier_ones(copy, monkeypatch):
    def save_half(self, folder, *, args):
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    before = contents(copy.directory)
    monkeypatch.setattr(ocp.Checkpointer, "save", save_half)
    with pytest.raises(UserError, match="step_00000003: .*No space left on device.*intact"):
        save(copy, 3)
    assert contents(copy.directory) == before and restored_step(copy) == 2


def test_what_the_storage_layer_says_of_a_refusing_disk_is_understood(copy, capfd):
    """A real refusal: the process may not write files beyond 100 kB. It arrives as a ValueError, not an OSError."""
    state = {"params": {"a": jnp.asarray(np.random.default_rng(0).normal(size=100_000), jnp.float32)}}
    before, limits = contents(copy.directory), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(UserError, match="step_00000003: .*File too large.*intact"):
            copy.save(3, state, {}, best=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(copy.directory) == before
    assert "Traceback" not in capfd.readouterr().err
    copy.save(3, state, {}, best=False)


SAVER = """
import os, sys
import jax.numpy as jnp
from pathlib import Path
from seg.checkpoints import CheckpointStore

for directory in sys.stdin:  # one process for each line, after one import for all
    if child := os.fork():
        os.waitpid(child, 0)
        print("gone", flush=True)
        continue
    store = CheckpointStore(Path(directory.strip()), keep=2)
    first = max(store.steps(), default=0) + 1
    for step in range(first, first + 10_000):
        arrays = {"a": jnp.full((200, 200), step), "b": jnp.full((7,), step)}
        store.save(step, {"params": arrays}, {"step": step}, best=step == 3)
        print(os.getpid(), step, flush=True)
"""


@pytest.mark.slow
def test_sigkill_at_any_moment_leaves_a_good_checkpoint(tmp_path, caplog):
    """Five kills of one run, each process going on where the one before was killed."""
    draw, saved = random.Random(0), 0
    state = {"params": {"a": jax.ShapeDtypeStruct((200, 200), jnp.int32), "b": jax.ShapeDtypeStruct((7,), jnp.int32)}}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SAVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as saver:
        for _ in range(5):
            print(tmp_path, file=saver.stdin, flush=True)
            child, saved = map(int, saver.stdout.readline().split())
            time.sleep(draw.uniform(0, 0.3))
            os.kill(child, signal.SIGKILL)
            while (line := saver.stdout.readline().split()) != ["gone"]:
                saved = int(line[1])
            restored, progress = CheckpointStore(tmp_path).restore(state)
            assert progress["step"] in (saved, saved + 1)
            assert all((leaf == progress["step"]).all() for leaf in jax.tree.leaves(restored))
            assert CheckpointStore(tmp_path).restore(state, "best")[1]["step"] == min(3, progress["step"])
        saver.stdin.close()
    assert not caplog.records, "a killed process must not leave anything that looks damaged"
    CheckpointStore(tmp_path).save(saved + 2, {"params": {"a": jnp.zeros(1)}}, {}, best=False)
    assert not list(tmp_path.glob("unfinished_*"))
    assert json.loads((tmp_path / "step_00000003" / MANIFEST).read_text())["details"]["best"]


def test_a_run_directory_that_vanished_is_not_made_anew(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(UserError, match=f"{run}: the folder is gone"):
        CheckpointStore(run / "checkpoints").save(1, {"a": jax.numpy.zeros(2)}, {}, best=True)
    assert not run.exists()
