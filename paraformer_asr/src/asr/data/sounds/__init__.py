"""Sound files: what they are, and their samples as one channel at one rate."""
