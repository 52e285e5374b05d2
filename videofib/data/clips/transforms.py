"""From decoded frames to model input: crops, flips, augmentation, normalisation.

Shapes: T frames, C=3 channels, H x W pixels. Frames come as uint8 (T, H, W, C), as decoders give them, are handled as
uint8 (T, C, H, W) views of the same memory (torch resizes that layout several times faster than any other), and leave
as normalised float32 (C, T, H, W). All random draws hold for all frames of a clip.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videofib.data.clips.augment import ERASE_MODES, auto_augment, build_auto_augment, color_jitter, random_erase
from videofib.data.sampling import random_box, random_square, short_side_size, source_box, view_crop

CHANNELS = 3


def to_tensor(frames: np.ndarray) -> Tensor:
    """(T, H, W, C) uint8 array -> (T, C, H, W) uint8 tensor on the same memory."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def resize(clip: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, without anti-aliasing, as PySlowFast and TimeSformer resize. (T, C, H, W) -> (T, C, height, width)."""
    if clip.shape[-2:] == (height, width):
        return clip
    return F.interpolate(clip, size=(height, width), mode="bilinear", align_corners=False)


def cut(clip: Tensor, box: Sequence[int], size: int) -> Tensor:
    """A box (top, left, height, width) of the clip, scaled to a square. (T, C, H, W) -> (T, C, size, size).

    Cutting first and scaling then costs a fraction of the other way round, and differs by less than a pixel.
    """
    top, left, height, width = box
    return resize(clip[..., top : top + height, left : left + width], size, size)


def normalize(clip: Tensor, mean: Sequence[float], std: Sequence[float], out: Tensor | None = None) -> Tensor:
    """(T, C, H, W) uint8 -> (C, T, H, W) float32, ``(clip / 255 - mean) / std`` for each channel; into ``out``."""
    shape = (-1, 1, 1, 1)
    scale = 1 / (255 * torch.tensor(std, dtype=torch.float32))
    shift = -torch.tensor(mean, dtype=torch.float32) / torch.tensor(std, dtype=torch.float32)
    t, c, h, w = clip.shape
    out = torch.empty(c, t, h, w) if out is None else out
    return out.copy_(clip.transpose(0, 1)).mul_(scale.view(shape)).add_(shift.view(shape))


def denormalize(view: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Undo ``normalize``: (C, T, H, W) float32 -> (T, H, W, C) uint8, rounded and clamped to 0..255."""
    shape = (-1, 1, 1, 1)
    pixels = 255 * (view * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape))
    return pixels.round().clamp(0, 255).byte().permute(1, 2, 3, 0).numpy()


class TrainTransform:
    """One randomly scaled, cropped, flipped and, if so configured, augmented view of a clip.

    Args:
        crop_size: pixels of the square view.
        jitter_scales: (low, high) between which the short side is drawn before cropping; low >= crop_size.
        relative_areas, relative_aspects: crop a ``random_box`` of these ranges and scale it to the square instead,
            without jitter_scales. Both empty: off.
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

    def draw_box(self, height: int, width: int, rng: random.Random) -> tuple[tuple[int, int, int, int], bool]:
        """Draw which part of a frame a view shows: its box (top, left, height, width), and whether it is mirrored.

        These are the first draws of a view: from the same rng state ``__call__`` uses the same box.
        """
        if self.relative_areas:
            box = random_box(height, width, self.relative_areas, self.relative_aspects, rng)
        else:
            box = random_square(height, width, self.crop_size, rng.randint(*self.jitter_scales), rng)
        return box, self.flip and rng.random() < 0.5

    def __call__(self, frames: np.ndarray, rng: random.Random, out: Tensor | None = None) -> Tensor:
        """(T, H, W, C) uint8 -> (C, T, crop_size, crop_size) float32; the same rng state gives the same view.

        Where ``out`` is given, the view is written into it.
        """
        _, height, width, _ = frames.shape
        box, mirrored = self.draw_box(height, width, rng)
        clip = cut(to_tensor(frames), box, self.crop_size)
        if mirrored:
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

    def boxes(self, height: int, width: int) -> list[tuple[int, int, int, int]]:
        """(top, left, height, width) of the part of a frame that each crop shows, in the frame's pixels, rounded."""
        scaled = short_side_size(height, width, self.short_side)
        corners = [view_crop(*scaled, self.crop_size, crop, self.num_crops) for crop in range(self.num_crops)]
        return [source_box(*corner, self.crop_size, scaled, (height, width)) for corner in corners]

    def __call__(self, frames: np.ndarray, clips: Sequence[Sequence[int]], out: Tensor | None = None) -> Tensor:
        """Views of several clips that share frames; each frame is scaled once.

        Args:
            frames: (N, H, W, C) uint8, the distinct frames.
            clips: for each temporal view the T positions of its frames among ``frames``.
            out: to write the views into.

        Returns:
            (V, C, T, crop_size, crop_size) float32, V = len(clips) * num_crops; all crops of a clip together.
        """
        _, rows, columns, _ = frames.shape
        height, width = short_side_size(rows, columns, self.short_side)
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
