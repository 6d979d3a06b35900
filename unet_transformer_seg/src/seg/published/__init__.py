"""Published weights: read, written, and converted to the names and layouts of our models."""
