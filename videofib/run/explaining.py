"""What a saved model looked at in a video.

V views, C T H W channels, frames, height, width; t h w grid of tokens or of a feature map; K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from videofib.data.lists.records import Records
from videofib.mixers import check_name
from videofib.models.explain import Rollout, attention_rollout, deletion_curve, grad_cam, has_rollout
from videofib.models.explain.gradcam import last_block
from videofib.models.timesformer import TimeSformer
from videofib.report.browse.clips import Clip, read_views, views_of_frames
from videofib.report.explanation.explained import FRACTIONS, METHODS, RANDOM, ExplainedView, Explanation
from videofib.run.loaders import view_dataset

if TYPE_CHECKING:
    from videofib.run.saved_model import SavedModel

DRAWS = 5  # random orders of a deletion curve


def explain(
    saved: SavedModel,
    video: str | np.ndarray,
    *,
    views: tuple[int, int],
    label: str | None,
    methods: Sequence[str] | None,
    block: int | None,
    fps: float,
    check: bool,
) -> Explanation:
    """See :meth:`SavedModel.explain`; ``video`` is a path or frames that have been checked."""
    if methods is None:
        methods = list(METHODS) if has_rollout(saved.model) else ["gradcam"]
    for name in methods:
        check_name("method", name, METHODS)
    if not methods:
        raise ValueError(f"methods names none; known: {', '.join(METHODS)}")
    if block is not None and "gradcam" not in methods:
        raise ValueError(f"block={block} is of Grad-CAM, which methods={list(methods)} leaves out")
    if label is not None:
        check_name("class", label, saved.classes)
    clips, shown = _read(saved, video, views, fps)
    device = next(saved.model.parameters()).device
    rollouts: list[Rollout | None] = [None] * len(clips)
    if "rollout" in methods:
        rollouts = [attention_rollout(saved.model, clip[None].to(device)) for clip in clips]
    logits = torch.cat([_logits(saved, clip.to(device), own) for clip, own in zip(clips, rollouts, strict=True)])
    probabilities = saved.probabilities(logits[None])[0]
    if not logits.isfinite().all():
        raise ValueError("the model's scores are not finite")
    chosen = int(probabilities.argmax()) if label is None else list(saved.classes).index(label)
    found = []
    for clip, about, rollout, own in zip(clips.to(device), shown, rollouts, logits, strict=True):
        heat = {} if rollout is None else {"rollout": _array(rollout.heat)}
        if "gradcam" in methods:
            heat["gradcam"] = _array(grad_cam(saved.model, clip[None], torch.tensor([chosen]), block=block)[0])
        found.append(
            ExplainedView(
                about,
                saved.probabilities(own[None, None])[0].numpy(),
                heat,
                None if rollout is None else float(rollout.prefix[0]),
                None if rollout is None else _array(rollout.heads),
                deletion(saved, clip, heat, chosen) if check else {},
            )
        )
    return Explanation(
        video if isinstance(video, str) else "",
        saved.name,
        saved.classes,
        chosen,
        probabilities.numpy(),
        found,
        _block(saved.model, block) if "gradcam" in methods else None,
        isinstance(saved.model, TimeSformer) and saved.model.tokens.pooling == "class_token",
    )


@torch.no_grad()
def _logits(saved: SavedModel, clip: Tensor, rollout: Rollout | None) -> Tensor:
    """Of one view (C, T, H, W): (1, K), of the forward pass that has been made where there has been one."""
    return (saved.model(clip[None]) if rollout is None else rollout.logits).cpu().float()


def _array(batch: Tensor) -> np.ndarray:
    return batch[0].float().cpu().numpy()


def deletion(
    saved: SavedModel, clip: Tensor, heat: Mapping[str, np.ndarray], label: int, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, np.ndarray]:
    """The probability of a class after each of ``FRACTIONS`` of the patches of a clip (C, T, H, W) has been removed.

    Returns:
        (S,) of each method, the hottest patches first, and of ``RANDOM`` the mean over ``draws`` random orders.

    Raises:
        ValueError: heat whose grid does not divide the clip.
    """

    def probability(clips: Tensor) -> Tensor:
        return saved.probabilities(saved.model(clips).float().cpu()[:, None])[:, label]

    def curve(order: Tensor, grid: tuple[int, ...]) -> np.ndarray:
        t, h, w = grid
        return deletion_curve(probability, clip, order.to(clip.device), (t, h, w), FRACTIONS).numpy()

    found = {
        name: curve(torch.from_numpy(values).flatten().argsort(descending=True, stable=True), values.shape)
        for name, values in heat.items()
    }
    shape = next(iter(heat.values())).shape
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(int(np.prod(shape)), generator=generator) for _ in range(draws)]
    return {**found, RANDOM: np.mean([curve(order, shape) for order in orders], axis=0)}


def _read(saved: SavedModel, video: str | np.ndarray, views: tuple[int, int], fps: float) -> tuple[Tensor, list[Clip]]:
    records = Records.unlabelled([video] if isinstance(video, str) else [])
    dataset = view_dataset(saved.cfg, records, *views, view_starts=saved.cfg.TEST.VIEW_STARTS)
    return read_views(dataset, 0) if isinstance(video, str) else views_of_frames(dataset, video, fps)


def _block(model: torch.nn.Module, block: int | None) -> int | None:
    if not isinstance(model, TimeSformer):
        return None
    return last_block(model) if block is None else block % len(model.blocks) if block < 0 else block
