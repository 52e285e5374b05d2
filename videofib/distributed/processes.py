"""Several processes working on one model: their ranks, and how they exchange values.

Without a process group every function here answers for a single process, so callers need no special case.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from videofib.distributed.fsdp import is_sharded

# A rank that waits longer than this for the others fails, so that none waits forever for one that died.
TIMEOUT = timedelta(minutes=30)


def rank() -> int:
    """The number of this process, 0 in a single one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is rank 0, which writes files and logs."""
    return rank() == 0


def device() -> torch.device:
    """The GPU of this process, or the CPU where there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def barrier() -> None:
    """Wait until every process has called this."""
    if dist.is_initialized():
        dist.barrier()


def all_gather(value: Any) -> list:
    """The values (anything that pickles) of all processes, in the order of their ranks."""
    if not dist.is_initialized():
        return [value]
    values: list = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather(value: Any) -> list | None:
    """The values (anything that pickles) of all processes, in the order of their ranks; None in ranks but 0."""
    if not dist.is_initialized():
        return [value]
    values: list | None = [None] * world_size() if is_main() else None
    dist.gather_object(value, values)
    return values


def broadcast(value: Any) -> Any:
    """The main process's value (anything that pickles), in every process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; the same answer in each."""
    if not dist.is_initialized():
        return flag
    found = torch.tensor(int(flag), device=device())
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def total(values: list[float]) -> list[float]:
    """The sum over processes of each number."""
    if not dist.is_initialized():
        return values
    sums = torch.tensor(values, dtype=torch.float64, device=device())
    dist.all_reduce(sums)
    return sums.tolist()


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over processes, in place."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= world_size()


def replicate(model: nn.Module) -> nn.Module:
    """The model, wrapped to average gradients over processes; as it is where it is sharded, or the process single."""
    if not dist.is_initialized() or is_sharded(model):
        return model
    return nn.parallel.DistributedDataParallel(model)
