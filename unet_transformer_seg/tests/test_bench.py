"""The benchmark: what it measures, what it reports, and what the comparison with PyTorch makes of it."""

import argparse
import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import jax
import pytest

from seg import bench
from seg.config import Config, DataConfig, LossConfig, ModelConfig, ToyConfig, TrainingConfig
from seg.config.reader import override_config
from seg.errors import UserError
from seg.profiling import benchmark as measuring
from seg.profiling.benchmark import PEAK_FLOPS, Measurement

SMALL = Config(
    model=ModelConfig(name="unet", num_classes=3, base_width=8, depth=1),
    data=DataConfig(size=(16, 24), num_threads=0, toy=ToyConfig(num_train=4, num_val=1, num_test=1)),
    loss=LossConfig(name="cross_entropy"),
    training=TrainingConfig(batch_size=2),
)


def load_peer():
    path = Path(__file__).parent / "stress" / "bench_peer.py"
    spec = importlib.util.spec_from_file_location("bench_peer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def convolution_operations(size=(16, 24), batch=2):
    """Multiplications and additions of the small network's convolutions, counted by hand."""
    pixels = batch * size[0] * size[1]
    fine = 9 * (3 * 8 + 8 * 8 + 16 * 8 + 8 * 8) + 8 * 3  # encoder, decoder, classifier
    coarse = 9 * (8 * 16 + 16 * 16) + 16 * 4 * 8  # bottleneck, transposed convolution
    return 2 * pixels * (fine + coarse // 4)


@pytest.mark.parametrize(("mode", "passes"), [("infer", 1), ("train", 3)])
def test_steps_of_a_model_are_timed_and_its_operations_counted(mode, passes):
    found = measuring.measure(SMALL, mode, num_steps=3)
    assert len(found.step_s) == 3
    assert min(found.step_s) > 0 < found.compile_s
    assert found.process_bytes > max(found.bare_bytes, 100e6)
    assert (found.bare_bytes > 0) == (mode == "train")
    image_and_state = 2 * 16 * 24 * 3 + 4 * found.parameters
    assert found.planned_bytes > image_and_state
    expected = passes * convolution_operations()  # the backward pass is two more
    assert found.flops == pytest.approx(expected, rel=0.03)


def test_recomputing_is_not_counted_as_work_of_the_model():
    model = ModelConfig(name="transunet", num_classes=2, remat=True, dtype="bfloat16")
    model = dataclasses.replace(model, transunet=dataclasses.replace(model.transunet, attention="cudnn"))
    plain = measuring.plain_model(model)
    assert (plain.remat, plain.transunet.attention, plain.dtype) == (False, "explicit", "bfloat16")
    small = dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, remat=True))
    placement = measuring.build_placement(small.mesh)
    counts = [measuring.count_train_flops(config, placement) for config in (SMALL, small)]
    assert counts[0] == counts[1] > 0


def test_the_loader_feeds_the_step_of_a_run(monkeypatch):
    taken, iterate = [], measuring.TrainLoader.iterate
    monkeypatch.setattr(measuring.TrainLoader, "iterate", lambda loader: note(taken, iterate(loader)))
    unknown = dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, num_classes=0))
    found = measuring.measure(unknown, "train", num_steps=4, with_input=True)
    assert len(found.step_s) == len(found.fed_s) == 4
    assert len(taken) == 4 + measuring.WARM_UP_STEPS + SMALL.data.prefetch
    assert len({tuple(batch["index"]) for batch in taken}) > 1
    numbers = found.summary()
    assert numbers["fed"]["ratio"] == pytest.approx(sum(found.fed_s) / sum(found.step_s))


def note(taken, batches):
    for batch in batches:
        taken.append(batch)
        yield batch


def test_reading_samples_is_timed_without_a_model():
    found = measuring.measure(SMALL, "input", num_steps=4)
    assert len(found.step_s) == 4
    assert (found.flops, found.parameters, found.compile_s) == (None, 0, 0.0)


def measurement(**changes):
    fields = {
        "mode": "train",
        "batch": 8,
        "compile_s": 3.0,
        "step_s": [2.0] * 18 + [1.0, 40.0],
        "flops": 4e12,
        "parameters": 5,
        "device_bytes": None,
        "process_bytes": 10**9,
    }
    return Measurement(**fields | changes)


