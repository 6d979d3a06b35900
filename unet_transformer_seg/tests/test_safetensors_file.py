"""The writer's file is what the library reads."""

import ml_dtypes
import numpy as np
import pytest

from seg.inference import safetensors_file
from seg.inference.safetensors_file import write_safetensors

library = pytest.importorskip("safetensors.numpy")


@pytest.mark.parametrize("chunk_bytes", [1, 64, 1 << 20])
def test_the_library_reads_what_is_written(tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr(safetensors_file, "CHUNK_BYTES", chunk_bytes)
    rng = np.random.default_rng(0)
    arrays = {
        "params/kernel": rng.standard_normal((7, 5), np.float32).T,
        "params/taps": rng.standard_normal((3, 2, 4), np.float32).transpose(2, 0, 1),
        "params/bias": rng.standard_normal(3, np.float32)[::-1],
        "half": rng.standard_normal((2, 3)).astype(np.float16),
        "rounded": rng.standard_normal((2, 3)).astype(ml_dtypes.bfloat16),
        "step": np.array(7, np.int64),
        "nothing": np.zeros((0, 4), np.float32),
    }
    write_safetensors(tmp_path / "weights.safetensors", arrays)
    found = library.load_file(tmp_path / "weights.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(found[name], array)
