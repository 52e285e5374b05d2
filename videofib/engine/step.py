"""One optimizer step: its settings, and how gradients become new weights.

B clips of a batch, C T H W channels, frames, height, width; K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from videofib.distributed.fsdp import full_tensor
from videofib.engine.objective import Objective
from videofib.metrics.accuracy import topk_correct

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def is_top1(logits: Tensor, labels: Tensor) -> Tensor:
    """Which clips have the highest logit at their own class: logits (B, K), labels (B,) -> bool (B,)."""
    return topk_correct(logits, labels, 1)


@dataclass(frozen=True)
class Recipe:
    """How an optimizer step is made.

    Attributes:
        lr_at: learning rate at a fractional epoch.
        objective: what is minimised.
        judge: (logits (B, K), labels) -> which clips are right, bool (B,); None where that cannot be said.
        accumulation: batches whose gradients make one optimizer step.
        clip_grad_norm: largest L2 norm of the gradient; 0 leaves it as it is.
        max_skipped: this many steps in a row whose gradient is not finite end the run; each is skipped and counted.
        amp_dtype: bfloat16 or float16 for mixed precision, None for full precision.
        scaler: keeps float16 gradients from vanishing; needed with float16 only.
        mix: mixup or cutmix, (images (B, C, H, W), labels (B,)) -> (images, soft labels (B, K)), as timm's Mixup.
        ema: a moving average of the weights, updated after every step.
    """

    lr_at: Callable[[float], float]
    objective: Objective
    judge: Callable[[Tensor, Tensor], Tensor] | None = is_top1
    accumulation: int = 1
    clip_grad_norm: float = 0.0
    max_skipped: int = 10
    amp_dtype: torch.dtype | None = None
    scaler: torch.amp.GradScaler | None = None
    mix: Mix | None = None
    ema: ModelEmaV3 | None = None


def optimizer_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, has_failed: Tensor
) -> tuple[Tensor, Tensor]:
    """Clip, check and apply the gradients.

    Where their norm is not finite, or the run has failed, weights, moments and moving average stay as they are. With
    several processes it is the same in all of them, since their gradients have been averaged.

    Args:
        has_failed: bool on the device: leave out this step in any case.

    Returns:
        On the device: the L2 norm of the gradient before clipping, and whether the step was skipped.
    """
    if recipe.scaler:
        recipe.scaler.unscale_(optimizer)
    grad_norm = full_tensor(nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad_norm or math.inf))
    skipped = ~grad_norm.isfinite() | has_failed
    if optimizer.defaults.get("fused"):
        optimizer.found_inf = skipped.float()
        optimizer.step()  # decides on the device, by found_inf
        del optimizer.found_inf
    elif not skipped.item():  # which the host waits for
        optimizer.step()
    if recipe.scaler:
        recipe.scaler.update()  # scales less after float16 gradients that overflowed
    optimizer.zero_grad(set_to_none=True)
    if recipe.ema:
        update_average(recipe.ema, model, skipped)
    return grad_norm, skipped


@torch.no_grad()
def update_average(ema: ModelEmaV3, model: nn.Module, skipped: Tensor) -> None:
    """Like ``ema.update(model)``, but where the step was skipped (a bool on the device) the average stays as it is."""
    for average, value in zip(ema.module.state_dict().values(), model.state_dict().values(), strict=True):
        updated = average.lerp(value, 1 - ema.decay) if average.is_floating_point() else value
        average.copy_(torch.where(skipped, average, updated))


def mix_clips(mix: Mix, clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mix clips (B, C, T, H, W) pairwise: the same weight or the same box in all frames of a clip.

    The first is paired with the last, and so on: of an odd number of videos in two views the middle one is paired
    with itself.

    Raises:
        ValueError: an odd number of clips.
    """
    if len(clips) % 2:
        raise ValueError(f"mixup pairs the clips of a batch, so their number must be even; got {len(clips)}")
    images = rearrange(clips, "b c t h w -> b (c t) h w")
    images, soft_labels = mix(images, labels)
    return rearrange(images, "b (c t) h w -> b c t h w", c=clips.shape[1]), soft_labels


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> float:
    """Set the learning rate of all parameter groups, times their ``lr_scale`` if they have one, and return it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    return lr
