"""From samples to batches, by worker processes."""
