"""Resize embeddings: positions in 2-D, times in 1-D, patch kernels in space and time.

Each function returns the new tensor and a description of what was done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import resample_patch_embed
from torch import Tensor

from videofib.models.embed import resize_grid, resize_time


def resize_positions(embed: Tensor, grid: tuple[int, int], has_class: bool, mode: str) -> tuple[Tensor, str]:
    """(1, P+h·w, D) with P = 0, 1 or 2 positions of prefix tokens -> (1, [1]+h'·w', D).

    Weights do not say what their grid is: it is taken to be the new one if the number of positions allows that, else a
    square. Of two prefix tokens the first is the class token. If there is none (a class token without a position), the
    class token's position is zero.

    Raises:
        ValueError: a number of positions that fits neither.
    """
    wanted, count = grid[0] * grid[1], embed.shape[1]
    if count == wanted + has_class:
        return embed, ""
    sizes = {prefix: math.isqrt(max(count - prefix, 0)) for prefix in (1, 0, 2)}
    squares = [prefix for prefix, side in sizes.items() if side and side**2 == count - prefix]
    if count - wanted == 1 or (not squares and count - wanted in (0, 2)):
        num_prefix, old = count - wanted, grid
    elif squares:
        num_prefix, old = squares[0], (sizes[squares[0]],) * 2
    else:
        raise ValueError(
            f"{count} positions are not a square grid, with or without a class token; resize them beforehand"
        )
    prefix, patches = embed[:, :num_prefix], embed[:, num_prefix:]
    patches, how = resize_grid(patches, old, grid, mode), []
    if old != grid:
        how.append(f"{mode} from {old[0]}x{old[1]} to {grid[0]}x{grid[1]}")
    if has_class and not prefix.shape[1]:
        prefix = torch.zeros_like(embed[:, :1])
        how.append("zero for the class token")
    elif prefix.shape[1] > has_class:
        how.append(f"{prefix.shape[1] - has_class} prefix position(s) dropped")
    return torch.cat((prefix[:, : int(has_class)], patches), dim=1), ", ".join(how)


def resize_times(embed: Tensor, length: int, mode: str) -> tuple[Tensor, str]:
    """(1, t, D) -> (1, t', D)."""
    return resize_time(embed, length, mode), mode


def resize_patch_embedding(kernel: Tensor, wanted: Sequence[int]) -> tuple[Tensor, str]:
    """(D, C, [t,] p, p) -> (D, C, [t',] p', p').

    In time the kernel is inflated, or summed, so that a still clip keeps its tokens. In space it is resampled as in
    FlexiViT (arXiv 2212.08013, section 3.4).
    """
    length, old = (kernel.shape[2] if kernel.ndim == 5 else 1), tuple(kernel.shape[-2:])
    new_length, new = (wanted[2] if len(wanted) == 5 else 1), tuple(wanted[-2:])
    how, dtype = [], kernel.dtype
    kernel = kernel.reshape(*kernel.shape[:2], length, *old)
    if new_length != length:
        line = kernel.float().flatten(3).movedim(2, -1).flatten(1, 2)  # (D, C·p·p, t)
        line = F.interpolate(line, size=new_length, mode="area") * (length / new_length)
        kernel = line.unflatten(1, (kernel.shape[1], -1)).movedim(-1, 2).unflatten(3, old)
        how.append(f"{'inflated' if new_length > length else 'summed'} from {length} to {new_length} frames")
    if new != old:
        flat = kernel.movedim(2, 1).flatten(0, 1).float()  # (D·t', C, p, p)
        kernel = resample_patch_embed(flat, list(new)).unflatten(0, (-1, new_length)).movedim(1, 2)
        how.append(f"resampled from {old[0]}x{old[1]} to {new[0]}x{new[1]} pixels")
    return kernel.to(dtype).reshape(kernel.shape[:2] + tuple(wanted[2:])), ", ".join(how)
