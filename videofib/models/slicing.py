"""Which tokens of a clip a process computes: all of them, or a slice (context parallelism).

Axes: B batch, P prefix tokens, N patch tokens of a clip, n local tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from videofib.attention import ContextGroup
from videofib.mixers import MixerChoice


class AllTokens:
    """All tokens of its clips are in this process.

    Args:
        num_prefix_tokens: P.
        pooling: ``class_token``, or ``mean`` of the patches.
    """

    def __init__(self, num_prefix_tokens: int, pooling: str):
        self.num_prefix_tokens, self.pooling = num_prefix_tokens, pooling

    def take(self, x: Tensor) -> Tensor:
        """The tokens that this process computes: all (B, P+N, D)."""
        return x

    def pool(self, x: Tensor, num_patches: int) -> Tensor:
        """(B, P+N, D) -> (B, D): the class token, or the mean of the N = ``num_patches`` patches."""
        return x[:, 0] if self.pooling == "class_token" else x[:, self.num_prefix_tokens :].mean(1)

    def check_all(self) -> None:
        """Raise ValueError where this process does not have all tokens of its clips."""


class SlicedTokens:
    """Each process of a group has a slice of the tokens of the same clips; prefix tokens come first.

    Args:
        context: the processes.
        num_prefix_tokens, pooling: as for :class:`AllTokens`.
    """

    def __init__(self, context: ContextGroup, num_prefix_tokens: int, pooling: str):
        self.context, self.num_prefix_tokens, self.pooling = context, num_prefix_tokens, pooling

    def take(self, x: Tensor) -> Tensor:
        """(B, P+N, D) -> the local tokens (B, n, D), copied so that the full tensor can be freed.

        Raises:
            ValueError: fewer tokens than processes.
        """
        local = self.context.slice(x.shape[1]).positions
        return x[:, local.start : local.stop].clone(memory_format=torch.contiguous_format)

    def pool(self, x: Tensor, num_patches: int) -> Tensor:
        """The local tokens (B, n, D) -> the class token, or the mean of all patches, in every process: (B, D).

        A process without the tokens in question adds an empty sum, so that gradients reach every process.
        """
        start = self.context.slice(self.num_prefix_tokens + num_patches).positions.start
        if self.pooling == "class_token":
            return self.context.sum(x[:, : 1 if start == 0 else 0].sum(1))
        return self.context.sum(x[:, max(self.num_prefix_tokens - start, 0) :].sum(1) / num_patches)

    def check_all(self) -> None:
        raise ValueError("the tokens of a clip are shared by several processes, and none has all that were asked for")


def check_slicing(
    attention_type: str, mixers: MixerChoice, drop_rates: tuple[float, float], pooling: str, local_interaction: str
) -> None:
    """Raise ValueError where processes cannot share the tokens of a clip.

    Dropout of tokens and of attention weights would draw more random numbers in a larger slice, after which the
    generators of the processes differ; stochastic depth would then skip the branches of other clips in each of them.

    Args:
        attention_type, mixers: of the model.
        drop_rates: of tokens and of attention weights.
        pooling, local_interaction: of the model.
    """
    if attention_type != "joint_space_time":
        raise ValueError(
            "processes can share the tokens of joint_space_time attention only, got "
            f"attention_type={attention_type}; set joint_space_time, or let one process compute each clip"
        )
    mixers.check_slices()
    if pooling == "class_attention":
        raise ValueError(
            "processes that share tokens cannot pool by class attention, which reads all patches of a clip, got "
            "pooling='class_attention'; set pooling='mean'"
        )
    if local_interaction != "none":
        raise ValueError(
            "processes that share tokens cannot mix neighbours, of which other processes have some, got "
            f"local_interaction={local_interaction!r}; set 'none'"
        )
    if any(drop_rates):
        raise ValueError(
            "processes that share tokens cannot drop them: drop_rate and attn_drop_rate must be 0, got "
            f"drop_rate={drop_rates[0]}, attn_drop_rate={drop_rates[1]}"
        )
