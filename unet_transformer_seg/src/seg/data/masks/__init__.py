"""Mask files: their content, and the class of each value or colour."""
