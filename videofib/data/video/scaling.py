"""Scaling of frames that a backend has already converted to RGB."""

from __future__ import annotations

import numpy as np

from videofib.data.sampling import limited_size
from videofib.data.video.rgb import ToRGB


def scaled_down(frames: np.ndarray, short_side: int) -> np.ndarray:
    """RGB frames (T, H, W, 3) with a shorter side of at most ``short_side``; for backends whose own scaling differs."""
    _, height, width, _ = frames.shape
    size, to_rgb = limited_size(height, width, short_side), ToRGB()
    return frames if size == (height, width) else np.stack([to_rgb.scaled(image, *size) for image in frames])
