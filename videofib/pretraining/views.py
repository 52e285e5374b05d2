"""Local views: small, short pieces of clips, cut on the device of the clips (multi-crop, arXiv 2006.09882).

Axes: B clips, C T H W channels, frames, height, width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor


@dataclass(frozen=True)
class LocalViews:
    """How local views are cut.

    Attributes:
        count: views of a video; they come from its two global clips in turn.
        crop_size: pixels along a side; num_frames: neighbouring frames of the clip.
        scale: range of the fraction of a clip's area that a view shows.

    Raises:
        ValueError: a range that is not from above 0 to 1.
    """

    count: int
    crop_size: int
    num_frames: int
    scale: tuple[float, float] = (0.1, 0.4)

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"a view shows a fraction of a clip's area, from above 0 to 1; got scale={self.scale}")

    def cut(self, clips: Tensor) -> Tensor:
        """One view of each clip: (B, C, T, H, W) -> (B, C, num_frames, crop_size, crop_size).

        A square box and the first frame are drawn for each clip, from torch's generator of the CPU. Boxes are resampled
        bilinearly, without antialiasing, as all resizing of clips.

        Raises:
            ValueError: clips that have fewer frames.
        """
        count, _, length, height, width = clips.shape
        if self.num_frames > length:
            raise ValueError(f"views of {self.num_frames} frames cannot be cut from clips of {length}")
        area, top, left, first = torch.rand(4, count, device="cpu").unbind()
        low, high = self.scale
        side = ((low + area * (high - low)) * height * width).sqrt().clamp(max=min(height, width))
        top, left = top * (height - side), left * (width - side)
        starts = (first * (length - self.num_frames + 1)).long().clamp(max=length - self.num_frames)
        frames = (starts[:, None] + torch.arange(self.num_frames, device="cpu")).to(clips.device)
        centers = (torch.arange(self.crop_size, device="cpu") + 0.5) / self.crop_size  # of pixels, within the box
        rows = (top[:, None] + centers * side[:, None]) / height * 2 - 1  # -1 and 1 are the edges of the frame
        columns = (left[:, None] + centers * side[:, None]) / width * 2 - 1
        size = self.crop_size
        grid = torch.stack((columns[:, None].expand(-1, size, -1), rows[:, :, None].expand(-1, -1, size)), dim=3)
        grid = repeat(grid.to(clips.device), "b y x two -> (b f) y x two", f=self.num_frames)
        chosen = clips[torch.arange(count, device=clips.device)[:, None], :, frames]  # (B, F, C, H, W)
        flat = rearrange(chosen, "b f c h w -> (b f) c h w")
        views = F.grid_sample(flat, grid.to(flat.dtype), padding_mode="border", align_corners=False)
        return rearrange(views, "(b f) c y x -> b c f y x", f=self.num_frames)

    def __call__(self, clips: list[Tensor]) -> list[Tensor]:
        """``count`` views of each video, from its clips in turn."""
        return [self.cut(clips[number % len(clips)]) for number in range(self.count)]
