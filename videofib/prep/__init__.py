"""Preparation: checked, resized, seekable videos with list files and a manifest."""
