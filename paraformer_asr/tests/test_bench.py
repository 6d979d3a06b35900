"""The benchmark: what it measures, what it reports, and what the comparison with PyTorch makes of it."""

import argparse
import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from asr import bench
from asr.config import Config, DataConfig, DecoderConfig, EncoderConfig, FeaturesConfig, ModelConfig, ToyConfig
from asr.data import build_dataset
from asr.data.frontend import make_frontend, num_feature_frames
from asr.data.loader import TrainLoader
from asr.data.text.building import choose_tokenizer
from asr.errors import UserError
from asr.inference.shapes import Shape
from asr.profiling import benchmark as measuring
from asr.profiling import measurement as measured
from asr.profiling import random_model as untrained
from asr.profiling.flops import count_flops
from asr.profiling.measurement import BatchSize, Measurement
from asr.training.sharding import build_placement

SMALL = Config(
    features=FeaturesConfig(num_mels=8, lfr_m=1, lfr_n=2),
    model=ModelConfig(
        vocab_size=50,
        encoder=EncoderConfig(num_layers=1, width=32, num_heads=2, ffn_width=64, kernel_size=3, dropout=0.0),
        decoder=DecoderConfig(num_layers=1, num_ffn_layers=0, num_heads=2, ffn_width=64, kernel_size=3, dropout=0.0),
    ),
    data=DataConfig(num_threads=0, num_buckets=1, toy=ToyConfig(num_train=4, max_words=1)),
)
SIZE = BatchSize(utterances=2, seconds=1.0, tokens=10)


def load_peer():
    path = Path(__file__).parent / "stress" / "bench_peer.py"
    spec = importlib.util.spec_from_file_location("bench_peer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def product_operations():
    """Multiplications and additions of the network's matrix products, counted by hand: encoder side, decoder side."""
    d, f, frames, tokens = 32, 64, SIZE.utterances * 49, SIZE.utterances * 10
    attention = 2 * frames * 49 * d  # scores, and the weighted sum
    encoder = frames * (8 * 3 * d + d * d + 2 * d * f) + attention
    predictor = frames * (3 * d * d + d)
    cross = tokens * 2 * d * d + frames * 2 * d * d + 2 * tokens * 49 * d
    decoder = tokens * 49 * d + tokens * 2 * d * f + cross + tokens * d * 50  # integrate-and-fire first
    return 2 * (encoder + predictor), 2 * decoder


@pytest.mark.parametrize(("mode", "passes"), [("infer", (1, 1)), ("train", (3, 4))])
def test_steps_of_a_model_are_timed_and_its_operations_counted(mode, passes):
    found = measuring.measure(SMALL, SIZE, mode, num_steps=3)
    assert len(found.step_s) == 3
    assert min(found.step_s) > 0 < found.compile_s
    assert (found.batch, found.audio_s) == (2, 2.0)
    assert found.process_bytes > 100e6
    assert found.planned_bytes > 4 * found.parameters
    batch = measuring._random_batch(SMALL, SIZE)
    front_end = count_flops(make_frontend(SMALL.features, None), batch["wave"], batch["wave_lengths"])
    # Backward is two more; the sampler's first pass is a forward one.
    encoder, decoder = product_operations()
    assert found.flops - front_end == pytest.approx(passes[0] * encoder + passes[1] * decoder, rel=0.05)


def test_loops_and_recomputation_do_not_change_the_counted_operations():
    deeper = ["model.encoder.num_layers=3"]
    in_loops = [*deeper, "model.encoder.scan=true", "model.remat=true", "training.accumulate=2"]
    flops = [count_flops(*counted(bench.override_config(SMALL, settings))) for settings in (deeper, in_loops)]
    assert flops[0] == flops[1] > count_flops(*counted(SMALL))


def counted(config):
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, input_dim=8))
    plain = measuring._plain(config)
    params = jax.eval_shape(lambda: measuring._init_params(plain))
    batch = measuring._random_batch(plain, SIZE)
    return measuring._make_transcribe(plain, 10), {"params": params}, batch["wave"], batch["wave_lengths"]


