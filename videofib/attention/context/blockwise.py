"""Dense attention of some queries over one block of keys after another (arXiv 2305.19370, section 3).

Softmax over the keys of all blocks needs of each block only, for query i with logits s_ij = scale · q_i · k_j::

    top  max_j s_ij          den  Σ_j e^(s_ij - top)          num  Σ_j e^(s_ij - top) v_j

which are carried from block to block, rescaled whenever ``top`` rises; then out = num / den and lse = top + log den.
Given lse of all blocks, a block's gradients need nothing of the others: with p_ij = e^(s_ij - lse_i) and
delta_i = d_out_i · out_i, d s_ij = p_ij (d_out_i · v_j - delta_i).

Axes: b batch, h heads, q queries, k keys, d width of a head. No tensor has more than ``_MOST_LOGITS`` logits.
Everything is computed and kept in 32 bits, or in 64 where the inputs have them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_KEYS = 1024  # of a chunk
_MOST_LOGITS = 1 << 22  # of a chunk, where it has one query or more


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """What is computed and summed in: 32 bits for inputs of 16."""
    return torch.promote_types(dtype, torch.float32)


class OnlineSoftmax:
    """Attention of queries over keys that arrive in blocks.

    Args:
        q: (B, H, Q, D).
        scale: of the logits.
    """

    def __init__(self, q: Tensor, scale: float):
        self.q, self.scale, self.work = q, scale, work_dtype(q.dtype)
        self.num = q.new_zeros(q.shape, dtype=self.work)
        self.den = q.new_zeros((*q.shape[:3], 1), dtype=self.work)
        self.top = q.new_full((*q.shape[:3], 1), float("-inf"), dtype=self.work)

    def add(self, k: Tensor, v: Tensor) -> None:
        """Add a block of keys and values (B, H, K, D)."""
        for queries, keys in _chunks(self.q, k):
            own = self.q[:, :, queries].to(self.work) * self.scale
            num, den, top = (x[:, :, queries] for x in (self.num, self.den, self.top))
            logits = own @ k[:, :, keys].to(self.work).transpose(-2, -1)
            risen = torch.maximum(top, logits.amax(-1, keepdim=True))
            weights, kept = logits.sub_(risen).exp_(), top.sub_(risen).exp_()
            num.mul_(kept).add_(weights @ v[:, :, keys].to(self.work))
            den.mul_(kept).add_(weights.sum(-1, keepdim=True))
            top.copy_(risen)

    def result(self) -> tuple[Tensor, Tensor]:
        """The output (B, H, Q, D) and log of the softmax's denominators (B, H, Q), in 32 bits or more; once."""
        return self.num.div_(self.den), (self.top + self.den.log()).squeeze(-1)


def add_gradients(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor, scale: float, dq: Tensor, dkv: Tensor
) -> None:
    """Add a block's part of the gradients to those of the queries and of the block's keys and values.

    Args:
        d_out, q: (B, H, Q, D).
        k, v: (B, H, K, D), of the block.
        lse, delta: (B, H, Q), of all blocks.
        scale: of the logits.
        dq: (B, H, Q, D), in 32 bits or more; is added to.
        dkv: (2, B, H, K, D), in 32 bits or more; is added to.
    """
    work = dq.dtype
    dk, dv = dkv
    for queries, keys in _chunks(q, k):
        own, g = q[:, :, queries].to(work) * scale, d_out[:, :, queries].to(work)
        theirs = k[:, :, keys].to(work)
        weights = (own @ theirs.transpose(-2, -1)).sub_(lse[:, :, queries, None]).exp_()
        dv[:, :, keys] += weights.transpose(-2, -1) @ g
        d_logits = (g @ v[:, :, keys].to(work).transpose(-2, -1)).sub_(delta[:, :, queries, None]).mul_(weights)
        dq[:, :, queries].add_(d_logits @ theirs, alpha=scale)
        dk[:, :, keys] += d_logits.transpose(-2, -1) @ own


def _chunks(q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice]]:
    """Which queries and keys are computed at a time."""
    rows = max(1, _MOST_LOGITS // (_KEYS * max(1, q.shape[0] * q.shape[1])))
    for i in range(0, q.shape[2], rows):
        for j in range(0, k.shape[2], _KEYS):
            yield slice(i, i + rows), slice(j, j + _KEYS)
