"""Optimizers, which parameters decay, and the learning rate at any moment of training."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn, optim


def parameter_groups(model: nn.Module, weight_decay: float, *, decay_all: bool = False) -> list[dict]:
    """The trainable parameters in two groups: those that decay, and those that do not.

    Biases, norm scales (all 1-D parameters) and what ``model.no_weight_decay()`` names (class token, position and
    time embeddings) do not decay, unless ``decay_all``.
    """
    exempt = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()
    decayed, free = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_free = parameter.ndim <= 1 or name.endswith(".bias") or name in exempt
        (free if is_free and not decay_all else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(
    groups: list[dict],
    method: str,
    *,
    lr: float,
    momentum: float = 0.9,
    nesterov: bool = True,
    betas: Sequence[float] = (0.9, 0.999),
) -> optim.Optimizer:
    """SGD (``momentum``, ``nesterov``) or AdamW (``betas``) over parameter groups."""
    if method == "sgd":
        return optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)
    if method == "adamw":
        return optim.AdamW(groups, lr=lr, betas=tuple(betas))
    raise ValueError(f"method must be 'sgd' or 'adamw', got {method!r}")


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

        lr   . - - .            cosine: base_lr -> end_lr along half a cosine over max_epoch
            /         ` .       steps_with_relative_lrs: base_lr * relative_lrs[i] from epoch steps[i] on
           /              ` .   warm-up: a line from warmup_start_lr to the policy's value at warmup_epochs
         0 warm-up    max_epoch
    """
    if epoch < warmup_epochs:
        target = _policy_lr(warmup_epochs, base_lr, policy, max_epoch, end_lr, steps, relative_lrs)
        return warmup_start_lr + (target - warmup_start_lr) * epoch / warmup_epochs
    return _policy_lr(epoch, base_lr, policy, max_epoch, end_lr, steps, relative_lrs)


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
        return end_lr + (base_lr - end_lr) * (1 + math.cos(math.pi * epoch / max_epoch)) / 2
    if policy == "steps_with_relative_lrs":
        reached = [relative for start, relative in zip(steps, relative_lrs, strict=True) if start <= epoch]
        return base_lr * reached[-1]
    raise ValueError(f"policy must be 'cosine' or 'steps_with_relative_lrs', got {policy!r}")
