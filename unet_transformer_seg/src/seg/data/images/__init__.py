"""Image files and arrays: bounded reading, and their values as 8-bit RGB."""
