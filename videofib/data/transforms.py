"""From decoded frames to model input: crops, flips, augmentation, normalisation.

Shapes: T frames, C=3 channels, H x W pixels. Frames come as uint8 (T, H, W, C), as decoders give them, are handled as
uint8 (T, C, H, W) views of the same memory (torch resizes that layout several times faster than any other), and leave
as normalised float32 (C, T, H, W). Whatever is random is the same for all frames of a clip.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videofib.data.augment import ERASE_MODES, auto_augment, build_auto_augment, color_jitter, random_erase
from videofib.data.sampling import random_box, short_side_size, view_crop

CHANNELS = 3


def to_tensor(frames: np.ndarray) -> Tensor:
    """(T, H, W, C) uint8 array -> (T, C, H, W) uint8 tensor on the same memory."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def resize(clip: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, without anti-aliasing, as PySlowFast and TimeSformer resize. (T, C, H, W) -> (T, C, height, width)."""
    if clip.shape[-2:] == (height, width):
        return clip
    return F.interpolate(clip, size=(height, width), mode="bilinear", align_corners=False)


def random_crop(clip: Tensor, crop_size: int, short_side: int, rng: random.Random) -> Tensor:
    """A random square of the clip as it would be with its shorter side scaled to ``short_side``.

    The square is cut out of the original pixels first and only then scaled, which costs a fraction and differs from
    scaling first by less than a pixel. (T, C, H, W) -> (T, C, crop_size, crop_size).
    """
    height, width = clip.shape[-2:]
    scaled_height, scaled_width = short_side_size(height, width, short_side)
    top = rng.randint(0, scaled_height - crop_size) * height / scaled_height
    left = rng.randint(0, scaled_width - crop_size) * width / scaled_width
    rows = _cut(top, crop_size * height / scaled_height, height)
    columns = _cut(left, crop_size * width / scaled_width, width)
    return resize(clip[..., rows, columns], crop_size, crop_size)


def random_resized_crop(
    clip: Tensor, crop_size: int, areas: Sequence[float], aspects: Sequence[float], rng: random.Random
) -> Tensor:
    """A ``random_box`` of the clip, scaled to a square. (T, C, H, W) -> (T, C, crop_size, crop_size)."""
    top, left, height, width = random_box(*clip.shape[-2:], areas, aspects, rng)
    return resize(clip[..., top : top + height, left : left + width], crop_size, crop_size)


def normalize(clip: Tensor, mean: Sequence[float], std: Sequence[float], out: Tensor | None = None) -> Tensor:
    """(T, C, H, W) uint8 -> (C, T, H, W) float32, ``(clip / 255 - mean) / std`` for each channel; into ``out``."""
    shape = (-1, 1, 1, 1)
    scale = 1 / (255 * torch.tensor(std, dtype=torch.float32))
    shift = -torch.tensor(mean, dtype=torch.float32) / torch.tensor(std, dtype=torch.float32)
    t, c, h, w = clip.shape
    out = torch.empty(c, t, h, w) if out is None else out
    return out.copy_(clip.transpose(0, 1)).mul_(scale.view(shape)).add_(shift.view(shape))


