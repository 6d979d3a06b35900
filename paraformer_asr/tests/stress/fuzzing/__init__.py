"""Damaged and hostile inputs for every reader of the package: what `tests/stress/fuzz_inputs.py` tries."""
