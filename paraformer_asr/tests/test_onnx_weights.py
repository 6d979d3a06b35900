"""Weights of ONNX exports get torch's names back, whatever the exporter made of them."""

from pathlib import Path

import numpy as np
import pytest

from asr.errors import UserError
from asr.published.onnx_weights import onnx_shapes, read_onnx_tensors
from asr.published.torch_file import read_torch_file
from onnx_writer import export, model, node, quantized, tensor

RECORDED = Path(__file__).parent / "recorded" / "funasr_tiny"
WEIGHTS = read_torch_file(RECORDED / "model.pt").tensors
EXPORTED = {name: value for name, value in WEIGHTS.items() if name != "decoder.embed.0.weight"}
RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def read(folder, content):
    path = folder / "model.onnx"
    path.write_bytes(content)
    return read_onnx_tensors(path)


def same(tensors, expected):
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(tensors[name], value, err_msg=name)


@pytest.mark.parametrize("scoped", [True, False], ids=["names of nodes", "numbered nodes"])
def test_every_weight_of_an_export_comes_back_to_the_bit(tmp_path, scoped):
    same(read(tmp_path, export(WEIGHTS, scoped=scoped)), EXPORTED)


def test_8_bit_weights_come_back_within_half_a_step_which_is_said(tmp_path, caplog):
    tensors = read(tmp_path, export(WEIGHTS, in_int8=True))
    assert tensors.keys() == EXPORTED.keys()
    errors = {name: np.abs(tensors[name] - x).max() / np.abs(x).max() for name, x in EXPORTED.items()}
    rounded = {name for name, error in errors.items() if error}
    assert rounded == {name for name, x in EXPORTED.items() if x.ndim == 2 and "output" not in name}
    (message,) = caplog.messages
    assert f"{len(rounded)} weights are 8-bit integers" in message
    stated = float(message.split("at most ")[1].split(" %")[0]) / 100
    assert 0.001 < max(errors.values()) <= stated + 5e-5 < 0.006


def test_shapes_cost_no_values(tmp_path, caplog):
    (tmp_path / "model.onnx").write_bytes(export(WEIGHTS, in_int8=True))
    assert onnx_shapes(tmp_path / "model.onnx") == {name: value.shape for name, value in EXPORTED.items()}
    assert not caplog.messages


@pytest.mark.parametrize("scale", [np.float32(0.5), np.array([0.5], np.float32)], ids=["scalar", "one"])
def test_one_scale_for_a_whole_weight_signed_or_not(tmp_path, scale):
    q = np.array([[-3, 0], [5, 127]], np.int8)
    tensors = [
        tensor("w_quantized", q),
        tensor("w_scale", scale),
        tensor("w_zero_point", np.full(scale.shape, 1, "i1")),
    ]
    nodes = [node("MatMulInteger", ["a", "w_quantized", "z", "w_zero_point"], ["y"], "/ctc_lo/MatMul_quant")]
    same(read(tmp_path, model(nodes, tensors)), {"ctc_lo.weight": (q.T.astype(np.float32) - 1) * np.float32(0.5)})


def test_scales_that_do_not_fit_are_refused(tmp_path):
    tensors = [
        tensor("w_quantized", np.zeros((2, 4), "i1")),
        tensor("w_scale", draw(3)),
        tensor("w_zero_point", np.zeros(3, "i1")),
    ]
    with pytest.raises(UserError, match=r"w \[2, 4\] has 3 scales; expected 1 a column"):
        read(tmp_path, model([node("MatMulInteger", ["a", "w_quantized"], ["y"])], tensors))


def test_a_map_without_bias_is_named_by_the_convolution_behind_it(tmp_path):
    """As FSMN-VAD is exported with numbered nodes."""
    project, taps = draw(4, 6), draw(4, 1, 3, 1)
    name = "encoder.fsmn.0.fsmn_block.conv_left.weight"
    nodes = [node("MatMul", ["x", "onnx::MatMul_7"], ["p"], "MatMul_5"), node("Unsqueeze", ["p", "axes"], ["u"])]
    nodes += [node("Transpose", ["u"], ["t"]), node("Concat", ["zeros", "t"], ["c"]), node("Conv", ["c", name], ["y"])]
    tensors = [tensor("onnx::MatMul_7", project.T.copy()), tensor(name, taps)]
    same(read(tmp_path, model(nodes, tensors)), {"encoder.fsmn.0.linear.linear.weight": project, name: taps})


def test_anonymous_norms_and_norms_that_are_stored_once(tmp_path):
    ones, gain, bias = np.ones(3, np.float32), draw(3), draw(3)
    nodes = [
        node("Mul", ["x", "encoder.model.encoders.0.norm1.weight"], ["a"], "/encoder/encoders/encoders.0/norm1/Mul"),
        node("Mul", ["a", "encoder.model.encoders.0.norm1.weight"], ["b"], "/encoder/encoders/encoders.1/norm1/Mul"),
        node("Mul", ["b", "onnx::Mul_8"], ["c"], "/encoder/tp_norm/Mul_1"),
        node("Add", ["c", "onnx::Add_9"], ["d"], "/encoder/tp_norm/Add_1"),
        node("Mul", ["d", "one"], ["e"], "/encoder/tp_norm/Mul_2"),  # a constant is no weight
        node("Mul", ["e", "encoder.model.encoders.0.norm1.weight"], ["f"], "/encoder/encoders/encoders.0/norm1_1/Mul"),
    ]
    tensors = [tensor("encoder.model.encoders.0.norm1.weight", ones), tensor("onnx::Mul_8", gain)]
    tensors += [tensor("onnx::Add_9", bias), tensor("one", np.ones(1, np.float32))]
    expected = {f"encoder.encoders.{number}.norm1.weight": ones for number in range(2)}
    same(
        read(tmp_path, model(nodes, tensors)), expected | {"encoder.tp_norm.weight": gain, "encoder.tp_norm.bias": bias}
    )