def test_reading_sound_is_timed_without_a_model():
    found = measuring.measure(SMALL, SIZE, "input", num_steps=4)
    assert len(found.step_s) == 4
    assert (found.flops, found.parameters, found.compile_s) == (None, 0, 0.0)
    assert found.batch == 4 and 0.5 < found.audio_s < 10


class FakeTraining(measuring._Training):
    """Steps that compute next to nothing and are compiled at once; notes what they are called with."""

    def __init__(self, config):
        self.placement, self.state = build_placement(config.mesh), SimpleNamespace(params=np.zeros(7))
        self.seen = []

    def compile(self, batch):
        return SimpleNamespace(shape=batch["wave"].shape, memory_analysis=lambda: None), 1.5

    def run(self, step, batch):
        assert step.shape == batch["wave"].shape
        self.seen.append(batch)
        return {"loss": batch["wave"].sum()}

    def flops(self, batch):
        return float(batch["wave"].size)


def test_training_is_timed_with_and_without_its_input(monkeypatch):
    """The same steps: each shape as often, with the sound and the operations of its batches."""
    made = []
    monkeypatch.setattr(measuring, "_Training", lambda config: made.append(FakeTraining(config)) or made[0])
    settings = ["data.num_buckets=2", "data.toy.num_train=8", "training.batch_seconds=4", "data.toy.max_words=2"]
    config = bench.override_config(SMALL, settings)
    found = measuring.measure(config, SIZE, "train", num_steps=5, with_input=True)
    assert len(found.step_s) == len(found.resident_s) == 5
    num_steps = measuring.WARM_UP_STEPS + 5
    (training,) = made
    fed, resident = training.seen[:num_steps], training.seen[num_steps:]
    shapes = [batch["wave"].shape for batch in fed]
    assert len(set(shapes)) == 2 and shapes == [batch["wave"].shape for batch in resident]
    assert len({id(batch) for batch in fed}) == num_steps
    assert len({id(batch) for batch in resident}) == 2  # one for each shape: nothing is read or sent any more
    dataset = build_dataset(config, "train")
    expected = TrainLoader(dataset, choose_tokenizer(config, dataset.texts()), config)
    batches = [expected.batch_at(step % expected.num_steps) for step in range(num_steps)]
    for batch, other in zip(batches, fed, strict=True):
        np.testing.assert_array_equal(batch["wave"], other["wave"])
    counted = batches[measuring.WARM_UP_STEPS - 1 :][:5]
    assert found.audio_s == pytest.approx(np.mean([batch["wave_lengths"].sum() / 16000 for batch in counted]))
    assert found.batch == pytest.approx(np.mean([np.count_nonzero(batch["wave_lengths"]) for batch in counted]))
    assert found.flops == pytest.approx(np.mean([batch["wave"].size for batch in counted]))
    assert (found.compile_s, found.parameters, found.num_devices) == (3.0, 7, 1)
    numbers = found.summary()
    assert numbers["input_ratio"] == pytest.approx(sum(found.step_s) / sum(found.resident_s))
    assert numbers["audio_s_per_s"] == pytest.approx(found.audio_s / np.mean(found.step_s))


def test_a_transcriber_is_given_one_batch_again_and_again(monkeypatch):
    calls = []

    class Transcriber:
        variables = {"params": np.zeros(7)}

        def warm_up(self, shapes):
            calls.append(shapes)

        def recognise_many(self, items):
            calls.append([wave.shape for _, wave in items])
            return iter(calls[-1])

    def build(config):
        calls.append(config.inference.batch_size)
        return Transcriber()

    monkeypatch.setattr(untrained, "build_untrained_transcriber", build)
    found = bench.measure_transcriber(SMALL, SIZE, num_steps=4)
    assert calls[:2] == [2, [Shape(2, 16000)]]
    assert calls[2:] == [[(16000,), (16000,)]] * (bench.WARM_UP_STEPS + 1 + 4)
    assert (found.mode, found.batch, found.audio_s, len(found.step_s)) == ("transcribe", 2, 2.0, 4)
    assert found.parameters == 7 and min(found.step_s) > 0


