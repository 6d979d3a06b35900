"""Images paired with masks, by folders, lists and names, and divided into splits."""
