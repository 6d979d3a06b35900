"""Files of torch from before 1.6: tensors, the same limits as for new ones, and what is damaged."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from asr.errors import UserError
from asr.published.old_torch_file import MARK
from asr.published.torch_file import read_torch_file

WRITTEN_BY_TORCH = Path(__file__).parent / "recorded" / "torch_old.pth"


def refusal(path):
    with pytest.raises(UserError) as refused:
        read_torch_file(path)
    return str(refused.value)


def test_the_tensors_are_those_that_torch_wrote():
    tensors = read_torch_file(WRITTEN_BY_TORCH).tensors
    grid = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert list(tensors) == ["a.weight", "a.view", "b.bias", "n.num_batches_tracked"]
    np.testing.assert_array_equal(tensors["a.weight"], grid)
    np.testing.assert_array_equal(tensors["a.view"], grid.T)
    np.testing.assert_array_equal(tensors["b.bias"], np.array([1.5, 2.5], np.float16))
    assert tensors["b.bias"].dtype == np.float16 and tensors["n.num_batches_tracked"] == 7


def test_a_truncated_file_is_refused(tmp_path):
    content, path = WRITTEN_BY_TORCH.read_bytes(), tmp_path / "w.pth"
    for size in range(len(MARK), len(content)):
        path.write_bytes(content[:size])
        assert str(path) in refusal(path)
    assert "truncated or damaged at storage" in refusal(path)


def test_a_flipped_bit_is_refused_or_changes_values_alone(tmp_path):
    """The format has no checksums."""
    content, path = WRITTEN_BY_TORCH.read_bytes(), tmp_path / "w.pth"
    for place in range(len(MARK), len(content), 5):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        try:
            assert all(isinstance(x, np.ndarray) for x in read_torch_file(path).tensors.values())
        except UserError as error:
            assert str(path) in str(error)


def test_a_program_is_refused(tmp_path):
    path = tmp_path / "w.pth"
    facts = pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    path.write_bytes(MARK + facts + b"cos\nsystem\n(S'true'\ntR.")
    assert "refused without running any of it: its pickle asks for os.system" in refusal(path)


def test_values_of_another_byte_order_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(WRITTEN_BY_TORCH.read_bytes().replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"))
    assert "expected little-endian values" in refusal(path)