def test_a_batch_that_the_parts_do_not_divide_is_refused(monkeypatch):
    monkeypatch.setattr(measuring, "_Training", FakeTraining)
    config = bench.override_config(SMALL, ["training.accumulate=2"])
    with pytest.raises(UserError, match="--batch 3: expected a multiple of the number of devices, 1, times"):
        measuring.measure(config, BatchSize(utterances=3), "train", 1)


def test_the_front_end_is_timed_alone():
    found = measuring.measure(SMALL, SIZE, "frontend", num_steps=2)
    assert (found.flops, found.parameters, found.audio_s) == (None, 0, 2.0)
    assert found.compile_s > 0


def measurement(**changes):
    fields = {
        "mode": "train",
        "batch": 8,
        "audio_s": 64.0,
        "compile_s": 3.0,
        "step_s": [2.0] * 18 + [1.0, 40.0],
        "flops": 4e12,
        "parameters": 5,
        "device_bytes": None,
        "process_bytes": 10**9,
    }
    return Measurement(**fields | changes)


def test_the_summary_is_of_the_median_step(monkeypatch):
    numbers = measurement().summary()
    assert (numbers["median_s"], numbers["audio_s_per_s"], numbers["flops_per_s"]) == (2.0, 32.0, 2e12)
    assert 2.0 < numbers["p95_s"] < 40.0
    assert numbers["mfu"] is None  # the peak of this device is not known
    monkeypatch.setitem(measured.PEAK_FLOPS, jax.local_devices()[0].device_kind, 8e12)
    assert measurement().summary()["mfu"] == 0.25
    assert measurement(num_devices=2).summary()["mfu"] == 0.125  # the operations are of both
    assert measurement(flops=None).summary()["mfu"] is None


