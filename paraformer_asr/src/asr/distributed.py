"""Several processes that train one model: how they connect, and what they exchange besides gradients."""

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
TEXT_BYTES = 4096  # longest text that `from_main` sends, in bytes

SIGNS_OF_A_LOST_PEER = ("Gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
SIGNS_OF_A_LOST_PEER += ("heartbeat", "UNAVAILABLE")


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connect this process to its job; without arguments, SLURM, Open MPI or Kubernetes describe the job.

    Args:
        coordinator: `host:port` of process 0, equal in all processes. Process 0 listens at this address only, because
            it trusts every client; `JAX_COORDINATOR_BIND_ADDRESS` overrides it.
        num_processes: number of processes in the job.
        process_id: number of this process, from 0.

    Raises:
        UserError: no job was detected, or a process did not connect in time.
    """
    job = {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
    job["coordinator_bind_address"] = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", coordinator)
    # Our own SIGTERM handler decides when to stop, and the steps carry the decision to all processes.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **job, initialization_timeout=CONNECT_TIMEOUT_S, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S
        )
    except (ValueError, RuntimeError) as error:
        where = "(SLURM, Open MPI, Kubernetes)" if coordinator is None else f"at {coordinator}"
        raise UserError(
            f"--distributed: could not detect a multi-process job {where}: {str(error).splitlines()[0]}. "
            "Pass --coordinator HOST:PORT --num-processes N --process-id I to each process"
        ) from None


def is_main() -> bool:
    """Return whether this process logs, draws and writes the record."""
    return jax.process_index() == 0


def from_main(text: str | None) -> str:
    """Return the text of process 0 in every process; the rest pass None."""
    if jax.process_count() == 1:
        return text
    content = np.zeros(TEXT_BYTES, np.uint8)
    if is_main():
        encoded = text.encode()
        content[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(content)).rstrip(b"\0").decode()


def check_agreement(what: dict[str, Any]) -> None:
    """Refuse to train if the processes see different settings or data; `what` is name → JSON value."""
    if jax.process_count() == 1:
        return
    digests = np.stack([_digest(value) for value in what.values()])
    all_digests = multihost_utils.process_allgather(digests)
    for number, name in enumerate(what):
        differing = [p for p in range(len(all_digests)) if (all_digests[p, number] != all_digests[0, number]).any()]
        if differing:
            raise UserError(
                f"{name}: differs between process 0 and process {', '.join(map(str, differing))}. All processes need "
                "the same config, files and versions"
            )


def explain_lost_peer(error: Exception) -> PeerLostError | None:
    """Return the error to raise if a collective failed because another process died, else None."""
    text = str(error)
    if jax.process_count() == 1 or not any(sign in text for sign in SIGNS_OF_A_LOST_PEER):
        return None
    return PeerLostError(
        f"process {jax.process_index()} of {jax.process_count()}: another process of this run died or became "
        f"unreachable ({text.splitlines()[0][:200]})"
    )


def _digest(value: Any) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest(), np.uint8)
