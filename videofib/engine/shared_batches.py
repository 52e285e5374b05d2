"""One process of those that share each clip reads it; all of them get it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch.utils.data import Sampler

from videofib.distributed.mesh import ClipSharing


class SharedBatches:
    """The batches of the first process's loader, in every process that shares clips with it.

    So a video is read once, and no two processes differ on whether it could be read. Batches travel by way of main
    memory.

    Args:
        loader: as of ``data.loading.loader.VideoLoader``, alike in every process; only the first's is read.
        sharing: of the processes; more than one.
    """

    def __init__(self, loader: Iterable[dict], sharing: ClipSharing):
        self.loader, self.sharing = loader, sharing
        self.dataset = loader.dataset

    @property
    def sampler(self) -> Sampler:
        return self.loader.sampler

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict]:
        source, group = self.sharing.first_rank, self.sharing.host_group
        batches = iter(self.loader) if self.sharing.is_first else None
        while True:
            batch = next(batches, None) if batches else None
            views = batch["views"] if batch else None
            told = [batch and {**batch, "views": (views.shape, views.dtype)}]
            dist.broadcast_object_list(told, source, group=group, device=torch.device("cpu"))
            if told[0] is None:
                return
            if views is None:
                shape, dtype = told[0]["views"]
                views = torch.empty(shape, dtype=dtype)
            dist.broadcast(views, source, group=group)
            yield {**told[0], "views": views}


def shared(loader: Iterable[dict], sharing: ClipSharing) -> Iterable[dict]:
    """The loader, whose batches come to all processes that share clips."""
    return loader if sharing.ranks == 1 else SharedBatches(loader, sharing)
