"""The recorded answers of two small punctuation models of FunASR, and folders with their weights.

The weights are random; norms, gains and biases were moved so that the answers vary.
"""

import json
from pathlib import Path

import numpy as np
import yaml

from asr.published.torch_writer import write_torch_file

RECORDED = Path(__file__).parent / "recorded/punctuation"
ANSWERS = json.loads((RECORDED / "answers.json").read_text())


def write_folder(folder, kind="offline", **changes):
    """Write a model as FunASR publishes it, with changes of `model_conf`; return the folder."""
    folder.mkdir(exist_ok=True)
    about = ANSWERS[kind]
    with np.load(RECORDED / "arrays.npz") as arrays:
        tensors = {name.partition("/")[2]: arrays[name] for name in arrays.files if name.startswith(f"{kind}/")}
    write_torch_file(folder / "model.pt", tensors)
    content = about["config"] | {"model_conf": about["config"]["model_conf"] | changes}
    (folder / "config.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))
    (folder / "tokens.json").write_text(json.dumps(about["words"], ensure_ascii=False))
    return folder


def recorded_logits(kind):
    with np.load(RECORDED / "arrays.npz") as arrays:
        return arrays[f"logits/{kind}"]
