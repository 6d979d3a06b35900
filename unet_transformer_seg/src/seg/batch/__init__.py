"""Segmenting many images as shards that can be stopped, resumed and divided over machines."""
