"""Checkpoints: what a run saves, keeps, calls best and resumes."""
