"""From frames to the clips and views that a model takes."""