def test_the_summary_is_of_the_median_step(monkeypatch):
    monkeypatch.delitem(PEAK_FLOPS, jax.local_devices()[0].device_kind, raising=False)
    numbers = measurement().summary()
    assert (numbers["median_s"], numbers["images_per_s"], numbers["flops_per_s"]) == (2.0, 4.0, 2e12)
    assert 2.0 < numbers["p95_s"] < 40.0
    assert numbers["mfu"] is None  # the peak of this device is not known
    monkeypatch.setitem(PEAK_FLOPS, jax.local_devices()[0].device_kind, 8e12)
    assert measurement().summary()["mfu"] == 0.25
    assert measurement(devices=2).summary()["mfu"] == 0.125
    assert measurement(flops=None).summary()["mfu"] is None


def test_the_ratio_with_the_input_pipeline_is_of_the_mean_steps():
    bursts = measurement(step_s=[2.0] * 4, fed_s=[0.0, 0.0, 0.0, 12.0]).summary()["fed"]  # the median would hide it
    assert (bursts["ratio"], bursts["mean_s"], bursts["images_per_s"]) == (1.5, 3.0, 8 / 3)
    assert measurement().summary()["fed"] is None


def run_bench(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
    return bench.main()


def test_the_command_writes_what_it_prints(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(measuring, "measure", lambda config, mode, steps, with_input: measurement(mode=mode))
    assert run_bench(monkeypatch, "--mode", "infer", "--json", tmp_path / "numbers.json") == 0
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["median_s"] == 2.0
    assert "jax" in str(numbers["environment"])
    printed = capsys.readouterr().out
    assert "median 2000.0 ms" in printed
    assert "compilation 3.0 s" in printed


def test_the_command_prints_both_numbers_with_the_input_pipeline(monkeypatch, capsys):
    asked = []

    def measure(config, mode, steps, with_input):
        asked.append((config.model.num_classes, with_input))
        return measurement(fed_s=[2.5] * 4)

    monkeypatch.setattr(measuring, "measure", measure)
    assert run_bench(monkeypatch, "--with-input") == 0
    assert asked == [(0, True)]  # the classes are those of the data set
    printed = capsys.readouterr().out
    assert "fed by the loader: median 2500.0 ms" in printed
    assert "takes 0.649 times one without" in printed  # 2.5 s, and 3.85 s in the mean


def test_flags_become_settings_and_later_overrides_win(monkeypatch):
    flags = ["--batch", "3", "--size", "32", "48", "--dtype", "bfloat16", "--remat", "model.base_width=16"]
    monkeypatch.setattr(sys, "argv", ["bench", *flags])
    config = bench.read_config(bench.parse_arguments())
    assert (config.training.batch_size, config.data.size, config.model.base_width) == (3, (32, 48), 16)
    assert (config.model.dtype, config.model.remat) == ("bfloat16", True)
    monkeypatch.setattr(sys, "argv", ["bench"])
    config = bench.read_config(bench.parse_arguments())
    assert config == bench.PUBLISHED_UNET
    assert (config.model.base_width, config.model.depth, config.data.size) == (64, 4, (128, 128))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps"),
        (["--batch", "0"], "training.batch_size"),
        (["--mode", "infer", "--with-input"], "--mode train"),
    ],
)
def test_impossible_settings_are_refused(monkeypatch, arguments, message):
    with pytest.raises(UserError, match=message):
        run_bench(monkeypatch, *arguments)


def test_a_result_that_cannot_be_written_is_a_users_mistake(monkeypatch, tmp_path):
    monkeypatch.setattr(measuring, "measure", lambda config, mode, steps, with_input: measurement(mode=mode))
    with pytest.raises(UserError, match="missing"):
        run_bench(monkeypatch, "--json", tmp_path / "missing" / "numbers.json")


def peer_arguments(**changes):
    fields = {"batch": 4, "size": [8, 8], "mode": "train", "dtype": "float32", "steps": 2, "pairs": 3}
    fields |= {"encoder": "plain", "decoder": "unet", "compile": False, "json": None, "torch_only": False}
    fields |= {"peer_python": "python3", "ours": []}
    return argparse.Namespace(**fields | changes)


