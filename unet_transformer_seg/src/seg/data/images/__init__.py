"""Image files and arrays: what they state, and their pixels as 8-bit RGB."""
