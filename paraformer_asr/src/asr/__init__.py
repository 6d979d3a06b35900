"""Speech recognition in JAX: Paraformer, with its continuous integrate-and-fire predictor."""
