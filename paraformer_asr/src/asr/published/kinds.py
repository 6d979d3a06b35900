"""Which kind of model a folder holds, by the class that its `config.yaml` names.

Neither jax nor numpy is imported here, so that a command knows what it was called with in well under a second.
"""

from pathlib import Path

from asr.errors import UserError
from asr.folder_contents import CONFIG, explain_folder
from asr.funasr_folder import find_config, is_funasr_folder, read_config_file

KINDS = {
    "Paraformer": "paraformer",
    "SeacoParaformer": "seaco",
    "ContextualParaformer": "contextual",
    "BiCifParaformer": "bicif",
    "ParaformerStreaming": "streaming",
    "SenseVoiceSmall": "sense_voice",
    "FsmnVADStreaming": "vad",
    "CTTransformer": "punctuation",
    "CTTransformerStreaming": "punctuation",
}
"""FunASR's class, `model` in its config → our kind of model."""

NO_RECOGNISERS = {
    "vad": "a voice activity detector, which finds speech and writes no text: pass it beside such a model, "
    "--vad FOLDER or asr.load(MODEL, vad=FOLDER); asr segments lists what it finds",
    "punctuation": "a punctuation model, which reads text and hears no sound: pass it beside such a model, "
    "--punct FOLDER or asr.load(MODEL, punct=FOLDER)",
}
"""Kinds that are no recognisers → what a message says of them."""


def kind_of(folder: str | Path) -> str:
    """Return the kind of model in a folder: one of the values of `KINDS`.

    A model of FunASR states its class, a run or an exported model its `model.name`. What cannot be read, or is of
    another class, counts as "paraformer": the reader of that kind says what is wrong.
    """
    folder = Path(folder)
    try:
        path = find_config(folder) if is_funasr_folder(folder) else folder / CONFIG
        model = read_config_file(path).get("model")
    except UserError:
        return "paraformer"
    if isinstance(model, dict):
        name = model.get("name")
        return name if name in KINDS.values() else "paraformer"
    return KINDS.get(model, "paraformer") if isinstance(model, str) else "paraformer"


def check_kind(folder: str | Path, kind: str) -> None:
    """Refuse the folder of a model of another kind than "vad" or "punctuation"."""
    if (actual := kind_of(folder)) != kind:
        if not is_funasr_folder(Path(folder)) and not (Path(folder) / CONFIG).is_file():
            raise UserError(explain_folder(Path(folder)))
        what = NO_RECOGNISERS.get(actual, "a model that recognises speech")
        raise UserError(f"{folder}: expected {NO_RECOGNISERS[kind].partition(',')[0]}, found {what.partition(',')[0]}")


def check_recognises(folder: str | Path) -> None:
    """Refuse the folder of a model that does not turn sound into text."""
    if what := NO_RECOGNISERS.get(kind_of(folder)):
        raise UserError(f"{folder}: expected a model that recognises speech, found {what}")
