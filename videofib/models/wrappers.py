"""Wrappers around a model that pass its input on unchanged: of several devices, of averages, of the compiler."""

from __future__ import annotations

from timm.utils import ModelEmaV2, ModelEmaV3
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

_WRAPPERS = (DataParallel, DistributedDataParallel, AveragedModel, ModelEmaV2, ModelEmaV3)


def unwrapped(module: nn.Module) -> nn.Module:
    """The model within any nesting of wrappers; any other module as it is."""
    while True:
        inner = module.module if isinstance(module, _WRAPPERS) else getattr(module, "_orig_mod", None)  # torch.compile
        if inner is None:
            return module
        module = inner
