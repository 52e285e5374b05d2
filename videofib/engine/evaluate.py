"""Multi-view evaluation, as a story: views -> view scores -> video scores -> every video once -> accuracies.

B videos of a batch, V views each, C T H W channels, frames, height, width; N videos of the split, K classes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from tqdm import tqdm

from videofib import distributed
from videofib.files import replacing
from videofib.metrics import ensemble_views, per_class_accuracy, percent, topk_correct


class EvaluationError(RuntimeError):
    """An evaluation whose figures would be wrong; the message says why."""


@dataclass
class Scores:
    """What a model says of every video of a split, in the split's order.

    Attributes:
        ids: names of the videos (N).
        labels: true classes, int64 (N,).
        scores: video scores, float32 (N, K); nan for a video that could not be read.
        view_correct: share of a video's views whose best class is the true one, float32 (N,).
        failures: video id -> why it could not be read.
        num_views: V.
    """

    ids: list[str]
    labels: Tensor
    scores: Tensor
    view_correct: Tensor
    failures: dict[str, str]
    num_views: int


def evaluate(
    model: nn.Module,
    loader: Iterable[dict],
    *,
    view_batch_size: int,
    ensemble: str = "sum",
    ensemble_logits: bool = False,
    unreadable: str = "wrong",
    class_names: Sequence[str] | None = None,
    amp_dtype: torch.dtype | None = None,
    title: str = "evaluate",
) -> tuple[dict, Scores]:
    """Accuracies and scores of a model over all views of all videos of a split.

    Args:
        model: (B, C, T, H, W) -> logits (B, K), not wrapped for several processes.
        loader: this process's share of the videos, in batches of ``views`` (B, V, C, T, H, W);
            ``loader.dataset.records`` lists the videos of the whole split.
        view_batch_size: views a forward pass.
        ensemble: ``sum`` or ``max`` over a video's views.
        ensemble_logits: reduce raw logits instead of softmax scores.
        unreadable: a video that could not be read counts as ``wrong``, or is left out (``exclude``).
        class_names: keys of ``per_class_acc``; by default the class numbers.

    Returns:
        The figures (see ``summarize``) and the scores behind them; the same in every process.

    Raises:
        EvaluationError: a video was counted twice or never, has a label the model does not know, or its scores are
            not finite.
    """
    scores = score_videos(
        model,
        loader,
        view_batch_size=view_batch_size,
        ensemble=ensemble,
        ensemble_logits=ensemble_logits,
        amp_dtype=amp_dtype,
        title=title,
    )
    return summarize(scores, unreadable=unreadable, class_names=class_names), scores


@torch.inference_mode()
def score_videos(
    model: nn.Module,
    loader: Iterable[dict],
    *,
    view_batch_size: int,
    ensemble: str,
    ensemble_logits: bool,
    amp_dtype: torch.dtype | None,
    title: str,
) -> Scores:
    """The scores of all videos of the split, gathered from all processes."""
    was_training = model.training
    model.eval()
    own = []  # (index, video scores (K,), share of correct views, number of views) of this process's videos
    failures = {}
    progress = tqdm(loader, desc=title, unit="batch", leave=False, disable=None if distributed.is_main() else True)
    for batch in progress:
        logits = _view_logits(model, batch["views"], view_batch_size, amp_dtype)  # (B, V, K)
        num_views, num_classes = logits.shape[1:]
        labels = batch["labels"]
        if (bad := labels[labels >= num_classes]).numel():
            raise EvaluationError(f"the split has label {bad[0].item()}, but the model knows {num_classes} classes")
        correct = topk_correct(logits, labels[:, None].expand(-1, num_views), 1).float().mean(dim=1)  # (B,)
        video_scores = ensemble_views(logits if ensemble_logits else logits.softmax(dim=-1), ensemble)  # (B, K)
        own += [
            (index, row, share, num_views)
            for index, row, share in zip(batch["indices"].tolist(), video_scores.numpy(), correct.tolist(), strict=True)
        ]
        failures.update(batch["failures"])
    model.train(was_training)
    return _gather(own, failures, loader.dataset.records)


def summarize(scores: Scores, *, unreadable: str, class_names: Sequence[str] | None = None) -> dict:
    """The figures of a multi-view evaluation.

    Returns:
        ``top1_acc`` and ``top5_acc``: percent of videos (all classes count as the best five where there are fewer);
        ``clip_top1_acc``: percent of single views; ``num_videos`` counted, ``num_views`` of each; ``per_class_acc``:
        percent by class, None for a class without videos; ``skipped``: [{video, reason}] of unreadable videos.
    """
    readable = torch.tensor([name not in scores.failures for name in scores.ids])
    counted = readable if unreadable == "exclude" else torch.ones_like(readable)
    labels, num_classes = scores.labels[counted], scores.scores.shape[1]
    top1, top5 = ((topk_correct(scores.scores, scores.labels, k) & readable)[counted] for k in (1, 5))
    by_class = per_class_accuracy(top1, labels, num_classes)
    names = class_names or [str(label) for label in range(num_classes)]
    if len(names) != num_classes:
        raise EvaluationError(f"{len(names)} class names were given for a model of {num_classes} classes")
    return {
        "top1_acc": percent(top1),
        "top5_acc": percent(top5),
        "clip_top1_acc": percent((scores.view_correct * readable)[counted]),
        "num_videos": int(counted.sum()),
        "num_views": scores.num_views,
        "per_class_acc": dict(zip(names, by_class, strict=True)),
        "skipped": [{"video": name, "reason": reason} for name, reason in sorted(scores.failures.items())],
    }


def write_results(output_dir: str | Path, results: dict, scores: Scores) -> None:
    """Write ``test_results.json`` and ``test_scores.npz`` (ids, labels, scores), each whole or not at all."""
    with replacing(Path(output_dir) / "test_scores.npz") as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            ids=np.array(scores.ids),  # fixed-width text, so that reading needs no pickle
            labels=scores.labels.numpy(),
            scores=scores.scores.numpy(),
        )
    with replacing(Path(output_dir) / "test_results.json") as partial:
        partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _view_logits(model: nn.Module, views: Tensor, view_batch_size: int, amp_dtype: torch.dtype | None) -> Tensor:
    """Run the model on views (B, V, C, T, H, W), so many at a time -> float32 logits (B, V, K) on the CPU."""
    device = next(model.parameters()).device
    logits = []
    for clips in rearrange(views, "b v c t h w -> (b v) c t h w").split(view_batch_size):
        with torch.autocast(device.type, amp_dtype, enabled=amp_dtype is not None):
            logits.append(model(clips.to(device, non_blocking=True)).float().cpu())
    return rearrange(torch.cat(logits), "(b v) k -> b v k", b=len(views))


def _gather(own: list[tuple], failures: dict[str, str], records: Sequence) -> Scores:
    """Put the processes' videos together, each exactly once and in the split's order."""
    parts = distributed.all_gather((own, failures))
    rows = sorted((row for part, _ in parts for row in part), key=lambda row: row[0])
    failures = {name: reason for _, part in parts for name, reason in part.items()}
    indices = [row[0] for row in rows]
    if indices != list(range(len(records))):
        twice = sorted(index for index, count in Counter(indices).items() if count > 1)
        never = sorted(set(range(len(records))) - set(indices))
        raise EvaluationError(f"of {len(records)} videos, {twice[:5]} were scored twice and {never[:5]} never")
    ids = [record.video_id for record in records]
    scores = torch.from_numpy(np.stack([row[1] for row in rows]))
    for name, row in zip(ids, scores, strict=True):
        if name in failures:
            row.fill_(torch.nan)
        elif not row.isfinite().all():
            raise EvaluationError(f"the model's scores of {name} are not finite: {row[:5].tolist()} ...")
    return Scores(
        ids=ids,
        labels=torch.tensor([record.label for record in records]),
        scores=scores,
        view_correct=torch.tensor([row[2] for row in rows]),
        failures=failures,
        num_views=rows[0][3],
    )
