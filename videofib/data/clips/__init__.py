"""From frames to the clips and views a model takes."""
