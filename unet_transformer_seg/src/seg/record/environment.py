"""The environment of a run, on which its numbers may depend: versions, devices, flags, commit, command."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax

from seg.compiler import compiler_options

PACKAGES = ("unet-transformer-seg", "jax", "jaxlib", "jax-cuda12-plugin", "flax", "optax", "orbax-checkpoint")
PACKAGES += ("chex", "numpy", "grain", "pillow")


def describe_environment() -> dict:
    """Return what the numbers of a run may depend on besides its settings."""
    return {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": [sys.executable, *sys.argv],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "devices": [f"{device.platform} {device.device_kind}" for device in jax.local_devices()],
        "flags": {name: value for name, value in sorted(os.environ.items()) if name.startswith(("JAX_", "XLA_"))},
        "compiler_options": compiler_options(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": describe_commit(Path(__file__)),
    }


def describe_commit(file: Path) -> dict | None:
    """Return {"commit", "changed_files"} of the git checkout that tracks `file`, or None.

    A package installed into an environment below someone's checkout is not tracked there.
    """
    commands = (["ls-files", "--error-unmatch", file.name], ["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
    try:
        _, commit, changed = (
            subprocess.run(
                ["git", "-C", file.parent, *command], capture_output=True, text=True, timeout=10, check=True
            ).stdout
            for command in commands
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "changed_files": len(changed.splitlines())}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
