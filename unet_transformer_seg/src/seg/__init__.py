"""Image segmentation in JAX: a U-Net, and a U-Net whose bottleneck is a transformer."""