def test_the_ratio_is_taken_within_each_pair(monkeypatch):
    peer = load_peer()
    seconds = iter([3.0, 2.0, 30.0, 20.0, 5.0, 1.0])  # ours, torch, ours, torch, …: the machine slowed down tenfold
    monkeypatch.setattr(
        peer,
        "run_side",
        lambda side, arguments, file: {
            "median_s": next(seconds),
            "parameters": 7,
            "torch": "2",
            "memory_bytes": 5,
            "environment": {},
        },
    )
    result = peer.compare(peer_arguments())
    assert result["ratio"] == 1.5
    assert result["ours_s"] == (3.0, 30.0, 5.0)
    assert result["settings"]["batch"] == 4 and "peer_python" not in result["settings"]


def test_two_different_networks_are_not_compared(monkeypatch):
    peer = load_peer()
    sizes = {"ours": 7, "torch": 8}
    monkeypatch.setattr(peer, "run_side", lambda side, *_: {"median_s": 1.0, "parameters": sizes[side]})
    with pytest.raises(SystemExit, match="differ"):
        peer.compare(peer_arguments())


def test_both_sides_are_given_the_same_sizes(monkeypatch, tmp_path):
    peer, commands = load_peer(), []

    def run(command, env, **_):
        assert env["OMP_WAIT_POLICY"] == "passive"
        commands.append(command)
        ours, theirs = {"median_s": 2.0, "device_bytes": None, "process_bytes": 5}, {"memory_bytes": 5}
        numbers = {"step_s": [1.0, 3.0, 2.0], **(theirs if "--torch-only" in command else ours)}
        Path(command[command.index("--json") + 1]).write_text(json.dumps(numbers))
        return argparse.Namespace(returncode=0)

    monkeypatch.setattr(peer.subprocess, "run", run)
    for side in ("ours", "torch"):
        asked = peer_arguments(encoder="mit_b0", compile=True, peer_python="other", ours=["model.remat=true"])
        numbers = peer.run_side(side, asked, tmp_path / "numbers.json")
        assert (numbers["median_s"], numbers["memory_bytes"]) == (2.0, 5)
    ours, torch = commands
    assert ours[1:3] == ["-m", "seg.bench"] and "model.encoder=mit_b0" in ours and ours[-1] == "model.remat=true"
    assert torch[0] == "other" and torch[torch.index("--encoder") + 1] == "mit_b0" and "--compile" in torch
    for flag, value in (("--batch", "4"), ("--size", "8"), ("--dtype", "float32"), ("--mode", "train")):
        assert ours[ours.index(flag) + 1] == torch[torch.index(flag) + 1] == value


def test_the_biases_of_keys_may_be_missing(monkeypatch):
    peer = load_peer()
    sizes = {"ours": 7, "torch": 8}
    side = {"median_s": 1.0, "memory_bytes": 1, "environment": {}, "torch": "2"}
    monkeypatch.setattr(peer, "run_side", lambda name, *_: side | {"parameters": sizes[name]})
    assert peer.compare(peer_arguments(encoder="mit_b0"))["ratio"] == 1


def test_our_side_has_the_encoder_as_the_other_library_builds_it():
    peer = load_peer()
    assert peer.encoder_overrides(peer_arguments()) == []
    overrides = peer.encoder_overrides(peer_arguments(encoder="mit_b0", decoder="segformer"))
    model = override_config(bench.PUBLISHED_UNET, overrides).model
    assert (model.encoder, model.decoder, model.encoder_form) == ("mit_b0", "segformer", "smp")


def test_the_torch_network_has_the_published_number_of_parameters():
    torch = pytest.importorskip("torch", reason="only the comparison with PyTorch needs it")
    network = load_peer().build_torch_unet()
    assert sum(p.numel() for p in network.parameters()) == 31_037_698
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 32, 48)).shape == (1, 2, 32, 48)


def test_without_a_config_the_published_network_is_measured():
    model = dataclasses.replace(bench.PUBLISHED_UNET.model, num_classes=2)
    shapes = jax.eval_shape(
        lambda: measuring.build_model(model).init(jax.random.key(0), jax.numpy.zeros((1, 16, 16, 3)), train=False)
    )
    assert measuring.count_parameters(shapes["params"]) == 31_037_698
