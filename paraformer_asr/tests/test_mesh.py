"""The placement of state and batches on several devices."""

import subprocess
import sys
import types

import jax
import pytest
from jax.sharding import PartitionSpec

from asr.config import MeshConfig
from asr.errors import UserError
from asr.training.sharding import Placement, build_placement, describe_devices


def spec(shape, fsdp):
    return Placement(types.SimpleNamespace(shape={"data": 2, "fsdp": fsdp}))._spec(shape)


def test_the_longest_axis_that_can_be_divided_is_spread():
    assert spec((3, 3, 64, 128), 4) == PartitionSpec(None, None, None, "fsdp")
    assert spec((256, 129), 4) == PartitionSpec("fsdp", None)
    assert spec((64, 1022), 4) == PartitionSpec("fsdp", None)


@pytest.mark.parametrize("shape", [(), (128,), (4, 8), (1023, 1021)])
def test_small_and_indivisible_arrays_are_whole_everywhere(shape):
    assert spec(shape, 4) == PartitionSpec()


def test_one_column_spreads_nothing():
    assert spec((256, 256), 1) == PartitionSpec()
    assert not build_placement(MeshConfig()).is_spread


def test_an_arrangement_that_the_devices_do_not_give_is_refused():
    with pytest.raises(UserError, match=r"mesh\.fsdp 3 cannot be made of 1 device"):
        build_placement(MeshConfig(fsdp=3))
    with pytest.raises(UserError, match=r"mesh\.data 2 times mesh\.fsdp 1"):
        build_placement(MeshConfig(data=2))


def test_one_device_is_named_by_its_kind():
    assert describe_devices(build_placement(MeshConfig())) == jax.devices()[0].device_kind


EIGHT = """
import jax, numpy as np
from asr.config import MeshConfig
from asr.training.sharding import build_placement, describe_devices
placement = build_placement(MeshConfig(fsdp=4))
assert describe_devices(placement) == "8 × cpu in 1 process(es), data 2 × fsdp 4"
whole = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
placed = jax.device_put(whole, placement.of_state(whole))
assert {shard.data.shape for shard in placed.addressable_shards} == {(16, 64)}
batch = placement.put_batch({"image": np.arange(16)})["image"]
rows = {shard.device.id: shard.data.tolist() for shard in batch.addressable_shards}
assert rows[0] == [0, 1] and rows[7] == [14, 15]
assert placement.put_flag(True).tolist() == [1] * 8
"""


def test_on_eight_devices_the_parts_lie_where_they_should():
    env = {"JAX_NUM_CPU_DEVICES": "8", "PATH": ""}
    subprocess.run([sys.executable, "-c", EIGHT], env=env, check=True, timeout=120)
