"""Pages about what a model looked at in a video."""
