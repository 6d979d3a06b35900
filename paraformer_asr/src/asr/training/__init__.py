"""Training: the state, the step that advances it, and the loop around the step."""
