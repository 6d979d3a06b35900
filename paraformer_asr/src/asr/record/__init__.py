"""What a run leaves behind: its directory, log, tables, curves and pictures."""
