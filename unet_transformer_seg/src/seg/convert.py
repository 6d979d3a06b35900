"""Open published weights, or write some: `seg convert --from milesial FILE.pth --out FOLDER`."""

import argparse
import shlex
from pathlib import Path

from seg import api
from seg.arguments import SCALES
from seg.cli import run_command
from seg.config import Config
from seg.config.reader import load_config
from seg.config.schema import SCALE_MEANING
from seg.errors import EXIT_OK, UserError
from seg.files import naming_the_file

ENCODERS = ("efficientnet-lite", "torchvision")
SOURCES = ("milesial", "transunet", "r50-vit", "smp", "nnunet", "segformer", *ENCODERS)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="seg convert",
        description="Write published weights as a model folder: a U-Net of milesial/Pytorch-UNet, a TransUNet, the "
        "R50+ViT npz that initialises a TransUNet, a Unet of segmentation_models_pytorch, a two-dimensional "
        "PlainConvUNet of nnU-Net v2, or a SegFormer of transformers. Or write an encoder trained on ImageNet "
        "(EfficientNet-Lite, or a ResNet of torchvision or timm) as a folder to begin a run with. Or write a U-Net of "
        "this package as a file that milesial/Pytorch-UNet loads. Torch is not needed, and weight files are not "
        "executed.",
        epilog="Exit codes: 0 written, 2 wrong input.",
    )
    direction = parser.add_mutually_exclusive_group(required=True)
    kinds = "{" + ",".join(SOURCES) + "}"
    direction.add_argument("--from", dest="source", nargs=2, metavar=(kinds, "FILE"), help="published weights")
    direction.add_argument("--to", dest="target", nargs=2, metavar=("milesial", "MODEL"), help="run, or model folder")
    parser.add_argument("--out", type=Path, required=True, help="the new model folder, or with --to the new file")
    parser.add_argument("--classes", metavar="A,B,…", default="", help="class names, background first")
    parser.add_argument("--num-classes", type=int, default=2, help="r50-vit: classes to learn (default: 2)")
    parser.add_argument("--num-heads", type=int, help="transunet: attention heads (default: one per 64 channels)")
    default = "default: native; transunet: trained; milesial: the factor in the file name, such as scale0.5"
    parser.add_argument("--scale", metavar=SCALES, help=f"--from: {SCALE_MEANING} ({default})")
    parser.add_argument(
        "--checkpoint", choices=("best", "last"), default="best", help="--to: of the run (default: best)"
    )
    parser.add_argument("--force", action="store_true", help="replace what an earlier call wrote")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example data.size=[640,960]")
    arguments = parser.parse_intermixed_args()
    kind, known = (arguments.source or arguments.target)[0], SOURCES if arguments.source else ("milesial",)
    if arguments.scale and arguments.target:
        parser.error("--scale goes with --from; with --to, pass the scale to milesial's predict.py")
    if kind not in known:
        parser.error(f"expected {', '.join(known)}; found {kind!r}")
    return arguments


def open_file(kind: str, path: Path, arguments: argparse.Namespace) -> None:
    """Write the model folder of published weights."""
    from seg.config.reader import override_config
    from seg.inference.model_folder import check_target, save_model_folder
    from seg.published.published_model import array_shapes, open_published

    check_target(arguments.out, arguments.force)
    names = [name.strip() for name in arguments.classes.split(",") if name.strip()]
    sizes = {"num_heads": arguments.num_heads, "num_classes": arguments.num_classes}
    published, *parts = open_published(kind, path, names=names, **sizes)
    scale = [f"inference.scale={arguments.scale}"] if arguments.scale else []
    config = override_config(published, [*arguments.overrides, *scale])
    if array_shapes(config.model, config.data.channels) != array_shapes(published.model, published.data.channels):
        raise UserError(
            f"{path}: its tensors do not fit a model with {' '.join(arguments.overrides)}; leave out what changes "
            "widths, depths or the number of classes"
        )
    save_model_folder(arguments.out, config, *parts, force=arguments.force)
    print(describe_scale(config))
    if kind == "milesial" and config.inference.scale == "native" and not arguments.scale:
        print("milesial's train.py halves images by default: if yours did, convert again with --scale 0.5 --force")


def open_encoder_file(kind: str, path: Path, arguments: argparse.Namespace) -> None:
    """Write the folder of a published encoder, which `init` of a config accepts."""
    from seg.inference.encoder_folder import save_encoder_folder
    from seg.inference.model_folder import check_target
    from seg.published.imagenet import open_encoder

    if arguments.overrides or arguments.classes or arguments.scale:
        raise UserError(f"{kind}: an encoder has no settings; put them into the config of the run that begins with it")
    check_target(arguments.out, arguments.force)
    published = open_encoder(kind, path)
    save_encoder_folder(arguments.out, *published, force=arguments.force)
    out = shlex.quote(str(arguments.out))
    print(f"{published.config.model.encoder}; begin a run with it: --init {out}, or init: in a config")


def describe_scale(config: Config) -> str:
    """Return what a model does with the size of an image, in words."""
    match config.inference.scale, config.data.fit:
        case "trained", "resize":
            height, width = config.data.size
            how = f"resized to fit into {height} × {width}"
        case (("trained" | "native"), _):
            how = "kept at their own size"
        case factor, _:
            how = f"scaled by {factor:g}"
    return f"images are {how} (inference.scale; --scale changes it), and masks come in the size of the image"


def write_file(folder: Path, arguments: argparse.Namespace) -> None:
    """Write the weights of a run or a model folder as a file for milesial/Pytorch-UNet."""
    load_config(folder / "config.yaml", arguments.overrides)  # a mistake is answered before jax is imported
    if arguments.out.exists() and not (arguments.force and arguments.out.is_file()):
        raise UserError(f"{arguments.out}: exists already; choose another --out, or replace a file with --force")

    from seg.inference.model_folder import load_origin
    from seg.published.published_model import save_milesial

    predictor = api.load(folder, checkpoint=arguments.checkpoint, overrides=arguments.overrides)
    with naming_the_file(arguments.out):
        save_milesial(arguments.out, predictor.config, predictor.variables, load_origin(folder))


def main() -> int:
    """Convert in the direction that the arguments choose; return the exit code."""
    arguments = parse_arguments()
    if arguments.source and arguments.source[0] in ENCODERS:
        open_encoder_file(arguments.source[0], Path(arguments.source[1]), arguments)
    elif arguments.source:
        open_file(arguments.source[0], Path(arguments.source[1]), arguments)
    else:
        write_file(Path(arguments.target[1]), arguments)
    files = arguments.out.iterdir() if arguments.out.is_dir() else [arguments.out]
    print(f"{arguments.out}: {sum(file.stat().st_size for file in files) / 1e6:.1f} MB")
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
