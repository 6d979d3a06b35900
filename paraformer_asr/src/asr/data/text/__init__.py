"""Texts: what tokenizers cut them into, and how two of them are compared."""
