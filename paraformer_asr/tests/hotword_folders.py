"""Folders of FunASR's SeACo, Contextual and BiCif models, from what `recorded/funasr_hotwords` has of them.

The encoders are not recorded; here they are drawn with numpy.
"""

import dataclasses
import functools
import json
import math
from pathlib import Path

import numpy as np
import yaml

from asr.published.funasr import array_shapes, funasr_pairs
from asr.published.funasr_config import read_funasr_config
from asr.published.torch_writer import write_torch_file

RECORDED = Path(__file__).parent / "recorded" / "funasr_hotwords"
CLASSES = {"seaco": "SeacoParaformer", "contextual": "ContextualParaformer", "bicif": "BiCifParaformer"}
BRANCH = ("seaco_decoder", "bias_encoder", "hotword_output_layer")  # prefixes of what SeACo has beside BiCif


@functools.cache
def about():
    """Return the tokens, words, settings, shapes and answers."""
    return json.loads((RECORDED / "answers.json").read_text())


@functools.cache
def arrays():
    """Return the recorded arrays, by `kind/utterance/name`."""
    with np.load(RECORDED / "arrays.npz") as file:
        return dict(file)


def recorded_tensors(kind):
    """Return the tensors of a kind without its encoder; those of "bicif" are SeACo's without the branch."""
    source, start, tensors = "contextual" if kind == "contextual" else "seaco", 0, {}
    flat = arrays()[f"{source}/tensors"]
    for name, shape in about()[source]["shapes"].items():
        tensors[name] = flat[start : start + math.prod(shape)].reshape(shape)
        start += math.prod(shape)
    return {name: x for name, x in tensors.items() if kind != "bicif" or not name.startswith(BRANCH)}


def recorded_config(kind):
    """Return the content of the config of a kind."""
    content = yaml.safe_load(about()["contextual" if kind == "contextual" else "seaco"]["config"])
    if kind == "bicif":
        content = {key: value for key, value in content.items() if not key.startswith("seaco")}
        theirs = ("inner_dim", "bias_encoder_type", "bias_encoder_bid", "train_decoder", "NO_BIAS")
        conf = content["model_conf"].items()
        content["model_conf"] = {k: v for k, v in conf if k not in theirs and not k.startswith("seaco")}
    return content | {"model": CLASSES[kind]}


def write_settings(folder, kind, change=None):
    """Write all but the weights; `change` is a function that is called with the content of the config."""
    folder.mkdir()
    content = recorded_config(kind)
    if change:
        change(content)
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    (folder / "tokens.json").write_text(json.dumps(about()["tokens"]))
    (folder / "seg_dict").write_text(about()["seg_dict"])
    (folder / "model.pt").touch()
    return folder


def write_folder(folder, kind, change=None):
    """Write the folder of a kind; `change` is a function that is called with the tensors."""
    write_settings(folder, kind)
    tensors = recorded_tensors(kind)
    model = dataclasses.replace(read_funasr_config(folder).model, vocab_size=len(about()["tokens"]), input_dim=560)
    shapes, rng = shapes_of(model), np.random.default_rng(0)
    for pair in funasr_pairs(model):
        if pair.theirs.startswith("encoder."):
            tensors[pair.theirs] = pair.layout.to_theirs(rng.normal(size=shapes[pair.ours]).astype(np.float32) * 0.3)
    if change:
        change(tensors)
    write_torch_file(folder / "model.pt", tensors)
    return folder


shapes_of = functools.cache(array_shapes)
