"""Choose `inference.logit_shift`, which lets a trained model predict rare classes more often, or less.

    python scripts/choose_logit_shift.py --run RUN data.val_split=lists/only_0006R0.txt

Cross entropy weighs a class by its pixels, so a network that is unsure prefers the frequent one. The shift

    shift[k] = τ · log( median(frequency) / frequency[k] )

takes a part τ of that preference back. A network whose training weighted rare classes, or copied them into its images,
may prefer them: then τ is negative. It needs no training: the probabilities are computed once, and each τ decides anew.
Choose it on images that the run was not trained on (scripts/hold_out_sequence.py), never on the test split.

Reference: Menon et al. 2021, "Long-tail learning via logit adjustment".
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

import seg
from seg.cli import run_command
from seg.errors import UserError
from seg.losses.class_weights import median_frequency_weights
from seg.metrics import count_pairs

STRENGTHS = np.round(np.arange(-1, 1.01, 0.1), 1) + 0.0  # −0 becomes 0


def score_strengths(model: seg.Predictor, dataset: seg.SegmentationDataset, shift_k: np.ndarray) -> list[float]:
    """Return the mean IoU of the split with each of STRENGTHS times the shift."""
    counts = np.zeros((len(STRENGTHS), len(shift_k), len(shift_k)), np.int64)
    for index in tqdm(range(len(dataset)), unit="image", disable=None, file=sys.stderr):
        sample = dataset[index]
        probabilities_hwk = model.predict(sample.image, probabilities=True).probabilities
        log_hwk = np.log(np.maximum(probabilities_hwk, 1e-30))
        for i, strength in enumerate(STRENGTHS):
            labels_hw = (log_hwk + strength * shift_k).argmax(-1).astype(np.uint8)
            counts[i] += count_pairs(sample.mask, labels_hw, len(shift_k))
    return [float(seg.compute_metrics(one).mean_iou) for one in counts]


def main() -> int:
    """Print the score of each strength, and the setting of the best one."""
    parser = argparse.ArgumentParser(description="Choose a shift of the logits for rare classes.")
    parser.add_argument("--run", type=Path, required=True, help="run directory or model folder")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as data.val_split=LIST")
    arguments = parser.parse_intermixed_args()
    overrides = [*arguments.overrides, "inference.logit_shift=[]"]
    model = seg.load(arguments.run, checkpoint=arguments.checkpoint, overrides=overrides)
    if model.classes.overlapping:
        raise UserError(f"{arguments.run}: overlapping classes have thresholds, which training chooses itself")
    data, seed = model.config.data, model.config.seed
    # log(median / frequency); a class that training never showed keeps its logit.
    shift_k = np.log(median_frequency_weights(*seg.build_dataset(data, "train", seed).count_pixels()))
    scores = score_strengths(model, seg.build_dataset(data, "val", seed), shift_k)
    for strength, score in zip(STRENGTHS, scores, strict=True):
        print(f"τ {strength:.1f}  mean IoU {score:.4f}")
    _, _, best = max(zip(scores, -np.abs(STRENGTHS), STRENGTHS, strict=True))  # of equal scores the smallest shift
    print(f"inference.logit_shift=[{','.join(f'{value + 0.0:.3f}' for value in np.round(best * shift_k, 3))}]")
    return 0


if __name__ == "__main__":
    run_command(main)
