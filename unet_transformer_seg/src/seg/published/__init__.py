"""Weights that others have published: read, written, and translated to the names and layouts of the models here."""
