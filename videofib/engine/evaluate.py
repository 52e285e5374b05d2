"""Multi-view evaluation, as a story: views -> view scores -> video scores -> every video once -> accuracies.

B videos of a batch, V views each, C T H W channels, frames, height, width; N videos of the split, K classes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from tqdm import tqdm

from videofib.distributed import processes
from videofib.distributed.mesh import one_per_data_rank, reads_clips
from videofib.engine.finished import Columns, FinishedVideos, Growing, together
from videofib.engine.packing import logits_by_batch
from videofib.files import replacing
from videofib.metrics.accuracy import ensemble_views, growing_views
from videofib.metrics.scores import SCORES_NAME, Scores, write_scores
from videofib.metrics.tasks import SINGLE_LABEL, EvaluationError, Task


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
    details: bool = False,
    finished: FinishedVideos | None = None,
    mesh: DeviceMesh | None = None,
) -> tuple[dict, Scores | None]:
    """Accuracies and scores of a model over all views of all videos of a split.

    Args:
        model: (B, C, T, H, W) -> logits (B, K), not wrapped for several processes.
        loader: this process's share of the videos, in batches of ``views`` (B, V, C, T, H, W);
            ``loader.dataset.records`` lists the videos of the whole split.
        view_batch_size: views a forward pass, whichever videos they are of.
        num_crops: spatial crops of a clip; a video's views are all crops of its first clip, then of the next.
        ensemble: ``sum`` or ``max`` over a video's views.
        ensemble_logits: reduce raw logits instead of scores.
        unreadable: a video that could not be read counts as ``wrong``, or is left out (``exclude``).
        task: what labels mean, and what is counted.
        class_names: keys of the figures by class; by default the class numbers.
        details: figures that are of interest at the end, see ``task.summarize``.
        finished: where finished videos are kept, so that a later start need not repeat them. The loader gives those
            alone that are not in ``finished.indices``. All forward passes are then of one size, so that scores do not
            depend on where an earlier start ended.
        mesh: of the processes (``distributed.mesh``); those that share clips are given the same videos, which count
            once.

    Returns:
        The figures (see ``task.summarize``), the same in every process, and the scores behind them, which the main
        process has alone; None in the others.

    Raises:
        EvaluationError: a video was counted twice or never, has a label the model does not know, or its scores are
            not finite.
    """
    own, failures = Growing(), {}
    for batch, logits in score_batches(
        model, loader, view_batch_size, amp_dtype, title, fill_last=finished is not None
    ):
        videos = judge(batch, logits, task, num_crops=num_crops, ensemble=ensemble, ensemble_logits=ensemble_logits)
        failed = dict(batch["failures"])
        names = [loader.dataset.records[index].video_id for index in batch["indices"].tolist()]
        readable = torch.tensor([name not in failed for name in names])
        _check_finite(names, videos["scores"], readable)
        own.add(videos)
        failures.update(failed)
        if finished and reads_clips(mesh):
            finished.add({name: values[readable] for name, values in videos.items()})
    if finished:
        finished.save()

    shares = processes.gather((own.all(), failures))
    shares = shares and one_per_data_rank(shares, mesh)
    figures, scores, problem = None, None, ""
    if shares is not None:
        if finished and finished.earlier:
            shares = [*shares, (finished.earlier, {})]
        try:
            kind = "logit" if ensemble_logits else task.kind
            scores = _scores(
                shares,
                loader.dataset.records,
                num_crops=num_crops,
                kind=kind,
                ensemble=ensemble,
                class_names=class_names,
            )
            figures = task.summarize(scores, unreadable=unreadable, details=details)
        except EvaluationError as error:  # which every process shall tell, and none wait for figures
            problem = str(error)
    figures, problem = processes.broadcast((figures, problem))
    if problem:
        raise EvaluationError(problem)
    return figures, scores


@torch.inference_mode()
def score_batches(
    model: nn.Module,
    loader: Iterable[dict],
    view_batch_size: int,
    amp_dtype: torch.dtype | None,
    title: str,
    *,
    fill_last: bool,
) -> Iterable[tuple[dict, Tensor]]:
    """The batches of a loader, without their views, and the model's float32 logits (B, V, K) of these on the CPU."""
    device = next(model.parameters()).device

    def forward(clips: Tensor) -> Tensor:
        with torch.autocast(device.type, amp_dtype, enabled=amp_dtype is not None):
            return model(clips.to(device, non_blocking=True)).float().cpu()

    was_training = model.training
    model.eval()
    progress = tqdm(loader, desc=title, unit="batch", leave=False, disable=None if processes.is_main() else True)
    yield from logits_by_batch(forward, progress, view_batch_size, fill_last=fill_last)
    model.train(was_training)


def judge(batch: dict, logits: Tensor, task: Task, *, num_crops: int, ensemble: str, ensemble_logits: bool) -> Columns:
    """What is kept of videos whose views have the logits (B, V, K): their scores, and how often they are right."""
    num_views = logits.shape[1]
    view_scores = logits if ensemble_logits else task.score(logits)
    videos = {
        "indices": batch["indices"],
        "labels": batch["labels"],
        "scores": ensemble_views(view_scores, ensemble),
        "view_correct": task.judge(logits, batch["labels"]),
        "num_views": torch.full((len(logits),), num_views),
    }
    if task.hits:
        grown = [ensemble_views(view_scores[:, views], ensemble) for views in growing_views(num_views, num_crops)]
        videos["hits"] = torch.stack([task.hits(scores, batch["labels"]) for scores in grown], dim=1)
    return videos


def write_results(output_dir: str | Path, results: dict, scores: Scores) -> None:
    """Write ``test_results.json`` and ``test_scores.parquet`` (see ``metrics.scores``), each whole or not at all."""
    write_scores(Path(output_dir) / SCORES_NAME, scores)
    with replacing(Path(output_dir) / "test_results.json") as partial:
        partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _check_finite(names: Sequence[str], scores: Tensor, readable: Tensor) -> None:
    for name, row, counts in zip(names, scores, readable.tolist(), strict=True):
        if counts and not row.isfinite().all():
            raise EvaluationError(f"the model's scores of {name} are not finite: {row[:5].tolist()} ...")


def _scores(shares: Sequence[tuple[Columns | None, dict[str, str]]], records: Sequence, **about) -> Scores:
    """Put the processes' videos together, each exactly once and in the split's order."""
    videos = together([videos for videos, _ in shares if videos])
    failures = {name: reason for _, part in shares for name, reason in part.items()}
    order = videos["indices"].argsort()
    indices = videos["indices"][order].tolist()
    if indices != list(range(len(records))):
        twice = sorted(index for index, count in Counter(indices).items() if count > 1)
        never = sorted(set(range(len(records))) - set(indices))
        raise EvaluationError(f"of {len(records)} videos, {twice[:5]} were scored twice and {never[:5]} never")
    videos = {name: values[order] for name, values in videos.items()}
    ids = [record.video_id for record in records]
    videos["scores"][[name in failures for name in ids]] = torch.nan
    return Scores(
        ids=ids,
        paths=[str(record.path) for record in records],
        labels=videos["labels"],
        scores=videos["scores"],
        view_correct=videos["view_correct"],
        failures=failures,
        num_views=int(videos["num_views"][0]),
        hits=videos.get("hits"),
        **about,
    )
