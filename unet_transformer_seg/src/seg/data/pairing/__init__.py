"""Which files make a split: images with their masks, by folders, lists and names."""
