"""What a run reads: list files, videos, clips, and the loaders that make batches of them."""
