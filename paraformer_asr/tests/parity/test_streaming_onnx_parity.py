"""The exported pair of a streaming Paraformer: its tensors to the bit, and its driver's answers piece by piece.

The driver is that of the package funasr_onnx, which is not installed with FunASR:
`pip install --no-deps funasr_onnx` in the parity environment.
"""

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("funasr")
pytest.importorskip("onnxruntime")
online = pytest.importorskip("funasr_onnx.paraformer_online_bin")

from funasr import AutoModel  # noqa: E402
from funasr.models.paraformer_streaming import export_meta  # noqa: E402

from asr.errors import UserError  # noqa: E402
from asr.published.funasr import load_funasr  # noqa: E402
from asr.published.torch_file import read_torch_file  # noqa: E402
from asr.published.weights_file import read_tensors  # noqa: E402
from streaming_folder import caches_of, draw_folder, hear, layout_of, pieces_of, sounds  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's exporter, onnxruntime's quantizer and the driver
SIZES = {"small": {}, "deep": {"encoder": 3, "decoder": 2, "kernels": (11, 11)}}


def export(folder, width=28, quantize=False):
    """Write the pair of graphs beside model.pt, which are made for 560 features otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        # Newer versions of torch have another exporter, with which FunASR's export fails.
        patch.setattr(torch.onnx, "export", functools.partial(torch.onnx.export, dynamo=False))
        sample = torch.randn(2, 30, width), torch.tensor([6, 30], dtype=torch.int32)
        patch.setattr(export_meta, "export_encoder_dummy_inputs", lambda _: sample)
        model = AutoModel(model=str(folder), disable_update=True, device="cpu", log_level="ERROR")
        model.export(type="onnx", quantize=quantize, output_dir=str(folder), device="cpu")
    return folder


def hear_theirs(folder, wave_n, chunk_size):
    """Return what the driver makes of each run of the graphs, fed with pieces as large as a chunk."""
    driver, pieces, starts = online.Paraformer(str(folder), chunk_size=list(chunk_size)), [], []
    infer, extract, decode = driver.infer, driver.extract_feat, driver.ort_decoder_infer

    def extract_feat(waves, is_final):
        features_bti, lengths_b = extract(waves, is_final)
        starts.append(features_bti[0].copy())
        return features_bti, lengths_b

    def run_decoder(inputs):
        outputs = decode(inputs)
        pieces[-1]["logits"] = outputs[0][0]
        return outputs

    def run(features_bti, lengths_b, cache):
        pieces.append({"rows": features_bti.shape[1], "logits": None})
        answer = infer(features_bti, lengths_b, cache)
        pieces[-1] |= {"weight": cache["cif_alphas"].copy(), "embedding": cache["cif_hidden"][0].copy()}
        pieces[-1] |= {f"memory{i}": np.asarray(each[0]).T for i, each in enumerate(cache["decoder_fsmn"])}
        return answer

    driver.infer, driver.extract_feat, driver.ort_decoder_infer = run, extract_feat, run_decoder
    stride, cache = 960 * chunk_size[1], {}
    for start in range(0, len(wave_n) + 1, stride):
        is_final = start + stride > len(wave_n)
        driver(wave_n[start : start + stride], param_dict={"cache": cache, "is_final": is_final})
    return pieces, np.concatenate(starts)


def test_the_pair_opens_like_the_model_that_it_was_made_from(tmp_path, caplog):
    folder = export(draw_folder(tmp_path / "tiny", 5, **SIZES["deep"]), quantize=True)
    tensors = read_torch_file(folder / "model.pt").tensors
    for name, rounding in (("model.onnx", 0), ("model_quant.onnx", 1 / 255)):
        ours = read_tensors(folder / name, "encoder.after_norm.weight")
        assert tensors.keys() - ours.keys() == {"decoder.embed.0.weight"} and ours.keys() <= tensors.keys()
        for key, tensor in ours.items():
            spread = np.ptp(tensors[key])
            np.testing.assert_allclose(tensor, tensors[key], rtol=0, atol=rounding * spread, err_msg=key)
    whole = load_funasr(folder)
    (folder / "model.pt").unlink()
    pair = load_funasr(folder)
    assert pair[0].model == whole[0].model
    (folder / "decoder.onnx").unlink()
    with pytest.raises(UserError, match="holds no decoder.* copy decoder.onnx into the folder"):
        load_funasr(folder)


@pytest.mark.parametrize("chunk_size", [(5, 10, 5), (3, 8, 4), (2, 6, 0), (2, 4, 6)])
@pytest.mark.parametrize("size", SIZES)
def test_every_run_of_the_pair_is_repeated(tmp_path, size, chunk_size):
    folder = export(draw_folder(tmp_path / "tiny", 5, **SIZES[size]))
    config, _, _, variables = load_funasr(folder)
    layout, kinds, num_tokens = layout_of(chunk_size, 0, 0, "funasr_onnx"), set(), 0
    for name, wave_n in sounds().items():
        if name == "tiny":  # the driver has no answer to less than a chunk of fewer than 960 samples
            continue
        theirs, features_ti = hear_theirs(folder, wave_n, chunk_size)
        cut = pieces_of(features_ti, len(wave_n), layout)
        kinds.add(tuple(np.sign(num_new) for _, num_new, _ in cut[-2:]))
        for (state, logits_uv, _), piece in zip(hear(config, variables, layout, cut), theirs, strict=True):
            expected_uv = piece["logits"] if piece["logits"] is not None else logits_uv[:0]
            assert list(logits_uv.argmax(-1)) == list(expected_uv.argmax(-1)), name
            np.testing.assert_allclose(logits_uv, expected_uv, atol=1e-4, err_msg=name)
            for key, array in caches_of(state).items():
                if key in piece:
                    np.testing.assert_allclose(array, piece[key], atol=1e-4, err_msg=f"{name} {key}")
            num_tokens += len(logits_uv)
    assert num_tokens > 15
    assert len(kinds) > 1 or chunk_size[2] > chunk_size[1]
    assert (1, -1) in kinds or not chunk_size[2]
