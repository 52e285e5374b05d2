"""The ring: keys and values travel from process to process, so that all queries see all keys (arXiv 2310.01889).

Queries stay where they are. In each step a process computes with the block that it holds, while it sends that block to
the next process and receives the one before::

    step      0        1        2            rank 0 ---> rank 1
    rank 0    block 0  block 2  block 1         ^          |
    rank 1    block 1  block 0  block 2         |          v
    rank 2    block 2  block 1  block 0         +------ rank 2

R - 1 steps send, forward k and v; backward k and v again, and one step behind them the sums of their gradients, to
which each process adds its part; the last of these hops takes them home. Heads are not divided, so there may be more
processes than heads. Only dense attention is worth a ring: of a sparse support few of the keys that pass are ever used.

Axes: b batch, h heads, n local tokens, d width of a head. Blocks are (2, b, h, n, d): keys, then values.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from videofib.attention import autocast
from videofib.attention.context.blockwise import OnlineSoftmax, add_gradients, work_dtype
from videofib.attention.context.group import TokenSlice
from videofib.attention.kernels.layout import rows_like

_BLOCK, _GRADIENTS = 1, 2  # tags: between two processes both kinds of messages may be on their way


def attend_by_ring(q: Tensor, k: Tensor, v: Tensor, tokens: TokenSlice, scale: float) -> Tensor:
    """Dense attention: (B, H, n, D) of the local tokens -> (B, H, n, D), whose first derivatives there are.

    Args:
        q, k, v: of the slice ``tokens``, in every process of the same B, H, D and dtype.
        scale: of the logits.
    """
    return _Ring.apply(tokens, scale, q, k, v)


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens: TokenSlice, scale: float, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ring, block = _Neighbours(tokens), torch.stack((k, v))
        with autocast.disabled(q.device.type):
            softmax = OnlineSoftmax(q, scale)
            for step in range(ring.size):
                coming = ring.pass_on(block, step, _BLOCK) if step < ring.size - 1 else None
                softmax.add(block[0], block[1])
                block = coming.wait() if coming else block
            wide, lse = softmax.result()
        out = rows_like(q).copy_(wide)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.tokens, ctx.scale = tokens, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out: Tensor):
        q, k, v, out, lse = ctx.saved_tensors
        ring, block, work = _Neighbours(ctx.tokens), torch.stack((k, v)), work_dtype(q.dtype)
        with autocast.disabled(q.device.type):
            delta = (d_out.to(work) * out.to(work)).sum(-1)
            dq = torch.zeros(q.shape, dtype=work, device=q.device)
            travelling = None
            for step in range(ring.size):
                coming = ring.pass_on(block, step, _BLOCK) if step < ring.size - 1 else None
                part = torch.zeros(block.shape, dtype=work, device=q.device)
                add_gradients(d_out, q, block[0], block[1], lse, delta, ctx.scale, dq, part)
                if step == 0:
                    own = part
                else:
                    gradients = part.add_(travelling.wait()) if travelling else part
                    travelling = ring.pass_on(gradients, step, _GRADIENTS)
                block = coming.wait() if coming else block
            if travelling:
                own += travelling.wait()
        dk, dv = own.to(q.dtype)
        return None, None, dq.to(q.dtype), dk, dv


class _Neighbours:
    """The processes in front of and behind this one, and what they exchange."""

    def __init__(self, tokens: TokenSlice):
        context = tokens.context
        self.size, self.rank, self.counts, self.group = context.size, context.rank, tokens.counts, context.group
        self.next, self.previous = (self._global((self.rank + step) % self.size) for step in (1, -1))

    def _global(self, rank: int) -> int:
        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    def pass_on(self, block: Tensor, step: int, tag: int) -> _Coming:
        """Send the block of process (rank - step), and begin to receive that of (rank - step - 1)."""
        batch, heads, dim = block.shape[1], block.shape[2], block.shape[4]
        count = self.counts[(self.rank - step - 1) % self.size]
        received = block.new_empty(2, batch, heads, count, dim)
        exchange = [
            dist.P2POp(dist.isend, block, self.next, self.group, tag),
            dist.P2POp(dist.irecv, received, self.previous, self.group, tag),
        ]
        return _Coming(block, received, dist.batch_isend_irecv(exchange))


class _Coming:
    """A block that is received while another one is sent."""

    def __init__(self, sent: Tensor, received: Tensor, works: list[dist.Work]):
        self._sent, self._received, self._works = sent, received, works  # what is sent must not be freed

    def wait(self) -> Tensor:
        for work in self._works:
            work.wait()
        return self._received
