"""Weights from elsewhere, and ours in the layouts of others."""
