"""Of the processes that share each clip, one reads it and sends it to the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from videofib.distributed.mesh import context_size, reads_clips


class BatchLoader(Protocol):
    """What the engine asks of a loader of batches; ``data.loading.loader.VideoLoader`` is one."""

    dataset: Any

    @property
    def sampler(self) -> Any: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[dict]: ...

    def __enter__(self) -> BatchLoader: ...

    def __exit__(self, *error: object) -> None: ...

    def close(self) -> None: ...


class SharedBatches:
    """The batches of the first process's loader, in every process that shares clips with it.

    So a video is read once, and no two processes differ on whether it could be read. Batches travel through main
    memory.

    Args:
        loader: as of ``data.loading.loader.VideoLoader``, the same in every process; only the first's is read.
        mesh: of the processes, several of which share a clip.
    """

    def __init__(self, loader: BatchLoader, mesh: DeviceMesh):
        self.loader, self.mesh = loader, mesh
        self.dataset = loader.dataset

    @property
    def sampler(self) -> Any:
        return self.loader.sampler

    def __len__(self) -> int:
        return len(self.loader)

    def close(self) -> None:
        """End the loader's workers; iterating starts new ones."""
        self.loader.close()

    def __enter__(self) -> SharedBatches:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[dict]:
        group = self.mesh.get_group("context")
        source = dist.get_global_rank(group, 0)
        batches = iter(self.loader) if reads_clips(self.mesh) else None
        while True:
            batch = next(batches, None) if batches else None
            views = batch["views"] if batch else None
            received = [batch and {**batch, "views": (views.shape, views.dtype)}]
            dist.broadcast_object_list(received, source, group=group, device=torch.device("cpu"))
            if received[0] is None:
                return
            if views is None:
                shape, dtype = received[0]["views"]
                views = torch.empty(shape, dtype=dtype)
            dist.broadcast(views, source, group=group)
            yield {**received[0], "views": views}


def shared(loader: BatchLoader, mesh: DeviceMesh | None) -> BatchLoader:
    """The loader itself, or its batches for all processes that share clips."""
    return loader if context_size(mesh) == 1 else SharedBatches(loader, mesh)
