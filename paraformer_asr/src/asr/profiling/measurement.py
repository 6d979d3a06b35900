"""The result of a benchmark, and the numbers reported from it."""

import dataclasses
from typing import Any

import jax
import numpy as np

from asr.compiler import plan_memory
from asr.profiling.process_memory import peak_bytes

PEAK_FLOPS = {
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
}
"""Peak dense bfloat16 operations per second, from the data sheets."""


@dataclasses.dataclass(frozen=True)
class BatchSize:
    """The size of one step."""

    utterances: int = 8  # b, rows
    seconds: float = 8.0  # of sound in each row
    tokens: int = 32  # u, in each row, the end of sentence counted

    @property
    def totals(self) -> tuple[int, float]:
        """Utterances, and seconds of sound in all of them."""
        return self.utterances, self.utterances * self.seconds


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The result of one benchmark; times in seconds."""

    mode: str  # "train", "infer", "transcribe", "frontend" or "input"
    batch: float  # utterances in a step, on average
    audio_s: float  # seconds of sound in a step, on average
    compile_s: float  # time to trace and compile; 0 if nothing is compiled
    step_s: list[float]  # times of the single steps
    flops: float | None = None  # operations of one step on all devices, on average; None if not counted
    parameters: int = 0  # of the model; 0 without one
    device_bytes: int | None = None  # peak memory in use on one device, if the device reports it
    process_bytes: int = 0  # peak resident memory of this process during the steps
    planned_bytes: int = 0  # memory of a step on one device as the compiler plans it; 0 if not reported
    num_devices: int = 1  # number of devices
    resident_s: list[float] | None = None  # if `step_s` includes reading: the same steps on batches on the devices

    def summary(self) -> dict[str, Any]:
        """Return the numbers to report.

        With the input pipeline, steps differ in shape, and rates are those of the mean step; else of the median.
        """
        median, p95 = float(np.median(self.step_s)), float(np.percentile(self.step_s, 95))
        typical = float(np.mean(self.step_s)) if self.resident_s else median
        peak = PEAK_FLOPS.get(jax.local_devices()[0].device_kind)
        numbers = {
            **{name: value for name, value in vars(self).items() if name not in ("step_s", "resident_s")},
            "steps": len(self.step_s),
            "median_s": median,
            "p95_s": p95,
            "audio_s_per_s": self.audio_s / typical,
            "flops_per_s": self.flops / typical if self.flops else None,
            "mfu": self.flops / typical / (peak * self.num_devices) if self.flops and peak else None,
        }
        return numbers | self._against_resident()

    def _against_resident(self) -> dict[str, float]:
        """Return the cost of the input pipeline; `input_ratio` is the time with it over the time without."""
        if not self.resident_s:
            return {}
        return {
            "resident_median_s": float(np.median(self.resident_s)),
            "resident_p95_s": float(np.percentile(self.resident_s, 95)),
            "resident_audio_s_per_s": self.audio_s / float(np.mean(self.resident_s)),
            "input_ratio": sum(self.step_s) / sum(self.resident_s),
        }


def memory_in_use() -> dict[str, int | None]:
    """Return the peak memory: `device_bytes`, and `process_bytes` since `forget_peak`."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    return {
        "device_bytes": max((peak for peak in peaks if peak is not None), default=None),
        "process_bytes": peak_bytes(),
    }


def planned_bytes(program: Any) -> int:
    """Return the memory that a compiled program needs on each device; 0 if not reported."""
    need = plan_memory(program)
    return need.peak if need else 0
