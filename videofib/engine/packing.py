"""Views of several videos in one forward pass: every pass but the last is full, however many views a video has.

::

    batches of the loader   |A A A A A|B B B B B|C C C C C|      three videos of five views
    forward passes of 4     |A A A A|A B B B|B B C C|C C C .|
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from einops import rearrange
from torch import Tensor


def logits_by_batch(
    forward: Callable[[Tensor], Tensor], batches: Iterable[dict], size: int, *, fill_last: bool = False
) -> Iterator[tuple[dict, Tensor]]:
    """Each batch without its views, and the logits (B, V, K) of these, in the order of the batches.

    Other outputs than logits, of any shape (S, ...), come as (B, V, ...).

    Fewer than ``size`` views are held back beside the batch that is being read. The logits of a view do not depend on
    the other views of its pass, but their last bits may depend on how many there are.

    Args:
        forward: clips (S, C, T, H, W) -> logits (S, K), which are on the CPU when it returns; S is ``size``.
        batches: with ``views`` (B, V, C, T, H, W); views and their number may differ from batch to batch.
        fill_last: fill the last pass to ``size`` by repeating its last clip; otherwise it is smaller.
    """
    waiting: deque[tuple[dict, int, int]] = deque()  # batches with views yet to be passed, with B and V
    pack, logits = None, []
    for batch in batches:
        views = batch["views"]
        waiting.append(({name: value for name, value in batch.items() if name != "views"}, *views.shape[:2]))
        clips = rearrange(views, "b v ... -> (b v) ...")
        pack = pack or _Pack(size, clips)
        logits += [row for full in pack.add(clips) for row in forward(full)]
        while waiting and len(logits) >= waiting[0][1] * waiting[0][2]:
            yield _first(waiting, logits)
    if pack and pack.count:
        logits += forward(pack.rest(fill_last))[: pack.count]
    while waiting:
        yield _first(waiting, logits)


def _first(waiting: deque[tuple[dict, int, int]], logits: list[Tensor]) -> tuple[dict, Tensor]:
    """Remove and return the first waiting batch and its logits (B, V, K)."""
    batch, videos, views = waiting.popleft()
    own = torch.stack(logits[: videos * views])
    del logits[: videos * views]
    return batch, rearrange(own, "(b v) ... -> b v ...", b=videos)


class _Pack:
    """A buffer of ``size`` clips, of which ``count`` are filled."""

    def __init__(self, size: int, like: Tensor):
        self.size, self.count = size, 0
        self.clips = torch.empty(size, *like.shape[1:], dtype=like.dtype, pin_memory=like.is_pinned())

    def add(self, clips: Tensor) -> Iterator[Tensor]:
        """Add clips (N, C, T, H, W); yields each full pass, which must be used before the next is requested."""
        while len(clips):
            if not self.count and len(clips) >= self.size:  # the buffer is empty, so these need not be copied
                yield clips[: self.size]
                clips = clips[self.size :]
                continue
            some = clips[: self.size - self.count]
            self.clips[self.count : self.count + len(some)] = some
            self.count += len(some)
            clips = clips[len(some) :]
            if self.count == self.size:
                self.count = 0
                yield self.clips

    def rest(self, fill: bool) -> Tensor:
        """The remaining clips; with ``fill``, the last of them is repeated up to the full size."""
        self.clips[self.count :] = self.clips[self.count - 1]
        return self.clips if fill else self.clips[: self.count]
