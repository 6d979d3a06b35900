"""The record of a run: its directory, log, tables, curves and pictures."""
