"""One model whose weights, gradients and optimizer state are sharded over processes (FSDP2).

Sharded tensors are ``DTensor``; every function here takes plain ones as well and leaves them alone, so callers need no
special case. Those that put full tensors together are called by all processes, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: nn.Module, amp_dtype: torch.dtype | None = None) -> nn.Module:
    """Shard a model's parameters over all processes, in place, and return it; in a single process it stays as it is.

    Each of ``model.blocks``, where there are any, is gathered when it runs and freed afterwards; what is outside them
    is gathered for the entire pass. All processes must hold the same weights. Make the optimizer afterwards, and any
    copy of the model before.

    Args:
        amp_dtype: blocks send and use their weights, and take their tokens, in this type, and their gradients are
            summed in float32. (Autocast alone leaves norms and the tokens between blocks in float32.) What is outside
            the blocks keeps its own type. None: everything keeps its own type, for blocks that do not run in one.
    """
    if not dist.is_initialized():
        return model
    policy = MixedPrecisionPolicy(param_dtype=amp_dtype, reduce_dtype=torch.float32 if amp_dtype else None)
    for block in getattr(model, "blocks", ()):
        fully_shard(block, mp_policy=policy)
    return fully_shard(model)


def is_sharded(model: nn.Module) -> bool:
    """Whether ``shard`` has sharded this model."""
    return isinstance(model, FSDPModule)


@contextmanager
def gradients_averaged(replica: nn.Module, now: bool) -> Iterator[None]:
    """Within the block a backward pass averages gradients over processes, or not yet, if more are to be added first."""
    if is_sharded(replica):
        replica.set_requires_gradient_sync(now)
        yield
    elif now or not isinstance(replica, nn.parallel.DistributedDataParallel):
        yield
    else:
        with replica.no_sync():
            yield


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor put together from the processes' shards, in all of them."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_tensor_on_main(tensor: Tensor) -> Tensor | None:
    """The same for rank 0, on the CPU; None in other processes, so that no more than one such tensor is held there."""
    if not isinstance(tensor, DTensor):
        return tensor
    gathered = tensor.full_tensor()
    return gathered.cpu() if dist.get_rank() == 0 else None


def shard_like(tensor: Any, like: Any) -> Any:
    """This process's shard of a full tensor, sharded as ``like`` is; anything else as it is.

    Nothing is sent: every process has the full tensor.
    """
    if not isinstance(like, DTensor) or not isinstance(tensor, Tensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def unsharded_copy(model: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    """A model that each process can run on its own, as often as it likes; ``model`` itself where it is not sharded.

    All processes take part in every pass through a sharded model. Evaluation cannot promise that: processes differ in
    their number of videos. The copy takes the memory of the weights, without gradients and moments.

    Args:
        make: gives another model of this kind, whose weights do not matter.
    """
    if not is_sharded(model):
        return model
    with torch.random.fork_rng(devices=()):
        copy = make().to(next(model.parameters()).device)
    all_sharded = model.state_dict()  # which may hold what only training needs
    for name, own in copy.state_dict().items():
        sharded = all_sharded[name]
        if isinstance(sharded, DTensor):
            own.copy_(sharded.full_tensor())
        else:  # a buffer, such as a batch norm's mean: rank 0's counts, as under DDP
            own.copy_(sharded)
            dist.broadcast(own, src=0)
    return copy
