"""Which processes share what: a DeviceMesh with the dimensions "data" and "context".

Processes of one row share each clip's tokens (context parallelism) and are neighbours in rank; rows have different
clips. Six processes, of which two share a clip::

             context
            0      1
    d  0 | rank 0 rank 1
    a  1 | rank 2 rank 3
    t  2 | rank 4 rank 5
    a

Without a mesh (None) no clips are shared: every process is a row of its own.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from videofib.distributed.processes import TIMEOUT, device, rank, world_size


def make_mesh(context: int = 1) -> DeviceMesh | None:
    """The mesh of all processes, ``context`` of which share each clip; None for a single process. All call it.

    The context group exchanges tensors on the device and, by gloo, tensors in main memory.

    Raises:
        ValueError: the number of processes is not divisible by ``context``.
    """
    world = world_size()
    if world % context:
        raise ValueError(f"{world} processes do not divide into groups of {context}")
    if not dist.is_initialized():
        return None
    ranks = torch.arange(world).view(-1, context)
    row, column = divmod(rank(), context)
    data_group, backend = dist.group.WORLD, None
    if context > 1:
        data_group = dist.new_group(ranks[:, column].tolist(), timeout=TIMEOUT, use_local_synchronization=True)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    context_group = dist.new_group(
        ranks[row].tolist(), timeout=TIMEOUT, backend=backend, use_local_synchronization=True
    )
    return DeviceMesh.from_group(
        [data_group, context_group], device().type, mesh=ranks, mesh_dim_names=("data", "context")
    )


def data_rank(mesh: DeviceMesh | None) -> int:
    """Which part of the data this process has, counted from 0."""
    return rank() if mesh is None else mesh.get_local_rank("data")


def data_size(mesh: DeviceMesh | None) -> int:
    """Into how many parts the data is divided."""
    return world_size() if mesh is None else mesh.size(0)


def context_size(mesh: DeviceMesh | None) -> int:
    """How many processes share a clip."""
    return 1 if mesh is None else mesh.size(1)


def reads_clips(mesh: DeviceMesh | None) -> bool:
    """Whether this process is the first of those that share its clips."""
    return mesh is None or mesh.get_local_rank("context") == 0


def any_that_shares(flag: bool, mesh: DeviceMesh | None) -> bool:
    """Whether the flag is set in any of the processes that share clips with this one; the same answer in each."""
    if context_size(mesh) == 1:
        return flag
    found = torch.tensor(int(flag))
    dist.all_reduce(found, dist.ReduceOp.MAX, group=mesh.get_group("context"))
    return bool(found)


def one_per_data_rank(values: list, mesh: DeviceMesh | None) -> list:
    """Of the values of all processes, in the order of their ranks, those of the first process of each row."""
    return values[:: context_size(mesh)]
