"""The records of a run: its log, its figures, and the environment it ran in."""
