"""Plans a run by its data: reads them, proposes the settings with their reasons, and measures what they cost."""
