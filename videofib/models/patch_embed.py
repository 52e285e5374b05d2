"""From frames to patches and tubelets: one linear projection, or a stem of small convolutions.

Axes: B batch, C channels, T frames, H W image, t h w grid of patches or tubelets, D width.
"""

from __future__ import annotations

from itertools import pairwise

from einops import rearrange
from torch import Tensor, nn

from videofib.mixers import Grid


class PatchEmbed(nn.Module):
    """Cut the frames into patches, or the clip into tubelets, and project each: (B, C, T, H, W) -> (B, t, h, w, D).

    Args:
        img_size: (H, W) in pixels.
        patch_size: pixels along each side of a patch.
        in_chans, embed_dim: C, D.
        tubelet_size: frames that a token covers. If 1, the projection is a 2-D convolution, with the published name
            and shape; if more, it is a 3-D one, as in ViViT (arXiv 2103.15691, section 3.2) and VideoMAE.
    """

    def __init__(self, img_size: tuple[int, int], patch_size: int, in_chans: int, embed_dim: int, tubelet_size: int):
        super().__init__()
        if patch_size < 1 or tubelet_size < 1:
            raise ValueError(f"sizes must be 1 or more, got patch_size={patch_size}, tubelet_size={tubelet_size}")
        check_divisible(img_size, patch_size)
        self.patch_size, self.tubelet_size, self.in_chans = patch_size, tubelet_size, in_chans
        self.grid_size = (img_size[0] // patch_size, img_size[1] // patch_size)
        self.proj = self._projection(embed_dim)

    def _projection(self, embed_dim: int) -> nn.Module:
        if self.tubelet_size == 1:
            return nn.Conv2d(self.in_chans, embed_dim, kernel_size=self.patch_size, stride=self.patch_size)
        tubelet = (self.tubelet_size, self.patch_size, self.patch_size)
        return nn.Conv3d(self.in_chans, embed_dim, kernel_size=tubelet, stride=tubelet)

    def grid_of(self, video: Tensor) -> Grid:
        """(t, h, w): the number of tokens of a clip (B, C, T, H, W) along each axis.

        Raises:
            ValueError: another shape, or a size that does not divide into tokens.
        """
        if video.ndim != 5 or video.shape[1] != self.in_chans:
            raise ValueError(f"input must be (B, {self.in_chans}, T, H, W), got shape {tuple(video.shape)}")
        frames, height, width = video.shape[2:]
        check_divisible((height, width), self.patch_size)
        check_tubelets(frames, self.tubelet_size)
        return frames // self.tubelet_size, height // self.patch_size, width // self.patch_size

    def forward(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, t, h, w, D)."""
        self.grid_of(video)  # checks
        if self.tubelet_size > 1:
            return rearrange(self.proj(video), "b d t h w -> b t h w d")
        patches = self.proj(rearrange(video, "b c t h w -> (b t) c h w"))
        return rearrange(patches, "(b t) d h w -> b t h w d", t=video.shape[2])  # not b, which may be 0


class ConvStem(PatchEmbed):
    """log2(patch_size) convolutions of 3x3 with stride 2, frame by frame: (B, C, T, H, W) -> (B, T, h, w, D).

    Each is followed by a batch norm, and all but the last then by a GELU; each doubles the width, up to D (XCiT, arXiv
    2106.09681). Parameters are named as published.

    Args:
        img_size, patch_size, in_chans, embed_dim, tubelet_size: as for :class:`PatchEmbed`; the patch size must be a
            power of two (published are 16 and 8), and a token covers one frame.

    Raises:
        ValueError: another patch size, tubelets, or a width that cannot be halved often enough.
    """

    def _projection(self, embed_dim: int) -> nn.Module:
        if self.tubelet_size > 1:
            raise ValueError(f"stem='conv' is of single frames, got tubelet_size={self.tubelet_size}; set 1")
        depth = self.patch_size.bit_length() - 1
        if self.patch_size < 2 or self.patch_size != 2**depth:
            raise ValueError(
                f"patch_size must be a power of two, for convolutions with stride 2; got {self.patch_size}"
            )
        if embed_dim % (self.patch_size // 2):
            raise ValueError(
                f"the width of the first of {depth} convolutions is embed_dim / {self.patch_size // 2}, got "
                f"embed_dim={embed_dim}, which does not divide"
            )
        widths = [self.in_chans, *(embed_dim >> halvings for halvings in reversed(range(depth)))]
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            conv = nn.Conv2d(narrow, wide, kernel_size=3, stride=2, padding=1, bias=False)
            layers += [nn.Sequential(conv, nn.BatchNorm2d(wide)), nn.GELU()]
        return nn.Sequential(*layers[:-1])


STEMS = {"linear": PatchEmbed, "conv": ConvStem}


def check_divisible(img_size: tuple[int, int], patch_size: int) -> None:
    """Raise ValueError where the frame does not divide into patches."""
    height, width = img_size
    if height % patch_size or width % patch_size or not height or not width:
        raise ValueError(f"frames of {height}x{width} pixels do not divide into patches of {patch_size}x{patch_size}")


def check_tubelets(num_frames: int, tubelet_size: int) -> None:
    """Raise ValueError where the clip does not divide into tubelets."""
    if num_frames % tubelet_size or not num_frames:
        raise ValueError(f"clips of {num_frames} frames do not divide into tubelets of {tubelet_size} frames")
