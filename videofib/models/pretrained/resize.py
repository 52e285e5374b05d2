"""Resize embeddings: positions in 2-D, times in 1-D, patch kernels in space and time.

Each function returns the new tensor and a description of what was done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers import resample_patch_embed
from torch import Tensor

from videofib.mixers import Grid
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


def resize_joint_positions(
    embed: Tensor, times: Tensor | None, old: Grid | None, grid: Grid, has_class: bool, mode: str, time_mode: str
) -> tuple[Tensor, str]:
    """(1, P+t·h·w, D) with P = 0 or 1, frame after frame -> (1, [1]+t'·h'·w', D).

    Positions of one frame are those of all frames.

    Args:
        times: time embeddings (1, t'', D) to be added to the positions, which are those of one frame, or None.
        old: the weights' grid (t, h, w), of one frame (1, h, w). None: not known. It is then taken to be the new one in
            space or in time, with square frames, or else one square frame.
        grid: the new one.

    Raises:
        ValueError: a number of positions that fits none of these, or two.
    """
    length, height, width = grid
    count, how = embed.shape[1], []
    if times is None and count == length * height * width + has_class:
        return embed, ""
    near_grid = grid if times is None else (1, height, width)
    found = [(prefix, near) for prefix in (1, 0) for near in _clip_grids(count - prefix, near_grid, old)]
    if len(found) > 1 and found[0][0] == found[1][0]:
        grids = " or ".join("x".join(map(str, near)) for _, near in found[:2])
        raise ValueError(
            f"{count} positions may be those of clips of {grids} tokens, and weights alone do not say which; load them "
            "with their config.json, or into a model for the same clips"
        )
    if not found:
        raise ValueError(
            f"{count} positions are not those of clips of {length}x{height}x{width} tokens, nor of such clips of "
            "another length or size; set DATA.NUM_FRAMES and the crop size as the weights have them"
        )
    num_prefix, old = found[0]
    prefix, patches = embed[:, :num_prefix], embed[:, num_prefix:].unflatten(1, old)[0].flatten(1, 2)  # (t, h·w, D)
    if old[1:] != (height, width):
        frames = [resize_grid(frame[None], old[1:], (height, width), mode) for frame in patches]
        patches = torch.cat(frames)
        how.append(f"{mode} from {old[1]}x{old[2]} to {height}x{width}")
    if old[0] != length:
        lines = rearrange(patches, "t n d -> 1 t (n d)")
        lines = resize_time(lines, length, "nearest" if old[0] == 1 else time_mode)
        patches = rearrange(lines, "1 t (n d) -> t n d", d=embed.shape[2])
        how.append("the same for all frames" if old[0] == 1 else f"{time_mode} from {old[0]} to {length} in time")
    if times is not None:
        patches = patches + resize_time(times, length, time_mode)[0, :, None]
        how.append("with the time embedding added")
    if has_class and not num_prefix:
        prefix = torch.zeros_like(embed[:, :1])
        how.append("zero for the class token")
    elif num_prefix > has_class:
        prefix = prefix[:, :0]
        how.append("the prefix position dropped")
    return torch.cat((prefix, patches.reshape(1, -1, embed.shape[2])), dim=1), ", ".join(how)


def _clip_grids(count: int, grid: Grid, old: Grid | None) -> list[Grid]:
    """The grids that ``count`` positions may have: the known one, or those that share time or space with the new."""
    if old is not None and math.prod(old) == count:
        return [old]
    length, height, width = grid
    found = [(count // (height * width), height, width)] if count > 0 and count % (height * width) == 0 else []
    for frames in (length, 1):
        side = math.isqrt(max(count, 0) // frames)
        if side and frames * side**2 == count and (frames == length or not found):
            found.append((frames, side, side))
    return list(dict.fromkeys(found))


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
