"""The features of videos, as files hold them."""

from __future__ import annotations

KINDS = ("pooled", "frames", "tokens")  # of a video: (D,), (t, D) and (N, D)
