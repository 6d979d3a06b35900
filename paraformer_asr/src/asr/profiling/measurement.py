"""What a benchmark found, and the numbers that are reported of it."""

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
"""Dense bfloat16 operations per second by the data sheet."""


@dataclasses.dataclass(frozen=True)
class BatchSize:
    """What one step computes.

    Attributes:
        utterances: b, rows.
        seconds: of sound in each row.
        tokens: u, in each row, the end of sentence counted.
    """

    utterances: int = 8
    seconds: float = 8.0
    tokens: int = 32

    @property
    def totals(self) -> tuple[int, float]:
        """Utterances, and seconds of sound in all of them."""
        return self.utterances, self.utterances * self.seconds


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What one benchmark found; times in seconds.

    Attributes:
        mode: what a step is: "train", "infer", "transcribe", "frontend" or "input".
        batch: utterances in a step, on average.
        audio_s: seconds of sound in a step, on average.
        compile_s: time of the compilation, 0 where nothing is compiled.
        step_s: times of the single steps.
        flops: operations of one step on all devices, on average; None where they are not counted.
        parameters: of the model, 0 where there is none.
        device_bytes: largest memory in use on a device so far, where the device tells.
        process_bytes: largest resident memory of this process while the steps ran.
        planned_bytes: memory of the step on each device as the compiler plans it, state and batch counted; 0 where it
            does not tell.
        num_devices: that a step is computed on.
        resident_s: only where `step_s` is of steps with the input pipeline: times of the same steps, in the same
            order, on batches that lie on the devices already.
    """

    mode: str
    batch: float
    audio_s: float
    compile_s: float
    step_s: list[float]
    flops: float | None = None
    parameters: int = 0
    device_bytes: int | None = None
    process_bytes: int = 0
    planned_bytes: int = 0
    num_devices: int = 1
    resident_s: list[float] | None = None

    def summary(self) -> dict[str, Any]:
        """Return the numbers to report.

        With the input pipeline the steps have several shapes: rates are then of the mean step, else of the median.
        """
        median, p95 = float(np.median(self.step_s)), float(np.percentile(self.step_s, 95))
        typical = float(np.mean(self.step_s)) if self.resident_s else median
        peak = PEAK_FLOPS.get(jax.local_devices()[0].device_kind)
        numbers = {
            "mode": self.mode,
            "num_devices": self.num_devices,
            "batch": self.batch,
            "audio_s": self.audio_s,
            "steps": len(self.step_s),
            "parameters": self.parameters,
            "compile_s": self.compile_s,
            "median_s": median,
            "p95_s": p95,
            "audio_s_per_s": self.audio_s / typical,
            "flops": self.flops,
            "flops_per_s": self.flops / typical if self.flops else None,
            "mfu": self.flops / typical / (peak * self.num_devices) if self.flops and peak else None,
            "device_bytes": self.device_bytes,
            "planned_bytes": self.planned_bytes,
            "process_bytes": self.process_bytes,
        }
        return numbers | self._against_resident()

    def _against_resident(self) -> dict[str, float]:
        """Return what the input pipeline costs; `input_ratio` is the time with it over the time without."""
        if not self.resident_s:
            return {}
        return {
            "resident_median_s": float(np.median(self.resident_s)),
            "resident_p95_s": float(np.percentile(self.resident_s, 95)),
            "resident_audio_s_per_s": self.audio_s / float(np.mean(self.resident_s)),
            "input_ratio": sum(self.step_s) / sum(self.resident_s),
        }


def memory_in_use() -> dict[str, int | None]:
    """Return the largest memory, as `Measurement` holds it: `device_bytes`, and `process_bytes` since `forget_peak`."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    return {
        "device_bytes": max((peak for peak in peaks if peak is not None), default=None),
        "process_bytes": peak_bytes(),
    }


def planned_bytes(program: Any) -> int:
    """Return the memory that a compiled program needs on each device, 0 where the compiler does not tell."""
    need = plan_memory(program)
    return need.peak if need else 0
