"""Writes list files that hold one sequence of a data set out of training, to choose settings by.

    python scripts/hold_out_sequence.py FOLDER_OF_CAMVID 0006R0 --out lists
    python -m seg.train --config configs/camvid_small.yaml data.root=FOLDER_OF_CAMVID \
        data.train_split=$PWD/lists/without_0006R0.txt data.val_split=$PWD/lists/only_0006R0.txt

Frames of a video resemble their neighbours. CamVid's official validation frames are between training frames of the
same drive, so scores on them are too good; a whole sequence that was never trained on (the part of a frame's name
before the underscore) is an honest judge. Training and official validation frames are both used.
"""

import argparse
import sys
from pathlib import Path


def pairs(root: Path, split: str) -> list[tuple[str, str]]:
    """Return (image, mask) of each frame of a split, relative to the root."""
    frames = []
    for image in sorted((root / split / "images").iterdir()):
        mask = root / split / "labels" / f"{image.stem}.png"
        frames.append((str(image.relative_to(root)), str(mask.relative_to(root))))
    return frames


def main() -> int:
    """Write `without_SEQUENCE.txt` and `only_SEQUENCE.txt`."""
    parser = argparse.ArgumentParser(description="Hold one sequence of CamVid out of training.")
    parser.add_argument("root", type=Path, help="folder with train/ and val/")
    parser.add_argument("sequence", help="beginning of the names of its frames, for example 0006R0")
    parser.add_argument("--out", type=Path, default=Path("lists"))
    arguments = parser.parse_args()
    try:
        frames = pairs(arguments.root, "train") + pairs(arguments.root, "val")
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}; expected train/images and val/images", file=sys.stderr)
        return 2
    held_out = [pair for pair in frames if Path(pair[0]).name.startswith(arguments.sequence)]
    if not held_out:
        known = sorted({Path(image).name.split("_")[0] for image, _ in frames})
        print(f"error: no frame begins with {arguments.sequence!r}; sequences: {', '.join(known)}", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    kept = [pair for pair in frames if pair not in held_out]
    for name, part in {"without": kept, "only": held_out}.items():
        path = arguments.out / f"{name}_{arguments.sequence}.txt"
        path.write_text("".join(f"{image} {mask}\n" for image, mask in part))
        print(f"{path}: {len(part)} frames")
    return 0


if __name__ == "__main__":
    sys.exit(main())
