"""Mask files: what they hold, and which class each value or colour stands for."""
