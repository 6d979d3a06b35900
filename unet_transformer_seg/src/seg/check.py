"""Look over a data set before training: `seg check --config CONFIG [key=value …]`."""

import argparse
from pathlib import Path

from seg.cli import run_command
from seg.config import Config, DataConfig
from seg.config.reader import load_start_config
from seg.errors import EXIT_OK, EXIT_USER_ERROR, UserError
from seg.files import naming_the_file
from seg.untrusted import indented

SPLITS = ("train", "val", "test")
SAMPLES_PER_SPLIT = 3
MAX_RANGES = 4  # channels whose range is shown


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="seg check",
        description="Read every sample of a data set: count the classes, name the files that cannot be used and what "
        "to do, find images that two splits share, and draw samples with their masks.",
        epilog="Exit codes: 0 all samples are usable, 2 at least one is not.",
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file, or the name of a packaged config")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a picture of samples")
    parser.add_argument(
        "--all", action="store_true", help="list every file that cannot be used, not a few of each kind"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example data.root=FOLDER")
    return parser.parse_intermixed_args()


def main() -> int:
    """Read, report; return the exit code."""
    arguments = parse_arguments()
    config = load_start_config(arguments.config, arguments.overrides)
    if arguments.out:
        # Before anything is read.
        if arguments.out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
            raise UserError(f"--out {arguments.out}: expected a file that ends in .png, .jpg or .webp")
        if not arguments.out.absolute().parent.is_dir():
            raise UserError(f"--out {arguments.out}: there is no folder {arguments.out.absolute().parent}")

    from seg.data.inspection import describe_problems, find_warnings  # imports jax: after the config was checked

    reports, data = read_splits(config)
    print(format_table(reports))
    print(describe_images(data))
    train = reports["train"]
    if train.pixels_k.any():
        from seg.losses.class_weights import median_frequency_weights

        weights_k = median_frequency_weights(train.pixels_k, train.present_pixels_k)
        print(f"median-frequency weights: [{', '.join(f'{w:.4g}' for w in weights_k)}]")
        print("  (loss.class_weighting: median_frequency takes them; loss.class_weight_power: 0.5 is milder)")
    for warning in find_warnings(reports):
        print(indented(f"warning: {warning}"))
    if arguments.out:
        draw_samples(reports, arguments.out, config.data.shown_channels)
    num_bad = sum(report.num_bad for report in reports.values())
    if not num_bad:
        print("all samples are usable")
        return EXIT_OK
    print(f"\n{num_bad:,} samples cannot be used:")
    print("\n".join(map(indented, describe_problems(reports, arguments.all))))
    return EXIT_USER_ERROR


def read_splits(config: Config) -> tuple[dict, DataConfig]:
    """Return the report of each split, and the settings of the images; a data set may do without a test split."""
    from tqdm import tqdm

    from seg.data.inspection import inspect_split
    from seg.data.settlement import settle_images

    def progress(findings, **labels):
        return tqdm(findings, unit="image", disable=None, **labels)

    reports, data = {}, settle_images(config.data)
    for split in SPLITS:
        try:
            reports[split] = inspect_split(data, split, config.seed, progress, config.model.labels)
        except UserError as error:
            if split != "test":
                raise
            print(indented(f"no test split: {error}"))
    return reports, data


def describe_images(data: DataConfig) -> str:
    """Return how a model trained with these settings sees an image."""
    bits = "8 bits" if data.precision == "uint8" else "float32"
    text = f"images: {data.channels} channel{'s' * (data.channels > 1)} in {bits}"
    if data.normalise == "image":
        return f"{text}, each channel of an image brought to mean 0 and deviation 1"
    if data.channel_ranges:
        ranges = ", ".join(f"[{black:.5g}, {white:.5g}]" for black, white in data.channel_ranges[:MAX_RANGES])
        more = ", …" if len(data.channel_ranges) > MAX_RANGES else ""
        return f"{text}; black and white by percentiles: {ranges}{more}"
    black, white = data.value_range
    return f"{text}; {black:g} is black, {white:g} is white" if white > black else text


def format_table(reports: dict) -> str:
    """Return pixels, share and number of images of each class and split."""
    names = next(iter(reports.values())).dataset.classes.names
    width = max(len("ignored"), *map(len, names))
    head = "".join(f" │ {split + ': pixels':>15} {'share':>7} {'images':>7}" for split in reports)
    lines = [f"{'class':<{width}}{head}"]
    for k, name in enumerate(names):
        cells = ((r.pixels_k[k], r.labelled_k[k], r.images_k[k]) for r in reports.values())
        lines.append(f"{name:<{width}}" + "".join(f" │ {n:>15,} {n / max(s, 1):>7.2%} {i:>7,}" for n, s, i in cells))
    totals = ((r.ignored_pixels, r.ignored_pixels + r.labelled_k.min(), r.ignored_images) for r in reports.values())
    lines.append(f"{'ignored':<{width}}" + "".join(f" │ {n:>15,} {n / max(s, 1):>7.2%} {i:>7,}" for n, s, i in totals))
    for split, report in reports.items():
        common = ", ".join(f"{h}×{w} ({count})" for (h, w), count in report.sizes.most_common(3))
        notes = "".join(f"; {note}" for note in report.notes)
        lines.append(f"{split}: {len(report.usable)} images{notes}; height×width: {common}")
        if report.usable:
            lines[-1] += f"; values {report.lowest:.3g} … {report.highest:.3g}"
    return "\n".join(lines)


def draw_samples(reports: dict, path: Path, shown_channels: tuple[int, ...]) -> None:
    """Write a picture of the first usable samples of each split, evenly spread over it."""
    from seg.pictures import as_picture, draw_comparison

    samples = [sample for report in reports.values() for sample in report.examples(SAMPLES_PER_SPLIT)]
    if samples:
        images, masks, names = ([getattr(s, field) for s in samples] for field in ("image", "mask", "name"))
        images = [as_picture(image_hwc, shown_channels) for image_hwc in images]
        with naming_the_file(path):
            draw_comparison(images, masks, None, reports["train"].dataset.classes, path, names)
        print(f"picture of {len(samples)} samples: {path}")


if __name__ == "__main__":
    run_command(main)
