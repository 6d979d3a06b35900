"""Segments images of any size with a trained model, and writes the results."""
