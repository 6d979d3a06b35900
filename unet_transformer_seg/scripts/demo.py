"""The demo: trains on the generated shapes, evaluates on new ones, and segments images it has never seen.

    python scripts/demo.py

It writes into the folder demo/seg of the checkout.
"""

import subprocess
import sys
from pathlib import Path

from PIL import Image

PROJECT = Path(__file__).resolve().parents[1]
OUT = PROJECT.parent / "demo" / "seg"
CONFIG = PROJECT / "configs" / "toy_unet_transformer.yaml"
NUM_NEW_IMAGES = 6


def run(module: str, *arguments: str | Path) -> None:
    """Show and run one command line of the package; stop the demo if it fails."""
    shown = " ".join(["python", "-m", module, *map(str, arguments)])
    print(f"\n$ {shown}", flush=True)
    code = subprocess.run([sys.executable, "-m", module, *map(str, arguments)]).returncode
    if code:
        sys.exit(code)


def write_new_images(folder: Path) -> None:
    """Write generated images of a seed that no split uses."""
    from seg.config import DataConfig
    from seg.data import build_dataset

    folder.mkdir(parents=True, exist_ok=True)
    dataset = build_dataset(DataConfig(size=(96, 128)), "test", seed=1234)
    for i in range(NUM_NEW_IMAGES):
        Image.fromarray(dataset[i].image).save(folder / f"shapes_{i}.png")


def main() -> None:
    """Train, evaluate, infer."""
    run("seg.train", "--config", CONFIG, f"runs_dir={OUT / 'runs'}")
    run_dir = max((OUT / "runs").iterdir())
    run("seg.eval", "--run", run_dir, "--split", "test")
    write_new_images(OUT / "new_images")
    run("seg.infer", "--run", run_dir, "--out", OUT / "predictions", OUT / "new_images")

    print("\nThe segmentation demo is done. Look at:")
    for what, where in {
        "how it learned": run_dir / "curves.png",
        "what it saw while training": run_dir / "samples",
        "scores, best and worst test images": run_dir / "eval_test",
        "new images segmented": OUT / "predictions",
    }.items():
        print(f"  {what:36} {where}")


if __name__ == "__main__":
    main()
