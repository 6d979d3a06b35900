"""Damaged and hostile inputs for every reader of the package: what `scripts/fuzz_inputs.py` tries."""
