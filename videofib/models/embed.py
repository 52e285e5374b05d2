"""From frames to tokens: patch and tubelet embedding, positions, and resizing of learned embeddings.

Axes: B batch, C channels, T frames, H W image, t h w grid of patches or tubelets, P prefix tokens, D width.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Cut the frames into patches, or the clip into tubelets, and project each: (B, C, T, H, W) -> (B, t, h, w, D).

    Args:
        img_size: (H, W) in pixels.
        patch_size: pixels along each side of a patch.
        in_chans, embed_dim: C, D.
        tubelet_size: frames that a token covers. At 1 the projection is a 2-D convolution, named and shaped as the
            published one; above it is a 3-D one, as in ViViT (arXiv 2103.15691, section 3.2) and VideoMAE.
    """

    def __init__(self, img_size: tuple[int, int], patch_size: int, in_chans: int, embed_dim: int, tubelet_size: int):
        super().__init__()
        if patch_size < 1 or tubelet_size < 1:
            raise ValueError(f"sizes must be 1 or more, got patch_size={patch_size}, tubelet_size={tubelet_size}")
        check_divisible(img_size, patch_size)
        self.patch_size, self.tubelet_size, self.in_chans = patch_size, tubelet_size, in_chans
        self.grid_size = (img_size[0] // patch_size, img_size[1] // patch_size)
        if tubelet_size == 1:
            self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)
        else:
            tubelet = (tubelet_size, patch_size, patch_size)
            self.proj = nn.Conv3d(in_chans, embed_dim, kernel_size=tubelet, stride=tubelet)

    def grid_of(self, video: Tensor) -> tuple[int, int, int]:
        """(t, h, w): how many tokens a clip (B, C, T, H, W) gives along each axis.

        Raises:
            ValueError: another shape, or one that tokens do not tile.
        """
        if video.ndim != 5 or video.shape[1] != self.in_chans:
            raise ValueError(f"input must be (B, {self.in_chans}, T, H, W), got shape {tuple(video.shape)}")
        frames, height, width = video.shape[2:]
        check_divisible((height, width), self.patch_size)
        check_tubelets(frames, self.tubelet_size)
        return frames // self.tubelet_size, height // self.patch_size, width // self.patch_size

    def forward(self, video: Tensor, places: tuple[Tensor, Tensor, Tensor] | None = None) -> Tensor:
        """All tokens, or those at ``places`` alone: (B, n, D) for n numbers each of t, h and w."""
        self.grid_of(video)  # checks
        if places is not None:
            return self._at(video, places)
        batch = video.shape[0]
        if self.tubelet_size > 1:
            return rearrange(self.proj(video), "b d t h w -> b t h w d")
        patches = self.proj(rearrange(video, "b c t h w -> (b t) c h w"))
        return rearrange(patches, "(b t) d h w -> b t h w d", b=batch)

    def _at(self, video: Tensor, places: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The convolution at a few places: what it sees there, as rows, times its weights as a matrix."""
        sizes = dict(u=self.tubelet_size, p=self.patch_size, q=self.patch_size)
        seen = rearrange(video, "b c (t u) (h p) (w q) -> t h w b c u p q", **sizes)[places]
        rows = rearrange(seen, "n b c u p q -> b n (c u p q)")
        return F.linear(rows, self.proj.weight.flatten(1), self.proj.bias)


def check_divisible(img_size: tuple[int, int], patch_size: int) -> None:
    """Raise ValueError where patches do not tile the frame."""
    height, width = img_size
    if height % patch_size or width % patch_size or not height or not width:
        raise ValueError(f"frames of {height}x{width} pixels do not divide into patches of {patch_size}x{patch_size}")


def check_tubelets(num_frames: int, tubelet_size: int) -> None:
    """Raise ValueError where tubelets do not tile the clip in time."""
    if num_frames % tubelet_size or not num_frames:
        raise ValueError(f"clips of {num_frames} frames do not divide into tubelets of {tubelet_size} frames")


def resize_grid(embed: Tensor, old: tuple[int, int], new: tuple[int, int], mode: str = "nearest") -> Tensor:
    """Resize a 2-D grid of position embeddings: (1, h·w, D) -> (1, h'·w', D).

    Args:
        mode: ``nearest``, as TimeSformer's model does with frames of another size, or ``bicubic``, with antialiasing,
            as is usual for fine-tuning at another resolution (arXiv 2010.11929, section 3.2).
    """
    if old == new:
        return embed
    grid = rearrange(embed, "1 (h w) d -> 1 d h w", h=old[0], w=old[1])
    grid = F.interpolate(grid, size=new, mode=mode, antialias=mode == "bicubic")
    return rearrange(grid, "1 d h w -> 1 (h w) d")


def resize_time(embed: Tensor, length: int, mode: str = "nearest") -> Tensor:
    """Resize time embeddings: (1, t, D) -> (1, t', D), by ``nearest``, as TimeSformer does, or ``linear``."""
    if embed.shape[1] == length:
        return embed
    line = F.interpolate(rearrange(embed, "1 t d -> 1 d t"), size=length, mode=mode)
    return rearrange(line, "1 d t -> 1 t d")


def sinusoid_positions(num_tokens: int, dim: int, device: torch.device | None = None) -> Tensor:
    """The fixed position table of VideoMAE (arXiv 2203.12602): (1, N, D), sines in even places, cosines in odd ones.

    One number counts all the tokens of a clip, frame after frame ("t h w").
    """
    place = torch.arange(num_tokens, dtype=torch.float64, device=device)[:, None]
    pair = torch.arange(dim, device=device) // 2
    angle = place / 10000.0 ** (2.0 * pair.double() / dim)
    odd = torch.arange(dim, device=device) % 2 == 1
    return torch.where(odd, angle.cos(), angle.sin()).to(torch.get_default_dtype())[None]


def join_prefix(prefix: Tensor, tokens: Tensor) -> Tensor:
    """(1 or B, P, D) and (B, N, D) -> (B, P+N, D)."""
    return torch.cat((prefix.expand(tokens.shape[0], -1, -1), tokens), dim=1)
