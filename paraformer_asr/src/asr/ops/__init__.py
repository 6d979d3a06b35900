"""Pure functions of arrays: the mathematics of the networks, with no parameters of their own."""
