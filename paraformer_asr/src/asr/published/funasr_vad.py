"""Reads FSMN-VAD models that FunASR publishes, and writes models of this package for it.

    model.pt            the state dict
    config.yaml         network, front end and rules
    configuration.json  names of the other files
    am.mvn              mean and variance of the features

Reference: FunASR, `funasr/models/fsmn_vad_streaming`.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import numpy as np
import yaml

from asr.checkpoints.arrays import describe_arrays, named_arrays
from asr.config import FeaturesConfig
from asr.config.voice_activity import FsmnConfig, VoiceActivityConfig
from asr.data.cmvn import load_cmvn, save_cmvn
from asr.data.frontend import Cmvn
from asr.errors import UserError
from asr.files import replace_text
from asr.funasr_folder import CMVN, CONFIG, FILES, WEIGHTS, open_folder
from asr.models.fsmn_vad import fsmn_shapes
from asr.published.funasr_vad_settings import make_vad_config, read_vad_settings
from asr.published.mapping import AS_IS, LINEAR, Layout, Pair, export_arrays, import_arrays
from asr.published.torch_writer import write_torch_file
from asr.published.weights_file import read_tensors

TAPS = Layout(lambda w_d1k1: w_d1k1[:, 0, :, 0].T, lambda w_kd: w_kd.T[:, None, :, None])
"""`Conv2d.weight` of torch over time, with one group for each channel: channels d, taps k."""

ANCHOR = "encoder.in_linear1.linear.weight"  # a tensor that every model has
BLOCK = "encoder.fsmn.{}.linear.linear.weight"  # a tensor that every block has
MAX_LAYERS = 100


class PublishedVad(NamedTuple):
    """A voice activity detector as it is stored."""

    settings: VoiceActivityConfig  # the rules
    features: FeaturesConfig  # the front end
    cmvn: Cmvn | None  # normalisation of the features
    network: FsmnConfig  # its sizes
    variables: Any  # {"params": …}, float32


def load_funasr_vad(folder: Path) -> PublishedVad:
    """Return the voice activity detector in a folder of FunASR.

    Raises:
        UserError: a file that is missing or damaged, settings that cannot be read here, or tensors that do not fit.
    """
    files, content = open_folder(folder, needs_tokens=False)
    settings, features, stated = read_vad_settings(files.config, content)
    cmvn = load_cmvn(files.cmvn) if files.cmvn else None
    tensors = read_tensors(files.weights, ANCHOR)
    network, variables = vad_variables(tensors, features.input_dim, files.weights)
    for name, size in stated.items():
        if getattr(network, name) != size:
            raise UserError(
                f"{files.weights}: its tensors have {name} {getattr(network, name)}, but {files.config.name} says "
                f"{size}; the two do not belong together"
            )
    if cmvn is not None and len(cmvn.shift) != features.input_dim:
        raise UserError(f"{files.cmvn}: expected {features.input_dim} values, n_mels · lfr_m, found {len(cmvn.shift)}")
    if max(settings.silence_classes) >= network.num_classes:
        raise UserError(
            f"{files.config}: model_conf.sil_pdf_ids: expected classes below {network.num_classes}, the outputs of "
            f"the network, found {max(settings.silence_classes)}"
        )
    return PublishedVad(
        settings, dataclasses.replace(features, cmvn="file" if cmvn else "none"), cmvn, *(network, variables)
    )


def vad_variables(tensors: Mapping[str, np.ndarray], input_dim: int, source: Path) -> tuple[FsmnConfig, Any]:
    """Return (sizes, {"params": …}) of the network whose tensors have FunASR's names; `source` is named in messages.

    The sizes are those of the tensors.

    Raises:
        UserError: with a list of the tensors that are missing or do not fit.
    """
    network = sizes_of_tensors(tensors)
    if not all(dataclasses.astuple(network)):
        raise UserError(f"{source}: expected tensors with values, found one whose width is 0: {network}")
    shapes = {name: shape for name, (shape, _) in describe_arrays(fsmn_shapes(network, input_dim)).items()}
    arrays = import_arrays(vad_pairs(network.num_layers), tensors, shapes, source)
    return network, flax.traverse_util.unflatten_dict(arrays, sep="/")


def sizes_of_tensors(tensors: Mapping[str, np.ndarray]) -> FsmnConfig:
    """Return the sizes of a network by its tensors; where one is missing, or none, that of the published model."""
    places = {
        "input_affine_width": (ANCHOR, 0),
        "width": ("encoder.in_linear2.linear.weight", 0),
        "projection": (BLOCK.format(0), 0),
        "taps": ("encoder.fsmn.0.fsmn_block.conv_left.weight", 2),
        "output_affine_width": ("encoder.out_linear1.linear.weight", 0),
        "num_classes": ("encoder.out_linear2.linear.weight", 0),
    }
    sizes = {
        name: tensors[tensor].shape[axis]
        for name, (tensor, axis) in places.items()
        if tensor in tensors and tensors[tensor].ndim > axis
    }
    num_layers = sum(BLOCK.format(number) in tensors for number in range(MAX_LAYERS))
    return FsmnConfig(**sizes, num_layers=max(num_layers, 1))


def save_funasr_vad(folder: Path, detector: PublishedVad) -> None:
    """Write a FunASR model folder, the inverse of `load_funasr_vad`."""
    settings, features, cmvn, network, variables = detector
    content = make_vad_config(settings, features, network)
    arrays = {name: np.asarray(array, np.float32) for name, array in named_arrays(variables).items()}
    write_torch_file(folder / WEIGHTS, export_arrays(vad_pairs(network.num_layers), arrays))
    replace_text(folder / CONFIG, yaml.safe_dump(content, sort_keys=False))
    places: dict[str, Any] = {"init_param": WEIGHTS, "config": CONFIG}
    if cmvn is not None:
        save_cmvn(folder / CMVN, cmvn)
        places["frontend_conf"] = {"cmvn_file": CMVN}
    files = {"framework": "pytorch", "task": "voice-activity-detection", "model": {"type": "funasr"}}
    files |= {"pipeline": {"type": "funasr-pipeline"}, "file_path_metas": places}
    replace_text(folder / FILES, json.dumps(files, indent=2) + "\n")


def vad_pairs(num_layers: int) -> list[Pair]:
    """Return every array of the network with FunASR's tensor of the same values."""
    pairs = [*_affine("narrow_in", "in_linear1"), *_affine("widen", "in_linear2")]
    for number in range(num_layers):
        ours, theirs = f"block{number}", f"fsmn.{number}"
        pairs += [_pair(f"{ours}/project/kernel", f"{theirs}.linear.linear.weight", LINEAR)]
        pairs += [_pair(f"{ours}/memory_kernel", f"{theirs}.fsmn_block.conv_left.weight", TAPS)]
        pairs += _affine(f"{ours}/affine", f"{theirs}.affine")
    return [*pairs, *_affine("narrow_out", "out_linear1"), *_affine("classify", "out_linear2")]


def _affine(ours: str, theirs: str) -> list[Pair]:
    weight, bias = f"{theirs}.linear.weight", f"{theirs}.linear.bias"
    return [_pair(f"{ours}/kernel", weight, LINEAR), _pair(f"{ours}/bias", bias)]


def _pair(ours: str, theirs: str, layout: Layout = AS_IS) -> Pair:
    return Pair(f"params/{ours}", f"encoder.{theirs}", layout)
