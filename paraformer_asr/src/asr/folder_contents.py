"""Says what a folder is that is no model: in messages about a file that is missing."""

from pathlib import Path

from asr.untrusted import escaped

WEIGHTS, CONFIG = "model.pt", "config.yaml"
MAX_NAMES_SHOWN = 5

OTHER_FOLDERS = (
    (
        ("encoder*.onnx", "decoder*.onnx"),
        "a model in parts, such as a streaming one, which are not read from ONNX: take the folder with its model.pt",
    ),
    (("model_eb*.onnx",), "the part of an ONNX export that reads hot words: its model.onnx belongs beside it"),
    (
        ("*.onnx",),
        "an ONNX export: copy config.yaml, tokens.json and am.mvn of the model beside its model.onnx, or take the "
        "folder with model.pt that it was exported from",
    ),
    (("*.torchscript",), "a TorchScript export: take the folder with model.pt that it was exported from"),
    (("saved_model.pb", "*.ckpt*.index"), "a model of TensorFlow: take one that FunASR publishes with a model.pt"),
    (
        ("decoding.yaml", "finetune.yaml", "*.pb"),
        "a folder of ModelScope from before FunASR 1.0: download the model again in revision v2.0.4 or later, "
        "which has model.pt, config.yaml and tokens.json",
    ),
    (("pytorch_model*.bin", "preprocessor_config.json"), "a model of Hugging Face's transformers, not of FunASR"),
    (("*.nemo",), "a model of NeMo, not of FunASR"),
    (
        ("tokenizer.json",),
        "a run or a model of this package: begin with it (--init FOLDER), which takes its tokenizer, too",
    ),
    (("*.zip", "*.tar", "*.tar.*", "*.tgz"), "an archive: unpack it and name the folder that comes out"),
)
"""(patterns of file names, what a folder with such a file is), for messages about a missing file."""


def explain_folder(folder: Path) -> str:
    """Return the message about a path that is not a model."""
    name = escaped(str(folder))
    if folder.is_file():
        return f"{name}: expected the folder of a model, found a file: name the folder that it is in"
    if not folder.is_dir():
        return f"{name}: no such folder; models are not downloaded here: name a folder on this machine"
    what = "a run of asr.train, a model of asr.export or asr.convert, or one of FunASR"
    return f"{name}: expected {what}, but it holds no {CONFIG}{what_else(folder)}"


def what_else(folder: Path) -> str:
    """Return the end of a message about a missing file: what the folder is instead, and what to do."""
    if (folder / WEIGHTS).is_file():
        return ""
    if checkpoints := matching(folder, f"{WEIGHTS}.*"):
        names = ", ".join(checkpoints[:MAX_NAMES_SHOWN])
        return f"; it holds checkpoints of FunASR's training ({names}): copy the one that you want to {WEIGHTS}"
    for patterns, what in OTHER_FOLDERS:
        if files := [name for pattern in patterns for name in matching(folder, pattern)]:
            return f"; by its {files[0]} it is {what}"
    return ""


def matching(folder: Path, *patterns: str) -> list[str]:
    """Return the names of the files that match one of the patterns, safe to print."""
    return sorted({escaped(path.name) for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
