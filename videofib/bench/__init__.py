"""Measures speed on this machine: contenders take turns, and ratios are of one run. For ``videofib bench``."""
