"""An encoder that was trained elsewhere, as a folder that `init` of a config accepts: it begins a network, no more.

config.yaml          `model.encoder`, and the normalisation of images that the weights expect
weights.safetensors  its arrays by their names, such as params/encoder/stage1/unit0/expand_conv/kernel
origin.json          the file that it was made of
README.txt           how to begin a run with it
checksums.txt        SHA-256 of the files
"""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from seg.checkpoints.arrays import check_finite, check_same_arrays, describe_arrays, named_arrays
from seg.checkpoints.safetensors_file import write_safetensors
from seg.config import Config
from seg.config.reader import ORIGIN, load_config, save_config
from seg.errors import UserError
from seg.files import appearing, replace_json, replace_text
from seg.inference.checksums import CheckedFolder, write_checksums
from seg.inference.model_folder import PROGRAM, WEIGHTS, check_target, load_weights
from seg.models import abstract_variables
from seg.models.encoders import is_of_encoder


def is_encoder_folder(folder: Path) -> bool:
    """Return whether `folder` looks like one; a model folder has a program and names its classes."""
    return (folder / WEIGHTS).is_file() and not any((folder / name).exists() for name in (PROGRAM, "classes.json"))


def refuse_encoder(folder: Path) -> None:
    """Refuse the folder of an encoder where a model is needed."""
    if is_encoder_folder(folder):
        raise UserError(
            f"{folder}: holds an encoder without a decoder, which segments nothing; train a network that begins with "
            f"it: python -m seg.train --config CONFIG --init {shlex.quote(str(folder))}"
        )


def save_encoder_folder(
    folder: Path, config: Config, variables: Any, origin: dict[str, str], *, force: bool = False
) -> None:
    """Write the folder, which appears when it is complete; the arguments are those of `save_model_folder`."""
    check_target(folder, force)
    with appearing(folder) as partial:
        write_safetensors(partial / WEIGHTS, named_arrays(variables))
        save_config(config, partial / "config.yaml")
        replace_json(partial / ORIGIN, origin)
        replace_text(
            partial / "README.txt",
            f"The encoder {config.model.encoder} of {origin['file']}, without a decoder. To begin a run with it:\n\n"
            "  python -m seg.train --config CONFIG.yaml --init THIS_FOLDER\n\n"
            "The config may choose model.name, model.decoder and what belongs to them; the encoder and the\n"
            "normalisation of images come from this folder.\n",
        )
        write_checksums(partial)


def load_encoder_folder(folder: Path) -> tuple[Config, dict[str, Any]]:
    """Return settings and variables, after verifying the files and the arrays."""
    files = CheckedFolder(folder)
    config = load_config(folder / "config.yaml", read=files.read)
    variables = load_weights(files)
    model = abstract_variables(dataclasses.replace(config.model, num_classes=2), channels=config.data.channels)
    expected = {name: array for name, array in describe_arrays(model).items() if is_of_encoder(name)}
    check_same_arrays(expected, describe_arrays(variables), folder)
    check_finite(named_arrays(variables), folder)
    return config, variables
