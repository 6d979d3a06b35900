"""Transcribing many files as shards that can be stopped, resumed and divided over machines."""
