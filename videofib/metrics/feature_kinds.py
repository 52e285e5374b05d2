"""What features there are, and the files that hold them; command lines list these before anything heavy is imported."""

KINDS = ("pooled", "frames", "tokens")  # of a video: (D,), (t, D) and (N, D)
SUFFIXES = (".parquet", ".npz")