def test_shared_weights_general_products_and_maps_that_keep_their_name(tmp_path):
    one, other, bias = draw(5, 3), draw(2, 5), draw(5)
    nodes = [
        node("Gemm", ["x", "onnx::Gemm_3", "a.b.bias"], ["y"], "Gemm_1"),
        node("Gemm", ["y", "a.c.weight"], ["z"], "Gemm_2"),
        node("Identity", ["a.b.bias"], ["a.d.bias"]),
        node("Add", ["z", "a.d.bias"], ["s"]),
    ]
    tensors = [tensor("onnx::Gemm_3", one.T.copy()), tensor("a.b.bias", bias), tensor("a.c.weight", other)]
    expected = {"a.b.weight": one, "a.b.bias": bias, "a.c.weight": other, "a.d.bias": bias}
    same(read(tmp_path, model(nodes, tensors)), expected)


def test_gates_of_an_lstm_get_the_order_of_torch(tmp_path):
    parts = {f"{name}_l0{tail}": draw(8, *size) for tail in ("", "_reverse") for name, size in
             {"weight_ih": (3,), "weight_hh": (2,), "bias_ih": (), "bias_hh": ()}.items()}  # fmt: skip

    def onnx(name, tail):
        gates = dict(zip(("input", "forget", "cell", "output"), np.split(parts[f"{name}_l0{tail}"], 4), strict=True))
        return np.concatenate([gates[gate] for gate in ("input", "output", "forget", "cell")])

    values = {"W": "weight_ih", "R": "weight_hh"}
    tensors = [tensor(x, np.stack([onnx(name, tail) for tail in ("", "_reverse")])) for x, name in values.items()]
    biases = [np.concatenate([onnx("bias_ih", tail), onnx("bias_hh", tail)]) for tail in ("", "_reverse")]
    tensors += [tensor("B", np.stack(biases))]
    content = model([node("LSTM", ["x", "W", "R", "B"], ["y"], "/predictor/blstm/LSTM")], tensors)
    same(read(tmp_path, content), {f"predictor.blstm.{name}": value for name, value in parts.items()})
    # Its name may lack its beginning, as in SeACo-Paraformer; the map behind it has it.
    nodes = [node("LSTM", ["x", "W", "R", "B"], ["y"], "/blstm/LSTM"), node("Transpose", ["y"], ["t"])]
    nodes += [node("MatMul", ["t", "onnx::MatMul_4"], ["m"]), node("Add", ["m", "predictor.cif_output2.bias"], ["s"])]
    beside = {"predictor.cif_output2.weight": draw(1, 4), "predictor.cif_output2.bias": draw(1)}
    tensors += [tensor("onnx::MatMul_4", beside["predictor.cif_output2.weight"].T.copy())]
    tensors += [tensor("predictor.cif_output2.bias", beside["predictor.cif_output2.bias"])]
    expected = beside | {f"predictor.blstm.{name}": value for name, value in parts.items()}
    same(read(tmp_path, model(nodes, tensors)), expected)
    with pytest.raises(UserError, match="the weights of LSTM_3 cannot be read"):
        read(tmp_path, model([node("LSTM", ["x", "W", "R"], ["y"], "LSTM_3")], tensors))


def test_a_weight_that_nothing_names_and_a_name_that_comes_twice_are_refused(tmp_path):
    tensors = [tensor("onnx::MatMul_1", draw(2, 3)), tensor("onnx::MatMul_2", draw(2, 3))]
    with pytest.raises(UserError, match=r"nothing tells which weight onnx::MatMul_1 is, \[2, 3\], read by MatMul_0"):
        read(tmp_path, model([node("MatMul", ["x", "onnx::MatMul_1"], ["y"], "MatMul_0")], tensors))
    nodes = [node("MatMul", ["x", f"onnx::MatMul_{k}"], ["y"], "/ctc_lo/MatMul") for k in (1, 2)]
    with pytest.raises(UserError, match=r"two weights have the name ctc_lo.weight"):
        read(tmp_path, model(nodes, tensors))


def test_operations_in_a_circle_end(tmp_path):
    nodes = [node("MatMulInteger", ["x", "w_quantized"], ["a"], "/m/MatMul_quant"), node("Cast", ["a", "b"], ["b"])]
    nodes += [node("Mul", ["b"], ["b"]), node("Cast", ["b"], ["a"])]
    assert read(tmp_path, model(nodes, quantized("w", draw(2, 3)))).keys() == {"m.weight"}
