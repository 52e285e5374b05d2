"""Autocast for the backends, also of tensors without values (the meta device), for which torch has none."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def cast(device: str, *tensors: Tensor) -> list[Tensor]:
    """The tensors as torch's own attention computes with them: under autocast, 32-bit ones are cast to its dtype.

    Args:
        device: their type of device.
    """
    if device == "meta" or not torch.is_autocast_enabled(device):
        return list(tensors)
    return [x.to(torch.get_autocast_dtype(device)) if x.dtype == torch.float32 else x for x in tensors]


def disabled(device: str) -> AbstractContextManager:
    """A context in which no operation is cast on this type of device."""
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)
