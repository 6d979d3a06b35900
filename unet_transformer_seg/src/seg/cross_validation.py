"""Cross-validation: one run for each fold, one after another, and the mean and spread of their scores.

The runs are in `<runs_dir>/<name>_folds/`, with `folds.json`: the scores of the finished ones, and their summary.
"""

import dataclasses
import json
import math
import shlex
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seg.config import Config
from seg.config.rules import check_config
from seg.errors import EXIT_OK, EXIT_UNFINISHED, UserError
from seg.files import read_bounded, replace_json
from seg.record.changes import keep_decided, list_changes
from seg.record.record_file import load_own_config

if TYPE_CHECKING:
    from seg.training.run import Run

DEFAULT_FOLDS = 5
SUMMARY = "folds.json"
SCORES = ("mean_iou", "mean_dice", "pixel_accuracy")
CLASS_SCORES = ("iou", "dice")
MAX_SUMMARY_BYTES = 1 << 26


def with_folds(config: Config) -> Config:
    """Return the config with its number of folds, else `DEFAULT_FOLDS`, instead of a validation split of its own."""
    number = config.data.num_folds or DEFAULT_FOLDS
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, num_folds=number, val_fraction=0.0))
    check_config(config)
    return config


def train_folds(config: Config, train: Callable[..., "Run"], max_minutes: float | None = None) -> int:
    """Train each fold, print a table of the scores, and return the exit code.

    The same call continues one that was stopped: finished folds are left as they are, an unfinished one resumes.

    Args:
        config: of a fold, with `data.num_folds`.
        train: `seg.api.train`, which starts or resumes a run.
        max_minutes: save and stop after this time.

    Raises:
        UserError: as of `train`.
    """
    from seg.data.settlement import settle_images

    # Once for all: models that predict together must read images alike.
    config = dataclasses.replace(config, data=settle_images(dataclasses.replace(config.data, fold=0)))
    folder = Path(config.runs_dir) / f"{config.name}_folds"
    deadline = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
    scores = _read_scores(folder / SUMMARY)
    for fold in range(config.data.num_folds):
        own = _config_of(config, fold, folder)
        path = _find_run(folder, fold)
        if path and str(fold) in scores and not _changes(path, own):
            print(f"fold {fold}: finished in {path}", flush=True)
            continue
        left = None if max_minutes is None else (deadline - time.monotonic()) / 60
        if left is not None and left <= 0:
            print("the time is over; the same command does the rest")
            return EXIT_UNFINISHED
        print(f"fold {fold} of {config.data.num_folds}", flush=True)
        run = train(own, resume=path, max_minutes=left, owns_process=True)
        if not run.finished:
            print("stopped; the same command does the rest")
            return run.exit_code
        scores[str(fold)] = {"run": run.path.name, **_best_scores(run.path / "metrics.json")}
        replace_json(folder / SUMMARY, {"folds": scores, "summary": summarise(list(scores.values()))})
    print(format_table(scores))
    print(f"scores: {folder / SUMMARY}")
    if _has_test(config):
        print(f"together: seg eval --run {shlex.quote(str(folder))}/*_fold* --split test")
    return EXIT_OK


def _has_test(config: Config) -> bool:
    from seg.data.pairing.splits import find_split

    try:
        return bool(find_split(config.data, "test").pairs)
    except UserError:
        return False


def _config_of(config: Config, fold: int, folder: Path) -> Config:
    data = dataclasses.replace(config.data, fold=fold)
    return dataclasses.replace(config, name=f"{config.name}_fold{fold}", runs_dir=str(folder), data=data)


def _find_run(folder: Path, fold: int) -> Path | None:
    """Return the newest run of a fold, whose name begins with its time."""
    runs = sorted(path for path in folder.glob(f"*_fold{fold}") if (path / "config.yaml").is_file())
    return runs[-1] if runs else None


def _changes(path: Path, config: Config) -> bool:
    """Return whether the settings differ from those of a run."""
    own = load_own_config(path)
    return bool(list_changes(own, keep_decided(own, config)))


def _read_scores(path: Path) -> dict[str, dict[str, Any]]:
    """Return fold → scores of the finished folds."""
    try:
        folds = json.loads(read_bounded(path, MAX_SUMMARY_BYTES))["folds"]
        return {fold: dict(scores) for fold, scores in folds.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error!s:.200}); move it away") from None


def _best_scores(path: Path) -> dict[str, float]:
    """Return the scores of the evaluation with the best mean IoU, whose checkpoint a model of the run uses."""
    evaluations = json.loads(read_bounded(path, MAX_SUMMARY_BYTES))
    best = max(evaluations, key=lambda evaluation: evaluation["mean_iou"] or 0.0)
    scores = {name: best[name] for name in SCORES}
    for entry in best["classes"]:
        scores |= {f"{name} {entry['name']}": entry[name] for name in CLASS_SCORES}
    return scores


def summarise(scores: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Return the mean and the standard deviation of each score over the folds where it is defined."""
    summary = {}
    for name in [name for name in scores[0] if name != "run"]:
        values = [fold[name] for fold in scores if fold.get(name) is not None]
        summary[name] = {
            "mean": statistics.fmean(values) if values else None,
            "sd": statistics.stdev(values) if len(values) > 1 else None,
        }
    return summary


def format_table(scores: dict[str, dict[str, Any]]) -> str:
    """Return a line for each score: its mean ± standard deviation, and its value in each fold."""
    folds = sorted(scores, key=int)
    summary = summarise([scores[fold] for fold in folds])
    width = max(map(len, summary))
    lines = [f"{'validation':<{width}}    mean ± sd       " + "  ".join(f"fold {fold:<2}" for fold in folds)]
    for name, both in summary.items():
        values = "   ".join(_shown(scores[fold].get(name)) for fold in folds)
        lines.append(f"{name:<{width}}  {_shown(both['mean'])} ± {_shown(both['sd'])}    {values}")
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "–     " if value is None else f"{value:.4f}"
