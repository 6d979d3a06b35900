"""Several processes that train one model: their beginning, and what they tell each other besides the gradients."""

import hashlib
import json
import logging
import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from asr.errors import PeerLostError, UserError

log = logging.getLogger("asr")

CONNECT_TIMEOUT_S = 300
HEARTBEAT_TIMEOUT_S = 60
TEXT_BYTES = 4096

SIGNS_OF_A_LOST_PEER = (
    "Gloo",
    "NCCL",
    "Connection closed by peer",
    "Connection reset by peer",
    "heartbeat",
    "UNAVAILABLE",
)


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connect this process with the others; without arguments SLURM, Open MPI or Kubernetes are asked who they are.

    Args:
        coordinator: `host:port` of process 0, the same for all. It listens at this address alone, as it believes
            whoever connects; `JAX_COORDINATOR_BIND_ADDRESS` names another one.
        num_processes: of the job.
        process_id: of this one, from 0.

    Raises:
        UserError: neither given nor found, or the others did not come.
    """
    given = {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
    given["coordinator_bind_address"] = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", coordinator)
    # Our own handler of SIGTERM says when to stop, and the steps themselves carry it to the others.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **given, initialization_timeout=CONNECT_TIMEOUT_S, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S
        )
    except (ValueError, RuntimeError) as error:
        where = "by SLURM, Open MPI or Kubernetes" if coordinator is None else f"at {coordinator}"
        raise UserError(
            f"--distributed: no job of several processes was found {where} ({str(error).splitlines()[0]}). "
            "Give --coordinator HOST:PORT --num-processes N --process-id I in each process"
        ) from None


def is_main() -> bool:
    """Return whether this process is the one that logs, draws and writes the record."""
    return jax.process_index() == 0


def from_main(text: str | None) -> str:
    """Return the text that process 0 gives, in every process; the others give None."""
    if jax.process_count() == 1:
        return text
    content = np.zeros(TEXT_BYTES, np.uint8)
    if is_main():
        encoded = text.encode()
        content[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(content)).rstrip(b"\0").decode()


def check_agreement(what: dict[str, Any]) -> None:
    """Refuse to train when the processes do not see the same settings and data.

    Args:
        what: name → value, in JSON values.

    Raises:
        UserError: naming what differs, and in which processes.
    """
    if jax.process_count() == 1:
        return
    digests = np.stack([_digest(value) for value in what.values()])
    found = multihost_utils.process_allgather(digests)
    for number, name in enumerate(what):
        differing = [p for p in range(len(found)) if (found[p, number] != found[0, number]).any()]
        if differing:
            raise UserError(
                f"{name}: process {', '.join(map(str, differing))} has another one than process 0. All processes need "
                "the same config, the same files and the same versions"
            )


def explain_lost_peer(error: Exception) -> PeerLostError | None:
    """Return the error to raise instead when a collective failed because another process is gone; otherwise None."""
    text = str(error)
    if jax.process_count() == 1 or not any(sign in text for sign in SIGNS_OF_A_LOST_PEER):
        return None
    return PeerLostError(
        f"process {jax.process_index()} of {jax.process_count()}: another process of this run is gone or cannot be "
        f"reached ({text.splitlines()[0][:200]})"
    )


def _digest(value: Any) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest(), np.uint8)
