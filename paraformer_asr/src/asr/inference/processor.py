"""What the processor of this machine has, as Linux describes it."""

import dataclasses
import functools
import os
import re
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


@dataclasses.dataclass(frozen=True)
class Processor:
    """Units of a processor that decide which library computes matrix products fastest."""

    is_intel: bool = False
    has_avx512: bool = False  # vectors of 512 bits
    has_avx512_bf16: bool = False
    has_amx_bf16: bool = False

    @property
    def has_bfloat16(self) -> bool:
        """Whether there are units for bfloat16, of either kind."""
        return self.has_avx512_bf16 or self.has_amx_bf16


@functools.cache
def this_processor() -> Processor:
    """Return the processor of this machine; one without special units where this cannot be read."""
    try:
        told = CPU_INFO.read_text()
    except OSError:
        return Processor()
    entries = dict(re.findall(r"^(\w+)[ \t]*:[ \t]*(.*)$", told, re.MULTILINE))
    flags = set(entries.get("flags", "").split())
    return Processor(
        is_intel=entries.get("vendor_id") == "GenuineIntel",
        has_avx512="avx512f" in flags,
        has_avx512_bf16="avx512_bf16" in flags,
        has_amx_bf16="amx_bf16" in flags,
    )


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
