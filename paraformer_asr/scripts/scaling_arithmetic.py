"""Prints the tables of docs/scaling.md: what training on several GPUs needs, worked out and not measured.

    python scripts/scaling_arithmetic.py

Change a plan or the machine below for another model or another cluster. Bytes and operations of a plan are those that
`python -m asr.train --config … --dry-run` prints.
"""

import dataclasses

BYTES = 4
"""Of a number: parameters, gradients and moments are float32, whatever the products are computed in."""

PEAK_FLOPS, MEMORY_BYTES = 989e12, 80e9
"""Of an H100 (SXM): dense bfloat16 products in a second, and memory."""

UTILISATION = 0.35
"""Share of the peak that a step reaches. An assumption."""

GPUS_PER_NODE, NVLINK = 8, 450e9
"""Bytes a second that each GPU of a node sends to the others, while it receives as many."""

NETWORKS = {"8 × 400 Gbit/s": 400e9, "1 × 400 Gbit/s": 50e9}
"""Bytes a second that a node sends to the other ones, by its adapters."""

SMALL_SUMS, LATENCY_S = 4, {"node": 20e-6, "nodes": 60e-6}
"""Sums of single numbers in a step (tokens, losses, norm of the gradient, stop), and what one takes. Assumptions."""

SOUND_BYTES = 32_000
"""Of a second of sound on the disk: 16 bits at 16 kHz."""

SIZES = (1, 8, 64, 512)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A model and its batch.

    Attributes:
        name: of the model.
        parameters: their number.
        copies: arrays of their size in the state: themselves and the two moments of Adam.
        batch_s: seconds of sound in a batch, padding counted, on each GPU.
        flops: operations of a step for each second of sound, those of recomputed blocks counted.
        workspace_s: bytes of activations for each second of sound.
    """

    name: str
    parameters: int
    copies: int
    batch_s: float
    flops: float
    workspace_s: float

    @property
    def parameter_bytes(self) -> float:
        """Of the parameters, and of their gradients."""
        return BYTES * self.parameters

    @property
    def compute_s(self) -> float:
        """Seconds of a step without any communication."""
        return self.batch_s * self.flops / (UTILISATION * PEAK_FLOPS)


PARAMETERS = 220_084_533
WORKSPACE_S = (9.14e9 - BYTES * PARAMETERS) / 1200
"""A step with 1,200 s needs 9.14 GB besides the state; the gradients are the part that does not grow with the batch."""

PLANS = (
    Plan("paraformer_large, 1,200 s", PARAMETERS, 3, 1200, 23.3e9, WORKSPACE_S),
    Plan("paraformer_large, 150 s", PARAMETERS, 3, 150, 23.3e9, WORKSPACE_S),
)


def device_bytes(plan: Plan, columns: int) -> dict[str, float]:
    """Return the bytes in use on a GPU during a step, with the state sharded over `columns` of them."""
    parts = {
        "state": plan.copies * plan.parameter_bytes / columns,
        "gathered parameters": plan.parameter_bytes if columns > 1 else 0.0,
        "gradients": plan.parameter_bytes,
        "activations": plan.batch_s * plan.workspace_s,
    }
    return parts | {"in all": sum(parts.values())}


def all_gather_bytes(size: float, gpus: int) -> float:
    """Return what each of `gpus` sends until all have the `size` bytes that are spread over them."""
    return (gpus - 1) / gpus * size


def all_reduce_bytes(size: float, gpus: int) -> float:
    """Return what each of `gpus` sends until all have the sum of `size` bytes."""
    return 2 * (gpus - 1) / gpus * size


def ring_bandwidth(gpus: int, network: str) -> float:
    """Return the bytes a second that pass through each GPU of a ring.

    A ring enters and leaves each node once. As many rings as a node has adapters run beside each other and share the
    data, so that the node's whole bandwidth counts.
    """
    return NVLINK if gpus <= GPUS_PER_NODE else min(NVLINK, NETWORKS[network])


def communication_s(plan: Plan, gpus: int, columns: int, network: str) -> float:
    """Return the seconds of a step's messages, if nothing is computed meanwhile."""
    if gpus == 1:
        return 0.0
    gradients = all_reduce_bytes(plan.parameter_bytes, gpus) / ring_bandwidth(gpus, network)
    parameters = all_gather_bytes(plan.parameter_bytes, columns) / ring_bandwidth(columns, network)
    return gradients + parameters + SMALL_SUMS * LATENCY_S["node" if gpus <= GPUS_PER_NODE else "nodes"]


