"""Checkpoints that notice every damaged byte: `CheckpointStore` for training, `restore_variables` for inference."""

from asr.checkpoints.store import CheckpointStore, restore_variables

__all__ = ["CheckpointStore", "restore_variables"]
