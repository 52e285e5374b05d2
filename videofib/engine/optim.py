"""Optimizers, which parameters decay, and the learning rate at any moment of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.optim import Lamb, Lion
from torch import nn, optim
from torch.distributed.tensor import DTensor


def parameter_groups(
    model: nn.Module, weight_decay: float, *, decay_all: bool = False, layer_decay: float = 1.0
) -> list[dict]:
    """The trainable parameters in groups: those that decay and those that do not, of each layer or of all.

    Biases, norm scales (all 1-D parameters) and what ``model.no_weight_decay()`` names (class token, position and
    time embeddings) do not decay, unless ``decay_all``. What ``model.lr_scales()`` names learns at that fraction of the
    learning rate, which is the ``lr_scale`` of its group.

    Args:
        layer_decay: each layer's learning rate as a fraction of that of the layer above it, as BEiT and VideoMAE
            fine-tune; the groups' ``lr_scale`` holds the product. ``model.layer_of(name)`` numbers the layers, up to
            ``model.num_layers`` for the last. 1: the same for all, in two groups at most.

    Raises:
        ValueError: layer_decay for a model that does not number its layers.
    """
    if layer_decay != 1 and not hasattr(model, "layer_of"):
        raise ValueError(f"layer_decay {layer_decay} needs numbered layers, which {type(model).__name__} does not have")
    scales: dict[str, float] = model.lr_scales() if hasattr(model, "lr_scales") else {}
    exempt = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()
    groups: dict[tuple, dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_free = not decay_all and (parameter.ndim <= 1 or name.endswith(".bias") or name in exempt)
        layer = model.layer_of(name) if layer_decay != 1 else 0
        scale = scales.get(name, 1.0)
        own: dict[str, Any] = {"params": [], "weight_decay": 0.0 if is_free else weight_decay}
        if layer_decay != 1 or scale != 1:
            own["lr_scale"] = scale * (layer_decay ** (model.num_layers - layer) if layer_decay != 1 else 1.0)
        groups.setdefault((layer, is_free, scale), own)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def build_optimizer(
    groups: list[dict],
    method: str,
    *,
    lr: float,
    momentum: float = 0.9,
    nesterov: bool = True,
    betas: Sequence[float] = (0.9, 0.999),
) -> optim.Optimizer:
    """SGD (``momentum``, ``nesterov``), or AdamW, LAMB (arXiv 1904.00962) or Lion (arXiv 2302.06675) with ``betas``.

    SGD and AdamW are fused, and so can skip a step on the device, see ``step.optimizer_step``; but SGD is not where the
    parameters are sharded, since torch's fused SGD does not take them.
    """
    if method == "sgd":
        is_sharded = any(isinstance(parameter, DTensor) for group in groups for parameter in group["params"])
        return optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=not is_sharded)
    if method not in _WITH_BETAS:
        raise ValueError(f"method must be one of sgd, {', '.join(_WITH_BETAS)}, got {method!r}")
    return _WITH_BETAS[method](groups, lr=lr, betas=tuple(betas))


_WITH_BETAS = {"adamw": partial(optim.AdamW, fused=True), "lamb": Lamb, "lion": Lion}


def start_momentum(optimizer: optim.Optimizer) -> None:
    """Start the momentum of a fused SGD from 0 where it has none yet.

    It allocates momentum in its first step, and leaves it uninitialised if that step is skipped.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("fused") and group.get("momentum") else ():
            state = optimizer.state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)


def lr_at(
    epoch: float,
    *,
    base_lr: float,
    policy: str,
    max_epoch: int,
    end_lr: float = 0.0,
    steps: Sequence[float] = (0,),
    relative_lrs: Sequence[float] = (1.0,),
    warmup_epochs: float = 0.0,
    warmup_start_lr: float = 0.0,
) -> float:
    """The learning rate at a fractional epoch (2.5: half-way through the third).

    ::

        lr   . - - .            cosine: base_lr -> end_lr along half a cosine over max_epoch; linear: along a line
            /         ` .       steps_with_relative_lrs: base_lr * relative_lrs[i] from epoch steps[i] on
           /              ` .   warm-up: a line from warmup_start_lr to the policy's value at its end
         0 warm-up    max_epoch

    ``one_cycle`` (arXiv 1708.07120) is half a cosine up to base_lr at the end of warm-up, and half a cosine down to
    end_lr, as torch's OneCycleLR with pct_start = warmup_epochs / max_epoch; momentum is constant.

    Warm-up ends after ``warmup_epochs``, or sooner, see ``warmup_end``.

    Raises:
        ValueError: an epoch that is not from 0 to max_epoch, or an unknown policy.
    """
    if not 0 <= epoch <= max_epoch:
        raise ValueError(f"epoch must be from 0 to max_epoch {max_epoch}, got {epoch}")
    warmup = warmup_end(warmup_epochs, policy=policy, max_epoch=max_epoch, steps=steps)
    if policy == "one_cycle":
        if epoch < warmup:
            return _half_cosine(warmup_start_lr, base_lr, epoch / warmup)
        return _half_cosine(base_lr, end_lr, (epoch - warmup) / (max_epoch - warmup))
    if epoch < warmup:
        target = _policy_lr(warmup, base_lr, policy, max_epoch, end_lr, steps, relative_lrs)
        return warmup_start_lr + (target - warmup_start_lr) * epoch / warmup
    return _policy_lr(epoch, base_lr, policy, max_epoch, end_lr, steps, relative_lrs)


def warmup_end(warmup_epochs: float, *, policy: str, max_epoch: int, steps: Sequence[float] = (0,)) -> float:
    """The epoch at which warm-up ends: ``warmup_epochs``, or sooner where that is too long.

    It is too long where it takes more than half of the training, or, with steps_with_relative_lrs, lasts until the
    first step: the policy's learning rate, to which it rises, has fallen by then, at the end of training to 0. It is
    shortened to a tenth of the training, or to a fifth of the epochs before the first step if that is sooner.
    """
    stepped = [step for step in steps if step > 0] if policy == "steps_with_relative_lrs" else []
    if warmup_epochs <= max_epoch / 2 and all(warmup_epochs < step for step in stepped):
        return warmup_epochs
    return min([max_epoch / 2, *stepped]) / 5


def _policy_lr(
    epoch: float,
    base_lr: float,
    policy: str,
    max_epoch: int,
    end_lr: float,
    steps: Sequence[float],
    relative_lrs: Sequence[float],
) -> float:
    if policy == "cosine":
        return _half_cosine(base_lr, end_lr, epoch / max_epoch)
    if policy == "linear":
        return base_lr + (end_lr - base_lr) * (epoch / max_epoch)  # at the end exactly end_lr, never below it
    if policy == "steps_with_relative_lrs":
        reached = [relative for start, relative in zip(steps, relative_lrs, strict=True) if start <= epoch]
        return base_lr * reached[-1]
    raise ValueError(f"policy must be 'cosine', 'linear', 'steps_with_relative_lrs' or 'one_cycle', got {policy!r}")


def _half_cosine(first: float, last: float, fraction: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * fraction)) / 2