def sound_per_s(plan: Plan, gpus: int, columns: int, network: str) -> float:
    """Return the seconds of sound of all GPUs in a second, if the messages of a step wait for its arithmetic."""
    return gpus * plan.batch_s / (plan.compute_s + communication_s(plan, gpus, columns, network))


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def memory_table() -> str:
    """Return the bytes on each GPU."""
    parts = ["state", "gathered parameters", "gradients", "activations", "in all"]
    rows = []
    for plan in PLANS:
        for columns in (1, 8):
            sizes = device_bytes(plan, columns)
            share = f"{sizes['in all'] / MEMORY_BYTES:.0%}"
            rows.append([plan.name, f"{columns}", *(f"{sizes[part] / 1e9:.2f}" for part in parts), share])
    return table(["model, sound on a GPU", "mesh.fsdp", *parts, "of 80 GB"], rows)


def message_table() -> str:
    """Return the bytes that each GPU sends in a step, and what time that takes; they do not depend on the batch."""
    plan, rows = PLANS[0], []
    for gpus in SIZES[1:]:
        sent = all_reduce_bytes(plan.parameter_bytes, gpus), all_gather_bytes(plan.parameter_bytes, GPUS_PER_NODE)
        for network in NETWORKS if gpus > GPUS_PER_NODE else ["NVLink"]:
            times = [communication_s(plan, gpus, columns, network) for columns in (1, GPUS_PER_NODE)]
            row = [f"{gpus}", network, *(f"{1e-6 * size:.0f}" for size in sent)]
            rows.append(row + [f"{1e3 * seconds:.1f}" for seconds in times])
    head = ["GPUs", "between nodes", "gradients, MB", "parameters, MB", "mesh.fsdp=1, ms", "mesh.fsdp=8, ms"]
    return table(head, rows)


def throughput_table() -> str:
    """Return what is to be expected, and which part of a step is the longer one."""
    rows = []
    for plan in PLANS:
        alone = sound_per_s(plan, 1, 1, "")
        for gpus in SIZES:
            for network in NETWORKS if gpus > GPUS_PER_NODE else [""]:
                rate, messages_s = sound_per_s(plan, gpus, 1, network), communication_s(plan, gpus, 1, network)
                longer = "compute" if plan.compute_s >= messages_s else "messages"
                row = [plan.name, f"{gpus}", network or ("—" if gpus == 1 else "NVLink")]
                row += [f"{gpus * plan.batch_s / 3600:.2f}", f"{1e3 * plan.compute_s:.0f}", f"{1e3 * messages_s:.1f}"]
                rows.append([*row, f"{rate / 3600:.1f}", f"{rate / gpus / alone:.0%}", longer])
    head = ["model, sound on a GPU", "GPUs", "between nodes", "hours an update", "compute, ms", "messages, ms"]
    return table([*head, "hours of sound a second", "of one GPU's rate", "the longer part"], rows)


def input_table() -> str:
    """Return what must be read, if nothing holds the GPUs up."""
    rate = PLANS[0].batch_s / PLANS[0].compute_s
    row = [f"{rate:,.0f}", f"{1e-6 * rate * SOUND_BYTES:.0f}"]
    row += [f"{1e-9 * gpus * rate * SOUND_BYTES:.1f}" for gpus in SIZES[1:]]
    head = ["seconds of sound a second, a GPU", "MB/s a GPU", *(f"GB/s, {gpus} GPUs" for gpus in SIZES[1:])]
    return table(head, [row])


def main() -> None:
    """Print the tables."""
    print(*(make() for make in (memory_table, message_table, throughput_table, input_table)), sep="\n\n")


if __name__ == "__main__":
    main()
