"""Draw how far networks see: the share of ring pixels of `toy_far` that get the right class, by distance from the key.

    python scripts/score_by_distance.py --run RUN_OF_THE_U_NET --run RUN_OF_THE_HYBRID --out far.png

The class of a ring follows from the colour of a disc at the left edge. A network that cannot see the disc from the ring
can only guess: 50 %. Counted are the ring pixels that were predicted as a ring of either class. Of several runs of one
network the mean is drawn, and each run as a thin line.
"""

import argparse
import collections
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import seg
from seg.cli import run_command
from seg.data.toy_far import KEY_PLACE
from seg.errors import UserError

BIN = 12
"""Width of a group of distances, in pixels."""


def count_by_distance(model: seg.Predictor, dataset: seg.SegmentationDataset) -> np.ndarray:
    """Return int[2, columns]: ring pixels of the right class, and of either, by distance from the key's centre."""
    height, width = model.config.data.size
    key_column = round(KEY_PLACE * height)
    counts = np.zeros((2, width), np.int64)
    for index in range(len(dataset)):
        sample = dataset[index]
        labels_hw = model.predict(sample.image).labels
        is_ring_hw = (sample.mask > 0) & (labels_hw > 0)
        counts += np.stack([(is_ring_hw & (labels_hw == sample.mask)).sum(0), is_ring_hw.sum(0)])
    return counts[:, key_column:]


def main() -> int:
    """Score the runs; print the table and draw the curves."""
    parser = argparse.ArgumentParser(description="Score runs on toy_far by the distance from the key.")
    parser.add_argument("--run", type=Path, action="append", required=True, help="may be repeated")
    parser.add_argument("--out", type=Path, default=Path("far.png"))
    arguments = parser.parse_args()
    figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
    shares, sizes = collections.defaultdict(list), set()  # of each network, one for each run
    for run in arguments.run:
        model = seg.load(run)
        if model.config.data.dataset != "toy_far":
            raise UserError(f"{run}: expected a run on toy_far, found one on {model.config.data.dataset}")
        sizes.add(model.config.data.size)
        if len(sizes) > 1:
            raise UserError(f"{run}: expected images of the size of the runs before, found {model.config.data.size}")
        right, either = count_by_distance(model, seg.build_dataset(model.config.data, "test", model.config.seed))
        starts = np.arange(0, len(right), BIN)
        right, either = np.add.reduceat(right, starts), np.add.reduceat(either, starts)
        share = right / np.where(either > 0, either, np.nan)
        shares[model.config.model.name].append(100 * share)
        pairs = (f"{start + BIN // 2}: {100 * s:.0f}" for start, s in zip(starts, share, strict=True) if s == s)
        print(f"{run.name}  {right.sum() / either.sum():.1%} right; by pixels of distance, in %: {', '.join(pairs)}")
    for name, runs in shares.items():
        (line,) = axis.plot(starts + BIN / 2, np.mean(runs, axis=0), marker="o", label=f"{name}, runs: {len(runs)}")
        axis.plot(starts + BIN / 2, np.transpose(runs), color=line.get_color(), linewidth=0.6)
    axis.axhline(50, color="grey", linewidth=0.8, linestyle=":")
    axis.set(xlabel="distance from the disc in pixels", ylabel="ring pixels of the right class in %", ylim=(0, 103))
    axis.legend(loc="lower center")
    figure.savefig(arguments.out, dpi=120)
    print(f"drawn: {arguments.out}")
    return 0


if __name__ == "__main__":
    run_command(main)