def run_bench(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
    return bench.main()


def test_the_command_writes_what_it_prints(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(measuring, "measure", lambda config, size, mode, *rest: measurement(mode=mode))
    assert run_bench(monkeypatch, "--mode", "infer", "--json", tmp_path / "numbers.json") == 0
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["median_s"] == 2.0
    assert "jax" in str(numbers["environment"])
    printed = capsys.readouterr().out
    for part in ("infer: 20 steps of 8 utterances, 64 s of sound", "median 2000.0 ms", "32.0 × real time"):
        assert part in printed
    assert "compilation 3.0 s" in printed


def test_sizes_reach_the_measurement(monkeypatch):
    asked = []
    monkeypatch.setattr(measuring, "measure", lambda *given: asked.append(given) or measurement())
    run_bench(monkeypatch, "--batch", 3, "--seconds", 2.5, "--tokens", 7, "--steps", 4)
    run_bench(monkeypatch, "--with-input")
    (config, *sizes), (_, *defaults) = asked
    assert sizes == [BatchSize(3, 2.5, 7), "train", 4, False]
    assert config.training.batch_seconds == 7.5
    assert defaults == [BatchSize(8, 8.0, 32), "train", 50, True]


def test_both_numbers_and_their_ratio_are_printed(monkeypatch, capsys):
    monkeypatch.setattr(measuring, "measure", lambda *given: measurement(resident_s=[2.0] * 20))
    run_bench(monkeypatch, "--with-input")
    printed = capsys.readouterr().out
    assert "16.6 × real time" in printed and "32.0 × real time" in printed  # 77 s with input, 40 s without
    assert "1.925 of that without" in printed
    with pytest.raises(UserError, match="--with-input: expected --mode train, found infer"):
        run_bench(monkeypatch, "--with-input", "--mode", "infer")


def test_flags_become_settings_and_later_overrides_win(monkeypatch):
    flags = ["--dtype", "bfloat16", "--remat", "--scan", "--attention", "xla", "model.encoder.width=64"]
    monkeypatch.setattr(sys, "argv", ["bench", *flags])
    model = bench.read_config(bench.parse_arguments()).model
    assert (model.dtype, model.remat, model.encoder.scan, model.encoder.attention) == ("bfloat16", True, True, "xla")
    assert model.encoder.width == 64
    monkeypatch.setattr(sys, "argv", ["bench"])
    model = bench.read_config(bench.parse_arguments()).model
    assert model == bench.SMALL_PARAFORMER.model
    encoder, decoder = model.encoder, model.decoder
    assert (encoder.num_layers, encoder.width, encoder.num_heads, encoder.ffn_width) == (12, 256, 4, 2048)
    assert (encoder.kernel_size, decoder.kernel_size, encoder.dropout) == (11, 11, 0.1)
    assert (decoder.num_layers, decoder.num_ffn_layers, model.vocab_size, model.ctc_head) == (6, 1, 4233, False)


@pytest.mark.parametrize(
    "arguments",
    [["--steps", "0"], ["--batch", "0"], ["--seconds", "0"], ["--tokens", "0"], ["--seconds", "nan"]],
)
def test_impossible_sizes_are_refused(monkeypatch, arguments):
    with pytest.raises(UserError, match=f"{arguments[0]}: expected at least .*, found {arguments[1]}"):
        run_bench(monkeypatch, *arguments)


def test_a_result_that_cannot_be_written_is_a_users_mistake(monkeypatch, tmp_path):
    monkeypatch.setattr(measuring, "measure", lambda *given: measurement())
    with pytest.raises(UserError, match="missing"):
        run_bench(monkeypatch, "--json", tmp_path / "missing" / "numbers.json")


def test_without_a_config_a_network_of_27_million_parameters_is_measured():
    """The same number as FunASR's network of these sizes has."""
    model = dataclasses.replace(bench.SMALL_PARAFORMER.model, input_dim=560)
    config = dataclasses.replace(bench.SMALL_PARAFORMER, model=model)
    params = jax.eval_shape(lambda: measuring._init_params(config))
    assert measuring.count_parameters(params) == 27_407_082


# --- the comparison ---


def peer_arguments(**changes):
    fields = {"batch": 4, "seconds": 2.0, "tokens": 5, "dtype": "float32", "steps": 2, "pairs": 3}
    fields |= {"layers": 12, "width": 256, "decoder_layers": 6, "peer_python": sys.executable}
    fields |= {"vocabulary": 4233, "compile": False, "ours": []}
    return argparse.Namespace(**fields | {"json": None, "torch_only": False} | changes)


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
        asked = peer_arguments(layers=3, vocabulary=50, compile=True, ours=["model.remat=true"])
        numbers = peer.run_side(side, asked, tmp_path / "numbers.json")
        assert (numbers["median_s"], numbers["memory_bytes"]) == (2.0, 5)
    ours, torch = commands
    assert "model.vocab_size=50" in ours and ours[-1] == "model.remat=true"
    assert torch[torch.index("--vocabulary") + 1] == "50" and "--compile" in torch
    assert ours[1:3] == ["-m", "asr.bench"] and "model.encoder.num_layers=3" in ours
    assert torch[torch.index("--layers") + 1] == "3"
    for flag, value in (("--batch", "4"), ("--seconds", "2.0"), ("--tokens", "5"), ("--dtype", "float32")):
        assert ours[ours.index(flag) + 1] == torch[torch.index(flag) + 1] == value


@pytest.mark.parametrize("seconds", [1.0, 2.5, 8.0, 8.01])
def test_both_sides_see_as_many_frames(seconds):
    expected = num_feature_frames(np.int64(round(16000 * seconds)), FeaturesConfig())
    assert load_peer().num_feature_frames(seconds) == expected


def test_the_torch_network_has_as_many_parameters():
    pytest.importorskip("funasr", reason="only the comparison with PyTorch needs it")
    network = load_peer().build_funasr_paraformer()
    assert sum(p.numel() for p in network.parameters()) == 27_407_082
