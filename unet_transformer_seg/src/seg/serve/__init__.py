"""A segmentation service over HTTP: one thread owns the device, worker processes read and write image files."""
