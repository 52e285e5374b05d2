"""Which tokens of a clip a process has, where several processes share a clip (context parallelism).

Axes: B batch, t h w grid of patches or tubelets, P prefix tokens, N tokens without them, n those of this process, D
width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from videofib.attention import ContextGroup


class OwnTokens:
    """A process's slice of the P+N tokens of a clip; prefix tokens come first.

    Args:
        context: the processes that share the clip.
        num_prefix_tokens: P.
        grid: (t, h, w).
        order: how N = t·h·w tokens are laid out, such as "h w t".

    Attributes:
        shard: the slice, as attention needs to know it.
        prefix: which of the prefix tokens are in it.
        places: three tensors (n,): the t, h and w of the others.

    Raises:
        ValueError: fewer tokens than processes.
    """

    def __init__(
        self,
        context: ContextGroup,
        num_prefix_tokens: int,
        grid: tuple[int, int, int],
        order: str,
        device: torch.device,
    ):
        self.context, self.num_prefix_tokens = context, num_prefix_tokens
        self.num_patches = grid[0] * grid[1] * grid[2]
        self.shard = context.shard(num_prefix_tokens + self.num_patches)
        start, stop = self.shard.own.start, self.shard.own.stop
        self.prefix = slice(min(start, num_prefix_tokens), min(stop, num_prefix_tokens))
        numbers = torch.arange(start + len_of(self.prefix), stop, device=device) - num_prefix_tokens
        axes = order.split()
        sizes = dict(zip("thw", grid, strict=True))
        found = dict(zip(axes, torch.unravel_index(numbers, [sizes[axis] for axis in axes]), strict=True))
        self.places = (found["t"], found["h"], found["w"])

    def pool(self, x: Tensor, pooling: str) -> Tensor:
        """This process's tokens (B, n, D) -> the class token, or the mean of all patches, in every process: (B, D).

        Whoever has no part in it adds an empty sum, so that gradients reach every process.
        """
        if pooling == "class_token":
            return self.context.sum(x[:, : 1 if self.shard.own.start == 0 else 0].sum(1))
        return self.context.sum(x[:, len_of(self.prefix) :].sum(1) / self.num_patches)


def len_of(part: slice) -> int:
    """How many a slice without steps has."""
    return part.stop - part.start


def check_sharing(attention_type: str, drop_rates: tuple[float, float], num_heads: int, processes: int) -> None:
    """Raise ValueError where so many processes cannot share the tokens of a clip.

    Dropout of tokens and of attention weights would draw more chance for a larger slice, and so part the generators of
    the processes; then stochastic depth would skip the branches of other clips in one slice than in the next.
    """
    if attention_type != "joint_space_time":
        raise ValueError(
            f"processes can share the tokens of joint_space_time attention alone, got attention_type={attention_type}"
        )
    if any(drop_rates):
        raise ValueError(
            "processes that share tokens cannot drop them: drop_rate and attn_drop_rate must be 0, got "
            f"drop_rate={drop_rates[0]}, attn_drop_rate={drop_rates[1]}"
        )
    if processes > num_heads:
        raise ValueError(
            f"{processes} processes cannot share the {num_heads} heads of attention: each needs one; let fewer "
            "processes share a clip"
        )
