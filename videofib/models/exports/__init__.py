"""Exported models: files that hold the computation beside the weights, and run where videofib is not installed."""
