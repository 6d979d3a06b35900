"""Transcribes sound of any length with a trained model, scores it, and writes the results."""
