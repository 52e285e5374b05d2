"""Multi-view evaluation, as a story: views -> view scores -> video scores -> every video once -> accuracies.

B videos of a batch, V views each, C T H W channels, frames, height, width; N videos of the split, K classes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from tqdm import tqdm

from videofib import distributed
from videofib.engine.tasks import SINGLE_LABEL, EvaluationError, Task
from videofib.files import replacing
from videofib.metrics import ensemble_views
from videofib.scores import SCORES_NAME, Scores, write_scores


def evaluate(
    model: nn.Module,
    loader: Iterable[dict],
    *,
    view_batch_size: int,
    num_crops: int = 1,
    ensemble: str = "sum",
    ensemble_logits: bool = False,
    unreadable: str = "wrong",
    task: Task = SINGLE_LABEL,
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
        num_crops: spatial crops of a clip; a video's views are all crops of its first clip, then of the next.
        ensemble: ``sum`` or ``max`` over a video's views.
        ensemble_logits: reduce raw logits instead of scores.
        unreadable: a video that could not be read counts as ``wrong``, or is left out (``exclude``).
        task: what labels mean, and what is counted.
        class_names: keys of the figures by class; by default the class numbers.

    Returns:
        The figures (see ``task.summarize``) and the scores behind them; the same in every process.

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
        task=task,
        amp_dtype=amp_dtype,
        title=title,
    )
    scores = replace(
        scores,
        num_crops=num_crops,
        kind="logit" if ensemble_logits else task.kind,
        ensemble=ensemble,
        class_names=class_names,
    )
    return task.summarize(scores, unreadable=unreadable, class_names=class_names), scores


@torch.inference_mode()
def score_videos(
    model: nn.Module,
    loader: Iterable[dict],
    *,
    view_batch_size: int,
    ensemble: str,
    ensemble_logits: bool,
    task: Task,
    amp_dtype: torch.dtype | None,
    title: str,
) -> Scores:
    """The scores of all videos of the split, gathered from all processes."""
    was_training = model.training
    model.eval()
    own = []  # (index, video scores (K,), label, share of correct views, number of views) of this process's videos
    failures = {}
    progress = tqdm(loader, desc=title, unit="batch", leave=False, disable=None if distributed.is_main() else True)
    for batch in progress:
        logits = _view_logits(model, batch["views"], view_batch_size, amp_dtype)  # (B, V, K)
        shares = task.judge(logits, batch["labels"])  # (B,)
        video_scores = ensemble_views(logits if ensemble_logits else task.score(logits), ensemble)  # (B, K)
        columns = (batch["indices"].tolist(), video_scores.numpy(), batch["labels"].numpy(), shares.tolist())
        own += [(*row, logits.shape[1]) for row in zip(*columns, strict=True)]
        failures.update(batch["failures"])
    model.train(was_training)
    return _gather(own, failures, loader.dataset.records)


def write_results(output_dir: str | Path, results: dict, scores: Scores) -> None:
    """Write ``test_results.json`` and ``test_scores.parquet`` (see ``videofib.scores``), each whole or not at all."""
    write_scores(Path(output_dir) / SCORES_NAME, scores)
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
        paths=[str(record.path) for record in records],
        labels=torch.from_numpy(np.stack([row[2] for row in rows])),
        scores=scores,
        view_correct=torch.tensor([row[3] for row in rows]),
        failures=failures,
        num_views=rows[0][4],
    )
