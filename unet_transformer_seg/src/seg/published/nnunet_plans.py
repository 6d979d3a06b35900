"""What nnU-Net writes beside a checkpoint: `plans.json` and `dataset.json`, read as settings of a model here.

    nnUNetTrainer__nnUNetPlans__2d/plans.json                how the network is built and images are prepared
    nnUNetTrainer__nnUNetPlans__2d/dataset.json              channels and labels
    nnUNetTrainer__nnUNetPlans__2d/fold_0/checkpoint_final.pth

A checkpoint also contains both files as they were when its training started (`init_args`). They are used where the
files are missing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from seg.config import PlainConvUNetConfig
from seg.errors import UserError
from seg.published.file_kinds import describe_folder
from seg.published.settings_file import entry, read_settings
from seg.untrusted import escaped, shown

PLANS, DATASET = "plans.json", "dataset.json"
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
MAX_PARENTS = 10  # most configurations that inherit from one another


class Plans(NamedTuple):
    """The plans of one configuration, and where they come from."""

    where: str  # file and configuration, for messages
    configuration: dict[str, Any]
    dataset_where: str  # the same of the data set
    dataset: dict[str, Any]
    intensities: dict[str, Any]  # channel number, as a text → mean, std and percentiles of the foreground


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint at `path`: itself, that of a fold, or that of the only fold of a results folder."""
    if not path.is_dir():
        return path
    folds = [path, *sorted(path.glob("fold_*"))]
    checkpoints = [next((f / name for name in CHECKPOINTS if (f / name).is_file()), None) for f in folds]
    checkpoints = [checkpoint for checkpoint in checkpoints if checkpoint]
    if not checkpoints:
        raise UserError(f"{path}: no fold_0/{CHECKPOINTS[0]}: {describe_folder(path)}")
    if len(checkpoints) > 1:
        raise UserError(
            f"{path}: {len(checkpoints)} folds are trained; name the checkpoint of one, such as {checkpoints[0]}"
        )
    return checkpoints[0]


def read_plans(checkpoint: Path, init_args: Any) -> Plans:
    """Return the plans of a checkpoint, from the files of its results folder or from the checkpoint itself.

    Args:
        checkpoint: the file; its results folder is the folder above its own, or its own.
        init_args: what the checkpoint holds under this key.
    """
    init_args = init_args if isinstance(init_args, dict) else {}
    folders = (checkpoint.absolute().parent.parent, checkpoint.absolute().parent)
    folder = next((f for f in folders if (f / PLANS).is_file() and (f / DATASET).is_file()), None)
    if folder:
        where, dataset_where, name = folder / PLANS, folder / DATASET, folder.name.split("__")[-1]
        plans, dataset = (read_settings(path, "nnU-Net") for path in (where, dataset_where))
    else:
        if not {"plans", "dataset_json"} <= init_args.keys():
            raise UserError(
                f"{checkpoint}: expected {PLANS} and {DATASET} of nnU-Net in the folder above, found neither"
            )
        where, dataset_where, name = checkpoint, f"{checkpoint}: dataset_json", "2d"
        plans, dataset = (entry(init_args, key, dict, checkpoint) for key in ("plans", "dataset_json"))
    if isinstance(init_args.get("configuration"), str):
        name = init_args["configuration"]
    configuration = _configuration(entry(plans, "configurations", dict, where), name, where)
    intensities = plans.get("foreground_intensity_properties_per_channel")
    intensities = intensities if isinstance(intensities, dict) else {}
    where = f"{where}: configuration {escaped(name)}"
    return Plans(where, configuration, str(dataset_where), dataset, intensities)


def _configuration(configurations: Mapping[str, Any], name: str, where: Any) -> dict[str, Any]:
    """Return a configuration with the entries that it inherits."""
    configuration: dict[str, Any] = {}
    for _ in range(MAX_PARENTS):
        own = entry(configurations, name, dict, f"{where}: configurations")
        configuration = {**own, **configuration}
        if "inherits_from" not in own:
            return configuration
        name = entry(own, "inherits_from", str, f"{where}: {name}")
    raise UserError(f"{where}: {escaped(name)} inherits from itself")


def read_patch_size(plans: Plans) -> tuple[int, int]:
    """Return rows and columns of the window that the network was trained on; refuse a network in three dimensions."""
    sides = entry(plans.configuration, "patch_size", list, plans.where)
    if len(sides) == 3:
        raise UserError(
            f"{plans.where}: this is a 3-D nnU-Net; here images have two dimensions: use its configuration 2d"
        )
    return _pair(sides, "patch_size", plans.where)


