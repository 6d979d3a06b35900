"""Watches over a run: signals, hangs, lost parents, one process at a time."""
