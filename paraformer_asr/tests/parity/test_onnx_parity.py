"""FunASR's own exports of random models: every tensor to the bit, 8-bit ones within half a step, the same texts."""

import functools
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("funasr")
pytest.importorskip("onnxruntime")

from funasr import AutoModel  # noqa: E402

from asr.config import Config, DecoderConfig, EncoderConfig, LossConfig, ModelConfig  # noqa: E402
from asr.data.frontend import Cmvn  # noqa: E402
from asr.data.text.tokenizer import Tokenizer, with_special_tokens  # noqa: E402
from asr.inference.transcriber import load_transcriber  # noqa: E402
from asr.published.funasr import array_shapes, save_funasr  # noqa: E402
from asr.published.weights_file import read_tensors  # noqa: E402

ANCHOR = "encoder.after_norm.weight"
MODEL = ModelConfig(
    vocab_size=24,
    input_dim=560,
    encoder=EncoderConfig(num_layers=3, width=16, num_heads=2, ffn_width=24),
    decoder=DecoderConfig(num_layers=1, num_memory_layers=1, num_heads=2, ffn_width=20),
)


def draw_variables():
    import flax.traverse_util

    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in array_shapes(MODEL).items():
        noise = rng.normal(size=shape).astype(np.float32)
        arrays[name] = noise / np.float32(np.prod(shape[:-1])) ** 0.5 if noise.ndim > 1 else 0.1 * noise
        arrays[name] = 1 + arrays[name] if name.endswith("scale") else arrays[name]
    return flax.traverse_util.unflatten_dict(arrays, sep="/")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with model.pt, model.onnx and model_quant.onnx."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    cmvn = Cmvn(np.full(560, -12, np.float32), np.full(560, 0.3, np.float32))
    tokenizer = Tokenizer(with_special_tokens(map(chr, range(0x4E00, 0x4E00 + 20))), "funasr")
    config = Config(model=MODEL, loss=LossConfig(ctc_weight=0.0))
    save_funasr(folder, config, tokenizer, cmvn, draw_variables())
    with pytest.MonkeyPatch.context() as patch:
        # Newer versions of torch have another exporter, with which FunASR's export fails.
        patch.setattr(torch.onnx, "export", functools.partial(torch.onnx.export, dynamo=False))
        model = AutoModel(model=str(folder), disable_update=True, device="cpu")
        model.export(type="onnx", quantize=True, output_dir=str(folder), device="cpu")
    return folder


pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's exporter and onnxruntime's quantizer


def test_every_tensor_comes_back_to_the_bit(exported):
    ours, theirs = (read_tensors(exported / name, ANCHOR) for name in ("model.onnx", "model.pt"))
    assert theirs.keys() - ours.keys() == {"decoder.embed.0.weight"} and ours.keys() <= theirs.keys()
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor, theirs[name], err_msg=name)


def test_8_bit_tensors_are_within_what_is_said(exported, caplog):
    ours, theirs = (read_tensors(exported / name, ANCHOR) for name in ("model_quant.onnx", "model.pt"))
    stated = float(caplog.text.split("at most ")[1].split(" %")[0]) / 100
    errors = {name: np.abs(ours[name] - theirs[name]).max() / np.abs(theirs[name]).max() for name in ours}
    assert 0 < max(errors.values()) <= stated + 5e-5 < 0.01
    assert sum(error > 0 for error in errors.values()) > 10


@pytest.mark.parametrize("name", ["model.onnx", "model_quant.onnx"])
def test_the_texts_are_those_of_the_model(exported, tmp_path, name):
    folder = shutil.copytree(exported, tmp_path / "alone", ignore=shutil.ignore_patterns("model*"))
    shutil.copy(exported / name, folder)
    rng = np.random.default_rng(1)
    waves = [0.1 * rng.normal(size=size).astype(np.float32) for size in (16000, 30000)]
    ours, theirs = (load_transcriber(path).transcribe(waves, 16000) for path in (folder, exported))
    assert all(len(transcript.text) > 3 for transcript in theirs)
    if name == "model.onnx":
        assert [t.text for t in ours] == [t.text for t in theirs]
    else:  # rounded weights may turn close calls
        same = [a == b for x, y in zip(ours, theirs, strict=True) for a, b in zip(x.text, y.text, strict=False)]
        assert np.mean(same) > 0.7
