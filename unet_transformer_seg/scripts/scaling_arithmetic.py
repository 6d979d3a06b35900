"""Prints the tables of docs/scaling.md: what training on several GPUs needs, worked out and not measured.

    python scripts/scaling_arithmetic.py

Change a plan or the machine below for another model or another cluster. Bytes and operations of a plan are those that
`python -m seg.train --config … --dry-run` prints.
"""

import dataclasses

BYTES = 4
"""Of a number: parameters, gradients, moments and averages are float32, whatever the products are computed in."""

PEAK_FLOPS, MEMORY_BYTES = 989e12, 80e9
"""Of an H100 (SXM): dense bfloat16 products in a second, and memory."""

UTILISATION = 0.30
"""Share of the peak that a step reaches. An assumption."""

GPUS_PER_NODE, NVLINK = 8, 450e9
"""Bytes a second that each GPU of a node sends to the others, while it receives as many."""

NETWORKS = {"8 × 400 Gbit/s": 400e9, "1 × 400 Gbit/s": 50e9}
"""Bytes a second that a node sends to the other ones, by its adapters."""

LATENCY_S = {"node": 20e-6, "nodes": 60e-6}
"""Of a small all-reduce within a node, and between nodes. An assumption."""

SIZES = (1, 8, 64, 512)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A model and its batch.

    Attributes:
        name: of the model.
        parameters: their number.
        copies: arrays of their size in the state: themselves, the two moments of AdamW, the averaged weights.
        images: in a batch, on each GPU.
        image_flops: operations of a step for each image.
        workspace: bytes that a step needs for `images` images besides the state: activations and gradients.
        batch_norms: each adds up two numbers for each channel over all devices, forwards and backwards.
        file_bytes: image and mask of a sample on the disk.
    """

    name: str
    parameters: int
    copies: int
    images: int
    image_flops: float
    workspace: float
    batch_norms: int
    file_bytes: float

    @property
    def parameter_bytes(self) -> float:
        """Of the parameters, and of their gradients."""
        return BYTES * self.parameters

    @property
    def activation_bytes(self) -> float:
        """Of a step, on each GPU."""
        return self.workspace - self.parameter_bytes

    @property
    def compute_s(self) -> float:
        """Seconds of a step without any communication."""
        return self.images * self.image_flops / (UTILISATION * PEAK_FLOPS)


PLANS = (
    Plan("unet_transformer", 81_421_131, 4, 16, 824e9, 20.77e9, 18, 44.6e3),
    Plan("transunet", 105_268_155, 4, 16, 540e9, 23.38e9, 9, 44.6e3),
)
"""Of configs/camvid_unet_transformer.yaml, the second one with model.name=transunet model.dropout=0."""


def device_bytes(plan: Plan, columns: int) -> dict[str, float]:
    """Return the bytes on a GPU during a step, with the state sharded over `columns` of them."""
    gathered = plan.parameter_bytes if columns > 1 else 0.0
    parts = {
        "state": plan.copies * plan.parameter_bytes / columns,
        "gathered parameters": gathered,
        "gradients": plan.parameter_bytes,
        "activations": plan.activation_bytes,
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
    latency = LATENCY_S["node" if gpus <= GPUS_PER_NODE else "nodes"]
    return gradients + parameters + 4 * plan.batch_norms * latency


def images_per_s(plan: Plan, gpus: int, columns: int, network: str) -> float:
    """Return the images of all GPUs in a second, if the messages of a step wait for its arithmetic."""
    return gpus * plan.images / (plan.compute_s + communication_s(plan, gpus, columns, network))


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
            bytes_of = device_bytes(plan, columns)
            share = f"{bytes_of['in all'] / MEMORY_BYTES:.0%}"
            rows.append([plan.name, f"{columns}", *(f"{bytes_of[part] / 1e9:.2f}" for part in parts), share])
    return table(["model", "mesh.fsdp", *parts, "of 80 GB"], rows)


def message_table() -> str:
    """Return the bytes that each GPU sends in a step, and what time that takes."""
    rows = []
    for plan in PLANS:
        for gpus in SIZES[1:]:
            reduced = all_reduce_bytes(plan.parameter_bytes, gpus)
            gathered = all_gather_bytes(plan.parameter_bytes, GPUS_PER_NODE)
            networks = NETWORKS if gpus > GPUS_PER_NODE else {"NVLink": NVLINK}
            for network in networks:
                times = [communication_s(plan, gpus, columns, network) for columns in (1, GPUS_PER_NODE)]
                row = [plan.name, f"{gpus}", f"{reduced / 1e6:.0f}", f"{gathered / 1e6:.0f}", network]
                rows.append(row + [f"{1e3 * seconds:.1f}" for seconds in times])
    head = ["model", "GPUs", "gradients, MB", "parameters, MB", "between nodes", "mesh.fsdp=1, ms", "mesh.fsdp=8, ms"]
    return table(head, rows)


def throughput_table() -> str:
    """Return what is to be expected, and which part of a step is the longer one."""
    rows = []
    for plan in PLANS:
        alone = images_per_s(plan, 1, 1, "")
        for gpus in SIZES:
            for network in NETWORKS if gpus > GPUS_PER_NODE else [""]:
                rate, messages_s = images_per_s(plan, gpus, 1, network), communication_s(plan, gpus, 1, network)
                longer = "compute" if plan.compute_s >= messages_s else "messages"
                row = [plan.name, f"{gpus}", network or ("—" if gpus == 1 else "NVLink"), f"{gpus * plan.images}"]
                row += [f"{1e3 * plan.compute_s:.0f}", f"{1e3 * messages_s:.1f}", f"{rate:.0f}"]
                rows.append([*row, f"{rate / gpus / alone:.0%}", longer])
    head = ["model", "GPUs", "between nodes", "images a step", "compute, ms", "messages, ms", "images/s"]
    return table([*head, "of one GPU's rate", "the longer part"], rows)


def input_table() -> str:
    """Return what must be read, if nothing holds the GPUs up."""
    rows = []
    for plan in PLANS:
        rate = plan.images / plan.compute_s
        row = [plan.name, f"{rate:.0f}", f"{1e-6 * rate * plan.file_bytes:.1f}"]
        rows.append(row + [f"{1e-6 * gpus * rate * plan.file_bytes:.0f}" for gpus in SIZES[1:]])
    return table(["model", "images/s a GPU", "MB/s a GPU", *(f"MB/s, {gpus} GPUs" for gpus in SIZES[1:])], rows)


def main() -> None:
    """Print the tables."""
    print(*(make() for make in (memory_table, message_table, throughput_table, input_table)), sep="\n\n")


if __name__ == "__main__":
    main()
