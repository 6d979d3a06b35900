"""Writes ONNX files byte by byte, and Paraformer as FunASR's exporter lays it out."""

import numpy as np

CODES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "float16": 10, "float64": 11, "bfloat16": 16}


def varint(value):
    value, content = value % (1 << 64), b""
    while value >= 0x80:
        content, value = content + bytes([value & 0x7F | 0x80]), value >> 7
    return content + bytes([value])


def field(number, value):
    """A field: an integer, a text, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name, array, form="raw", **entries):
    """`form`: raw bytes, typed numbers (packed or one by one), or outside, in another file."""
    array = np.asarray(array)
    content = b"".join(field(1, size) for size in array.shape) + field(2, CODES[array.dtype.name])
    numbers = array.view(np.uint16) if array.dtype.itemsize == 2 else array
    if form == "raw":
        content += field(9, array.tobytes())
    elif form == "typed" and array.dtype in (np.float32, np.float64):
        content += field(4 if array.dtype == np.float32 else 10, array.tobytes())
    elif form == "typed":
        content += field(7 if array.dtype == np.int64 else 5, b"".join(varint(int(x)) for x in numbers.ravel()))
    elif form == "single":
        for x in array.ravel():
            content += varint(4 << 3 | 5) + x.tobytes() if array.dtype == np.float32 else field(5, int(x))
    for key, value in entries.items():
        content += field(13, field(1, key) + field(2, str(value)))
    return content + field(8, name)


def node(op, inputs, outputs, name="", constant=None):
    content = b"".join(field(1, x) for x in inputs) + b"".join(field(2, x) for x in outputs)
    attribute = b"" if constant is None else field(5, field(1, "value") + field(5, tensor("", constant)))
    return content + field(3, name) + field(4, op) + attribute


def model(nodes, tensors, metadata=(), inputs=("x",), outputs=("logits",)):
    graph = b"".join(field(1, n) for n in nodes) + b"".join(field(5, t) for t in tensors)
    graph += b"".join(field(11, field(1, x)) for x in inputs) + b"".join(field(12, field(1, x)) for x in outputs)
    content = field(1, 7) + field(2, "pytorch") + field(7, graph)
    return content + b"".join(field(14, field(1, key) + field(2, value)) for key, value in dict(metadata).items())


def quantized(name, weight):
    """The three tensors that stand for a weight [inputs, outputs], one scale for each output."""
    low, high = np.minimum(weight.min(0), 0), np.maximum(weight.max(0), 0)
    scale = ((high - low) / 255).astype(np.float32)
    zero = np.round(-low / scale).astype(np.uint8)
    values = np.clip(np.round(weight / scale) + zero, 0, 255).astype(np.uint8)
    parts = {"_quantized": values, "_scale": scale, "_zero_point": zero}
    return [tensor(name + tail, x, "raw" if tail == "_quantized" else "typed") for tail, x in parts.items()]


def export(torch_tensors, *, in_int8=False, scoped=True, heads=None, metadata=()):
    """Return the file that FunASR's exporter writes for a Paraformer: its names, transposed maps, and no embedding."""
    nodes, tensors = [], []
    for number, (name, value) in enumerate(torch_tensors.items()):
        module, _, parameter = name.rpartition(".")
        place = scope(module) if scoped else ""
        if name == "decoder.embed.0.weight":
            continue
        if value.ndim == 2:
            made, weight = f"made{number}", f"onnx::MatMul_{number}"
            before = f"{module.removesuffix('.w_2')}.norm.bias"
            reads = f"added {before}" if before in torch_tensors else "x"
            label = f"{place}/MatMul" if scoped else f"MatMul_{number}"
            if in_int8 and "output" not in name:
                tensors += quantized(weight, value.T)
                inputs = [f"{reads} in int8", f"{weight}_quantized", "zero", f"{weight}_zero_point"]
                nodes += [node("DynamicQuantizeLinear", [reads], inputs[:1])]
                nodes += [node("MatMulInteger", inputs, [f"{made} whole"], f"{label}_quant")]
                nodes += [node("Cast", [f"{made} whole"], [f"{made} cast"])]
                nodes += [node("Mul", [f"scale{number}", f"{weight}_scale"], [f"{made} scales"], f"{label}_scales")]
                nodes += [node("Mul", [f"{made} cast", f"{made} scales"], [made], f"{label}_mul")]
            else:
                tensors.append(tensor(weight, np.ascontiguousarray(value.T)))
                nodes += [node("MatMul", [reads, weight], [made], label)]
            if (bias := f"{module}.bias") in torch_tensors:
                nodes += [node("Add", [wrapped(bias), made], [f"sum{number}"], f"{place}/Add")]
            continue
        op = {"weight": "Conv" if value.ndim == 3 else "Mul", "bias": "Add"}[parameter]
        tensors.append(tensor(wrapped(name), value))
        if f"{module}.weight" not in torch_tensors or torch_tensors[f"{module}.weight"].ndim != 2:
            nodes += [node(op, ["x", wrapped(name)], [f"added {name}"], f"{place}/{op}" if scoped else "")]
    for place, count in enumerate(heads or ()):
        tensors += [tensor(f"size{place}{k}", np.array([size])) for k, size in enumerate(count)]
        nodes += [node("Concat", ["b", "t", f"size{place}0", f"size{place}1"], [f"shape{place}"])]
    nodes += [node("Constant", [], ["half"], constant=np.float32(0.5)), node("Sub", ["x", "mean"], ["centred"])]
    nodes += [node("Mul", ["centred", "half"], ["halved"])]  # as norms have; the predictor's tail is below
    nodes += [node("Concat", ["m"], ["one"]), node("Concat", ["m"], ["two"]), node("Sub", ["one", "two"], ["edge"])]
    nodes += [node("Constant", [], ["tail"], constant=np.float32(0.3)), node("Mul", ["edge", "tail"], ["last"])]
    return model(nodes, tensors, metadata, outputs=("logits", "token_num"))


def scope(module):
    """/encoder/encoders/encoders.0/norm1 of encoder.encoders.0.norm1."""
    parts = []
    for part in module.split("."):
        parts.append(f"{parts[-1]}.{part}" if part.isdigit() else part)
    return "/" + "/".join(parts)


def wrapped(name):
    first, _, rest = name.partition(".")
    return name if first == "predictor" else f"{first}.model.{rest}"
