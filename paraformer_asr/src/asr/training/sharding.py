"""The mesh of devices, and the sharding of state and batches over it.

All devices of all processes form a mesh of `data` rows and `fsdp` columns. A batch is sharded over all devices. The
state is replicated over the rows, and within a row each parameter and its moments are sharded over the columns (fully
sharded data parallelism, ZeRO). With one column every device has the whole state.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from asr.config import MeshConfig
from asr.errors import UserError

MIN_SPREAD = 1024
"""Smallest array that is sharded, in elements: below it the messages cost more than the memory."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """The sharding of a run."""

    mesh: Mesh  # the devices, with axes "data" and "fsdp"

    @property
    def num_devices(self) -> int:
        """Devices of all processes."""
        return self.mesh.size

    @property
    def replicated(self) -> NamedSharding:
        """The same on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def over_devices(self) -> NamedSharding:
        """The first axis sharded over all devices."""
        return NamedSharding(self.mesh, PartitionSpec(("data", "fsdp")))

    @property
    def is_spread(self) -> bool:
        """Whether the state is sharded at all."""
        return self.mesh.shape["fsdp"] > 1

    def of_state(self, abstract: Any) -> Any:
        """Return the sharding of each array of a state: over its longest divisible axis, unless the array is small."""
        return jax.tree.map(lambda leaf: NamedSharding(self.mesh, self._spec(leaf.shape)), abstract)

    def _spec(self, shape: tuple[int, ...]) -> PartitionSpec:
        columns = self.mesh.shape["fsdp"]
        axes = [axis for axis, length in enumerate(shape) if length % columns == 0 and length]
        if columns == 1 or not axes or np.prod(shape) < MIN_SPREAD:
            return PartitionSpec()
        longest = max(axes, key=lambda axis: shape[axis])
        return PartitionSpec(*("fsdp" if axis == longest else None for axis in range(len(shape))))

    def put_batch(self, arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Return the batch on the devices; each process passes the rows of its own devices."""
        if jax.process_count() == 1:
            return jax.device_put(arrays, self.over_devices)
        return {k: jax.make_array_from_process_local_data(self.over_devices, v) for k, v in arrays.items()}

    def put_flag(self, flag: bool) -> jax.Array:
        """Return int32[devices] with the flag on each device of this process."""
        local = np.full(len(self.mesh.local_devices), flag, np.int32)
        return self.put_batch({"flag": local})["flag"]


def build_placement(config: MeshConfig) -> Placement:
    """Return the placement on all devices of all processes; refuse a number of devices that does not fit."""
    devices = jax.devices()
    rows = config.data or len(devices) // config.fsdp
    if rows * config.fsdp != len(devices):
        rows_text = f"mesh.data {config.data} times " if config.data else ""
        raise UserError(
            f"mesh: {rows_text}mesh.fsdp {config.fsdp} cannot be made of {len(devices)} device(s); fsdp must divide "
            "their number, and data must be the quotient, or 0. To resume on another number, add mesh.fsdp=1"
        )
    # In the order of the processes: the rows of a batch that a process reads are those that its devices need.
    grid = np.array(sorted(devices, key=lambda d: (d.process_index, d.id))).reshape(rows, config.fsdp)
    return Placement(Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto)))


class GatheredParameters:
    """Applies `model` with whole parameters on every device, gathered from their shards.

    Without it the compiler may shard the computation like the parameters, and send activations instead. The gradients
    are summed and sharded again.
    """

    def __init__(self, model: nn.Module, placement: Placement):
        self.model, self.whole = model, placement.replicated

    def apply(self, variables: dict[str, Any], *args, **kwargs) -> Any:
        """Return what `model.apply` returns."""
        return self.model.apply(jax.lax.with_sharding_constraint(variables, self.whole), *args, **kwargs)


def describe_devices(placement: Placement) -> str:
    """Return the number and kind of the devices, and their arrangement where there is more than one."""
    kinds = sorted({device.device_kind for device in placement.mesh.devices.flat})
    if placement.num_devices == 1:
        return ", ".join(kinds)
    rows, columns = (placement.mesh.shape[axis] for axis in ("data", "fsdp"))
    processes = f"{jax.process_count()} process(es)"
    return f"{placement.num_devices} × {', '.join(kinds)} in {processes}, data {rows} × fsdp {columns}"
