"""Multi-view evaluation, as a story: views -> view scores -> video scores -> every video once -> figures.

B videos of a batch, V views each, C T H W channels, frames, height, width; N videos of the split, K classes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from videofib.distributed import processes
from videofib.distributed.mesh import any_that_shares, one_per_data_rank, reads_clips
from videofib.engine.interrupt import InterruptedRun
from videofib.engine.losses import BinaryCrossEntropy, CrossEntropy, view_losses
from videofib.engine.packing import logits_by_batch
from videofib.engine.resume_cache import Columns, ResumeCache, concatenate
from videofib.engine.shared_batches import BatchLoader
from videofib.files import replacing
from videofib.metrics.accuracy import ensemble_views, view_subsets
from videofib.metrics.predictions import PREDICTIONS_NAME, write_predictions
from videofib.metrics.scores import SCORES_NAME, Scores, write_scores
from videofib.metrics.tasks import SINGLE_LABEL, EvaluationError, Task
from videofib.tracking.progress import with_progress

# of operations -> its name in files
_PRECISION = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Scoring:
    """How the logits of views become scores of videos, and these become figures.

    Attributes:
        task: what labels mean, and what is counted.
        num_crops: spatial crops of a clip; a video's views are all crops of its first clip, then of the next.
        view_starts: where the clips of the views start (``data.sampling``), for the record.
        ensemble: ``sum`` or ``max`` over a video's views.
        ensemble_logits: reduce raw logits instead of scores.
        unreadable: a video that cannot be read counts as ``wrong``, or is left out (``exclude``).
        class_names: keys of the figures by class; by default the class indices.
        details: add the figures of ``task.summarize`` that are of interest only at the end.
        loss: add the mean of this loss over the videos that can be read; None: no loss.
    """

    task: Task = SINGLE_LABEL
    num_crops: int = 1
    view_starts: str = "spread"
    ensemble: str = "sum"
    ensemble_logits: bool = False
    unreadable: str = "wrong"
    class_names: Sequence[str] | None = None
    details: bool = False
    loss: CrossEntropy | BinaryCrossEntropy | None = None


def evaluate(
    model: nn.Module,
    loader: BatchLoader,
    *,
    view_batch_size: int,
    scoring: Scoring | None = None,
    amp_dtype: torch.dtype | None = None,
    title: str = "evaluate",
    cache: ResumeCache | None = None,
    mesh: DeviceMesh | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[dict, Scores | None]:
    """Figures and scores of a model over all views of all videos of a split.

    Args:
        model: (B, C, T, H, W) -> logits (B, K), not wrapped for several processes.
        loader: the videos of this process, in batches of ``views`` (B, V, C, T, H, W); ``loader.dataset.records``
            lists the videos of the entire split.
        view_batch_size: views of a forward pass, whichever videos they are of.
        scoring: by default that of videos of one class, by the mean over their views.
        cache: keeps finished videos on the disk, so that a later start need not repeat them. The loader gives only
            videos that are not in ``cache.indices``. All forward passes are then of one size, so that scores do not
            depend on where an earlier start was interrupted.
        mesh: of the processes (``distributed.mesh``); those that share clips are given the same videos, which count
            once.
        stop: asked before each batch; once it is true, the videos that have been read are finished, and kept in
            ``cache``.

    Returns:
        The figures (see ``task.summarize``), the same in every process, and the scores behind them in the main process
        (None in the others).

    Raises:
        EvaluationError: a video was counted twice or never, has a label the model does not know, or its scores are
            not finite.
        InterruptedRun: ``stop`` was true in some process before the last video; raised in all.
    """
    scoring = scoring or Scoring()
    own, failures = ColumnAccumulator(), {}
    wanted = takewhile(lambda batch: not any_that_shares(stop(), mesh), loader)
    for batch, logits in score_batches(
        model, wanted, view_batch_size, amp_dtype, title, fill_last=cache is not None, total=len(loader)
    ):
        videos = score_videos(batch, logits, scoring)
        failed = dict(batch["failures"])
        names = [loader.dataset.records[index].video_id for index in batch["indices"].tolist()]
        readable = torch.tensor([name not in failed for name in names])
        _check_finite(names, videos["scores"], readable)
        own.add(videos)
        failures.update(failed)
        if cache and reads_clips(mesh):
            cache.add({name: values[readable] for name, values in videos.items()})
    if cache:
        cache.save()

    figures, scores, problem = None, None, None
    stopped = processes.any_process(stop())
    gathered = processes.gather((own.result(), failures))
    if gathered is not None:  # in the main process
        parts = one_per_data_rank(gathered, mesh)
        if cache and cache.earlier:
            parts = [*parts, (cache.earlier, {})]
        done = sum(len(videos["indices"]) for videos, _ in parts if videos)
        try:
            if stopped and done < len(loader.dataset.records):
                raise InterruptedRun(_stopped_after(done, len(loader.dataset.records), title, saved=cache is not None))
            scores = assemble(parts, loader.dataset.records, scoring)
            scores.precision = _PRECISION[amp_dtype]
            figures = scoring.task.summarize(scores, unreadable=scoring.unreadable, details=scoring.details)
        except (EvaluationError, InterruptedRun) as error:  # raised below, in every process: none waits for figures
            problem = error
    figures, problem = processes.broadcast((figures, problem))
    if problem:
        raise problem
    return figures, scores


def _stopped_after(done: int, total: int, title: str, *, saved: bool) -> str:
    kept = "which are saved; run the same command to resume" if saved else "and they are not kept"
    return f"{title}: stopped on request after {done} of {total} videos, {kept}"


@torch.inference_mode()
def score_batches(
    model: nn.Module,
    batches: Iterable[dict],
    view_batch_size: int,
    amp_dtype: torch.dtype | None,
    title: str,
    *,
    fill_last: bool,
    total: int,
) -> Iterator[tuple[dict, Tensor]]:
    """The batches without their views, each with the model's logits of these: float32 (B, V, K), on the CPU.

    A model that gives features (S, ...) in place of logits gives them as (B, V, ...).
    """
    device = next(model.parameters()).device

    def forward(clips: Tensor) -> Tensor:
        with torch.autocast(device.type, amp_dtype, enabled=amp_dtype is not None):
            return model(clips.to(device, non_blocking=True)).float().cpu()

    was_training = model.training
    model.eval()
    progress = with_progress(batches, title, total, shown=processes.is_main())
    yield from logits_by_batch(forward, progress, view_batch_size, fill_last=fill_last)
    model.train(was_training)


def score_videos(batch: dict, logits: Tensor, scoring: Scoring) -> Columns:
    """What is kept of the videos of a batch, whose views have the logits (B, V, K): scores, and whether they are right.

    Returns:
        ``indices``, ``labels``, ``scores`` (B, K), ``view_correct``, ``num_views``, for videos of one class ``hits``
        and, where a loss is asked for, ``losses`` (see ``Scores``).
    """
    task, num_views = scoring.task, logits.shape[1]
    view_scores = logits if scoring.ensemble_logits else task.score(logits)
    videos = {
        "indices": batch["indices"],
        "labels": batch["labels"],
        "scores": ensemble_views(view_scores, scoring.ensemble),
        "view_correct": task.view_correct(logits, batch["labels"]),
        "num_views": torch.full((len(logits),), num_views),
    }
    if scoring.loss:  # behind view_correct, which refuses labels that the model does not know
        videos["losses"] = view_losses(scoring.loss, logits, batch["labels"])
    if task.hits:
        subsets = view_subsets(num_views, scoring.num_crops)
        by_subset = [ensemble_views(view_scores[:, views], scoring.ensemble) for views in subsets]
        videos["hits"] = torch.stack([task.hits(scores, batch["labels"]) for scores in by_subset], dim=1)
    return videos


def assemble(parts: Sequence[tuple[Columns | None, dict[str, str]]], records: Sequence, scoring: Scoring) -> Scores:
    """The scores of a split from those of each process: every video once, in the split's order.

    Args:
        parts: the videos that a process has scored, and video id -> why it could not be read.

    Raises:
        EvaluationError: a video was scored twice or never.
    """
    videos = concatenate([videos for videos, _ in parts if videos])
    failures = {name: reason for _, part in parts for name, reason in part.items()}
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
        paths=[record.location for record in records],
        labels=videos["labels"],
        scores=videos["scores"],
        view_correct=videos["view_correct"],
        failures=failures,
        num_views=int(videos["num_views"][0]),
        num_crops=scoring.num_crops,
        view_starts=scoring.view_starts,
        kind="logit" if scoring.ensemble_logits else scoring.task.kind,
        ensemble=scoring.ensemble,
        class_names=scoring.class_names,
        hits=videos.get("hits"),
        losses=videos.get("losses"),
    )


def write_results(output_dir: str | Path, results: dict, scores: Scores) -> None:
    """Write the results of a test, each file complete or not at all.

    ``test_scores.parquet`` (see ``metrics.scores``), ``test_predictions.csv`` (see ``metrics.predictions``) and
    ``test_results.json``, which has the figures and, where the classes have names, these as ``class_names``.
    """
    if scores.class_names is not None:
        results = {**results, "class_names": list(scores.class_names)}
    write_scores(Path(output_dir) / SCORES_NAME, scores)
    write_predictions(Path(output_dir) / PREDICTIONS_NAME, scores)
    with replacing(Path(output_dir) / "test_results.json") as partial:
        partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


class ColumnAccumulator:
    """Columns to which every batch adds rows, held in few tensors.

    The small tensors of many batches lie in memory between larger ones that are freed, and keep that memory from being
    returned: 20 times their own size was measured.
    """

    def __init__(self, batches_per_chunk: int = 100):
        self._batches_per_chunk = batches_per_chunk
        self._chunks: list[Columns] = []
        self._batches: list[Columns] = []

    def add(self, videos: Columns) -> None:
        """Append the rows of a batch."""
        self._batches.append(videos)
        if len(self._batches) == self._batches_per_chunk:
            self._chunks.append(concatenate(self._batches))
            self._batches = []

    def result(self) -> Columns | None:
        """All rows, in the order in which they were added; None where there are none."""
        parts = self._chunks + self._batches
        return concatenate(parts) if parts else None


def _check_finite(names: Sequence[str], scores: Tensor, readable: Tensor) -> None:
    for name, row, counts in zip(names, scores, readable.tolist(), strict=True):
        if counts and not row.isfinite().all():
            raise EvaluationError(f"the model's scores of {name} are not finite: {row[:5].tolist()} ...")