def read_stages(plans: Plans) -> PlainConvUNetConfig:
    """Return the network's stages; refuse a network that is no PlainConvUNet, by its name."""
    configuration, where = plans.configuration, plans.where
    if "architecture" in configuration:
        architecture = entry(configuration, "architecture", dict, where)
        name = entry(architecture, "network_class_name", str, where)
        plan = entry(architecture, "arch_kwargs", dict, where)
    else:
        name, plan = entry(configuration, "UNet_class_name", str, where), _old_plan(configuration, where)
    if (kind := name.split(".")[-1]) != "PlainConvUNet":
        raise UserError(f"{where}: this is a {escaped(kind)} of nnU-Net; only its PlainConvUNet is read")
    _check_layers(plan, where)
    widths = entry(plan, "features_per_stage", list, where)
    widths = tuple(_whole(width, "features_per_stage", where) for width in widths)
    num_stages = len(widths)
    return PlainConvUNetConfig(
        widths=widths,
        kernel_sizes=tuple(_pair(x, "kernel_sizes", where) for x in _each(plan, "kernel_sizes", num_stages, where)),
        strides=tuple(_pair(x, "strides", where) for x in _each(plan, "strides", num_stages, where)),
        encoder_convs=tuple(
            _whole(x, "n_conv_per_stage", where) for x in _each(plan, "n_conv_per_stage", num_stages, where)
        ),
        # There the coarsest is first.
        decoder_convs=tuple(
            _whole(x, "n_conv_per_stage_decoder", where)
            for x in _each(plan, "n_conv_per_stage_decoder", num_stages - 1, where)[::-1]
        ),
        up_bias=entry(plan, "conv_bias", bool, where),
    )


def _old_plan(configuration: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the arguments of the network from plans of nnU-Net before 2.5."""
    convs = entry(configuration, "n_conv_per_stage_encoder", list, where)
    base = entry(configuration, "UNet_base_num_features", int, where)
    most = entry(configuration, "unet_max_num_features", int, where)
    return {
        "features_per_stage": [min(base * 2 ** min(i, 30), most) for i in range(min(len(convs), 100))],
        "kernel_sizes": configuration.get("conv_kernel_sizes"),
        "strides": configuration.get("pool_op_kernel_sizes"),
        "n_conv_per_stage": convs,
        "n_conv_per_stage_decoder": configuration.get("n_conv_per_stage_decoder"),
        "conv_bias": True,
    }


def _check_layers(plan: Mapping[str, Any], where: str) -> None:
    """Refuse layers other than those that nnU-Net plans by itself; one that is not stated is as planned."""
    expected = {"conv_op": "Conv2d", "norm_op": "InstanceNorm2d", "nonlin": "LeakyReLU"}
    for key, name in expected.items():
        if key in plan and str(plan[key]).split(".")[-1] != name:
            raise UserError(f"{where}: {key}: expected {name}, found {shown(plan[key])}")
    for key, name, value in (
        ("norm_op_kwargs", "eps", 1e-5),
        ("norm_op_kwargs", "affine", True),
        ("nonlin_kwargs", "negative_slope", 0.01),
    ):
        arguments = plan.get(key) or {}
        if isinstance(arguments, dict) and arguments.get(name, value) != value:
            raise UserError(f"{where}: {key}: expected {name} {value}, found {shown(arguments[name])}")
    if plan.get("nonlin_first"):
        raise UserError(f"{where}: nonlin_first: expected the norm before the leaky ReLU, found the opposite")


def read_class_names(plans: Plans) -> tuple[str, ...]:
    """Return the names of the labels in their order; one that is ignored in training is left out."""
    where = plans.dataset_where
    labels = entry(plans.dataset, "labels", dict, where)
    if region := next((name for name, label in labels.items() if isinstance(label, list) and len(label) > 1), None):
        raise UserError(f"{where}: labels: {shown(region)} is a region of several labels; expected one number for each")
    labels = {str(name): label[0] if isinstance(label, list) and label else label for name, label in labels.items()}
    names = {_whole(label, "labels", where): name for name, label in labels.items() if name != "ignore"}
    if len(names) < 2 or sorted(names) != list(range(len(labels) - ("ignore" in labels))):
        raise UserError(f"{where}: labels: expected the numbers 0, 1, 2, …, found {shown(sorted(names))}")
    return tuple(names[label] for label in range(len(names)))


def _each(plan: Mapping[str, Any], key: str, num_stages: int, where: str) -> list:
    """Return one value for each stage: those of a list, or a single one repeated; the list may still be too short."""
    value = plan.get(key)
    return value[:100] if isinstance(value, list) else [value] * min(num_stages, 100)


def _pair(value: Any, key: str, where: str) -> tuple[int, int]:
    """Return two whole numbers: those of a list, or a single one twice."""
    values = value if isinstance(value, list) else [value, value]
    if len(values) != 2:
        raise UserError(f"{where}: {key}: expected two numbers, for two dimensions, found {shown(value)}")
    return _whole(values[0], key, where), _whole(values[1], key, where)


def _whole(value: Any, key: str, where: str) -> int:
    if type(value) is not int:
        raise UserError(f"{where}: {key}: expected a whole number, found {shown(value)}")
    return value
