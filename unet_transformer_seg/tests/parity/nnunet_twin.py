"""A results folder as nnU-Net v2 writes it, around a network of dynamic_network_architectures with drawn weights.

nnU-Net itself needs packages that this environment lacks; what it saves is put together here as its
`nnUNetTrainer.save_checkpoint` does. `PlainConvUNet` is the network that its plans name.
"""

import copy
import json

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet

NORM = "torch.nn.modules.instancenorm.InstanceNorm2d"


def make_plans(widths, strides, encoder_convs, decoder_convs, kernel_sizes=None, patch=(64, 64), schemes=None):
    arguments = {
        "n_stages": len(widths),
        "features_per_stage": list(widths),
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": kernel_sizes or [[3, 3]] * len(widths),
        "strides": strides,
        "n_conv_per_stage": encoder_convs,
        "n_conv_per_stage_decoder": decoder_convs,
        "conv_bias": True,
        "norm_op": NORM,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "nnUNetPlans_2d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 12,
        "patch_size": list(patch),
        "spacing": [1.0, 1.0],
        "normalization_schemes": schemes or ["RGBTo01Normalization"] * 3,
        "use_mask_for_norm": [False] * len(schemes or "rgb"),
        "architecture": architecture,
    }
    return {"plans_name": "nnUNetPlans", "configurations": {"2d": configuration}}


def make_dataset(labels=("background", "cell", "edge"), channels=("R", "G", "B")):
    numbered = {name: number for number, name in enumerate(labels)}
    return {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": numbered,
        "file_ending": ".png",
    }


def make_network(plans, dataset, seed):
    arguments = dict(plans["configurations"]["2d"]["architecture"]["arch_kwargs"])
    arguments |= {"conv_op": torch.nn.Conv2d, "norm_op": torch.nn.InstanceNorm2d, "nonlin": torch.nn.LeakyReLU}
    channels, classes = len(dataset["channel_names"]), len(dataset["labels"])
    network = PlainConvUNet(channels, num_classes=classes, deep_supervision=True, **arguments)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            normal = torch.randn(value.shape, generator=generator)
            # Scales near 1, biases near 0, kernels that keep the spread.
            value.copy_(normal * (2 / value[0].numel()) ** 0.5 if value.ndim == 4 else 0.3 * normal + 1)
    network.decoder.deep_supervision = False
    return network.eval()


def write_results(folder, network, plans, dataset, trainer="nnUNetTrainer"):
    """Write the folder, and return the checkpoint's path."""
    fold = folder / f"{trainer}__nnUNetPlans__2d" / "fold_0"
    fold.mkdir(parents=True)
    optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.99, nesterov=True)
    init_args = {"plans": copy.deepcopy(plans), "configuration": "2d", "fold": 0, "dataset_json": dataset}
    checkpoint = {
        "network_weights": network.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [torch.tensor(0.5).numpy().mean()], "ema_fg_dice": [0.5]},
        "_best_ema": 0.5,
        "current_epoch": 1000,
        "init_args": {**init_args, "device": torch.device("cpu")},
        "trainer_name": trainer,
        "inference_allowed_mirroring_axes": (0, 1),
    }
    torch.save(checkpoint, fold / "checkpoint_final.pth")
    (fold.parent / "plans.json").write_text(json.dumps(plans))
    (fold.parent / "dataset.json").write_text(json.dumps(dataset))
    return fold / "checkpoint_final.pth"
