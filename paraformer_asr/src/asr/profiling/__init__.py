"""Measures: time, memory, arithmetic, traces."""
