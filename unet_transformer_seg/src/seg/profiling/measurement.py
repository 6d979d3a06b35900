"""The result of a benchmark, and the numbers reported from it."""

import dataclasses
from typing import Any

import jax
import numpy as np

PEAK_FLOPS = {
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
}
"""Peak dense bfloat16 operations per second, from the data sheets."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The result of one benchmark; times in seconds."""

    mode: str  # "train", "infer" or "input"
    batch: int  # images in a step
    compile_s: float  # time to trace and compile; 0 if nothing is compiled
    step_s: list[float]  # times of the single steps
    # Of one step on all devices: matrix products and convolutions of the model, forward and, in training, backward,
    # without recomputation (remat). None without a model.
    flops: float | None
    parameters: int  # of the model; 0 without one
    # Peak memory in use on one device since the start of the process, if the device reports it
    device_bytes: int | None
    process_bytes: int  # peak resident memory of this process during the steps
    bare_bytes: int = 0  # of "train": resident memory after compilation, before the state exists; else 0
    # Memory of a step on one device as the compiler plans it: arguments, results and temporaries
    planned_bytes: int | None = None
    devices: int = 1  # number of devices
    fed_s: list[float] | None = None  # times of the steps fed by the loader, or None

    def summary(self) -> dict[str, Any]:
        """Return the numbers to report.

        "mfu" is the share of the devices' dense bfloat16 peak that the median step reaches. "fed" holds the times with
        the input pipeline, and the "ratio" of the mean step with it to the mean step without: the mean, because batches
        may come in bursts.
        """
        peak = PEAK_FLOPS.get(jax.local_devices()[0].device_kind)
        times = _describe(self.step_s, self.batch)
        median = times["median_s"]
        fed = _describe(self.fed_s, self.batch) if self.fed_s else None
        return {
            **{name: value for name, value in vars(self).items() if name not in ("step_s", "fed_s")},
            "steps": len(self.step_s),
            **times,
            "images_per_s": self.batch / median,
            "flops_per_s": self.flops / median if self.flops else None,
            "mfu": self.flops / median / peak / self.devices if self.flops and peak else None,
            "fed": fed and fed | {"ratio": fed["mean_s"] / times["mean_s"]},
        }


def _describe(seconds: list[float], batch: int) -> dict[str, float]:
    mean = float(np.mean(seconds))
    return {
        "median_s": float(np.median(seconds)),
        "p95_s": float(np.percentile(seconds, 95)),
        "mean_s": mean,
        "images_per_s": batch / mean,
    }