class TrainTransform:
    """One randomly scaled, cropped, flipped and, if asked, augmented view of a clip.

    Args:
        crop_size: pixels of the square view.
        jitter_scales: (low, high) between which the short side is drawn before cropping; low >= crop_size.
        relative_areas, relative_aspects: crop a ``random_box`` of these ranges and scale it to the square, whatever
            the frame's size; jitter_scales is not used then. Both empty: off.
        flip: mirror half of the clips.
        mean, std: of each channel, for pixel values of 0..1.
        color_strength: see ``color_jitter``; 0: none.
        augment: a text for ``build_auto_augment``, such as ``rand-m7-n2``; empty: none.
        erase_prob, erase_mode, erase_count: see ``random_erase``; 0: none.
    """

    def __init__(
        self,
        crop_size: int,
        jitter_scales: Sequence[int],
        *,
        flip: bool,
        mean: Sequence[float],
        std: Sequence[float],
        relative_areas: Sequence[float] = (),
        relative_aspects: Sequence[float] = (),
        color_strength: float = 0.0,
        augment: str = "",
        erase_prob: float = 0.0,
        erase_mode: str = "pixel",
        erase_count: int = 1,
    ):
        if not crop_size <= jitter_scales[0] <= jitter_scales[1]:
            raise ValueError(f"need crop_size <= low <= high, got {crop_size=}, {jitter_scales=}")
        if bool(relative_areas) != bool(relative_aspects):
            raise ValueError(f"set both or neither, got {relative_areas=} and {relative_aspects=}")
        if erase_mode not in ERASE_MODES:
            raise ValueError(f"unknown erase_mode {erase_mode!r}; it must be one of {', '.join(ERASE_MODES)}")
        self.crop_size, self.jitter_scales = crop_size, tuple(jitter_scales)
        self.flip, self.mean, self.std = flip, mean, std
        self.relative_areas, self.relative_aspects = tuple(relative_areas), tuple(relative_aspects)
        self.color_strength = color_strength
        self.augment = build_auto_augment(augment, mean) if augment else None
        self.erase_prob, self.erase_mode, self.erase_count = erase_prob, erase_mode, erase_count

    def __call__(self, frames: np.ndarray, rng: random.Random, out: Tensor | None = None) -> Tensor:
        """(T, H, W, C) uint8 -> (C, T, crop_size, crop_size) float32; the same rng state gives the same view.

        It is written into ``out`` where that is given.
        """
        clip = to_tensor(frames)
        if self.relative_areas:
            clip = random_resized_crop(clip, self.crop_size, self.relative_areas, self.relative_aspects, rng)
        else:
            clip = random_crop(clip, self.crop_size, rng.randint(*self.jitter_scales), rng)
        if self.flip and rng.random() < 0.5:
            clip = clip.flip(-1)
        if self.color_strength:
            clip = color_jitter(clip, self.color_strength, rng)
        if self.augment is not None:
            clip = auto_augment(clip, self.augment, rng)
        views = normalize(clip, self.mean, self.std, out)
        if rng.random() < self.erase_prob:
            random_erase(views, self.erase_mode, self.erase_count, rng)
        return views


class ViewTransform:
    """The spatial views of frames: scaled to a short side, then 1 (centre) or 3 crops along the longer side."""

    def __init__(self, crop_size: int, short_side: int, num_crops: int, *, mean: Sequence[float], std: Sequence[float]):
        if short_side < crop_size:
            raise ValueError(f"a crop of {crop_size} does not fit a short side of {short_side}")
        self.crop_size, self.short_side, self.num_crops = crop_size, short_side, num_crops
        self.mean, self.std = mean, std

    def __call__(self, frames: np.ndarray, clips: Sequence[Sequence[int]], out: Tensor | None = None) -> Tensor:
        """Views of several clips that share frames; each frame is scaled once.

        Args:
            frames: (N, H, W, C) uint8, the distinct frames.
            clips: for each temporal view the T positions of its frames among ``frames``.
            out: where to write the views.

        Returns:
            (V, C, T, crop_size, crop_size) float32, V = len(clips) * num_crops; all crops of a clip together.
        """
        height, width = short_side_size(*frames.shape[1:3], self.short_side)
        scaled = resize(to_tensor(frames), height, width)  # (N, C, height, width)
        if out is None:
            size = self.crop_size
            out = torch.empty(len(clips) * self.num_crops, CHANNELS, len(clips[0]), size, size)
        views = iter(out)
        for positions in clips:
            clip = scaled[list(positions)]
            for crop in range(self.num_crops):
                top, left = view_crop(height, width, self.crop_size, crop, self.num_crops)
                view = clip[..., top : top + self.crop_size, left : left + self.crop_size]
                normalize(view, self.mean, self.std, next(views))
        return out


def _cut(start: float, length: float, limit: int) -> slice:
    length = min(max(round(length), 1), limit)
    start = min(round(start), limit - length)
    return slice(start, start + length)
