"""What evaluation measures: accuracy where a video has one class, mean average precision where it may have several.

N videos, or B of a batch; V views each, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from videofib.metrics.accuracy import (
    average_precisions,
    confusion_matrix,
    expected_calibration_error,
    most_confused,
    per_class_accuracy,
    percent,
    topk_correct,
    view_subsets,
)
from videofib.metrics.intervals import wilson_interval
from videofib.metrics.scores import Scores


class EvaluationError(RuntimeError):
    """The figures of an evaluation would be wrong; the message says why."""


@dataclass(frozen=True)
class Task:
    """What labels mean and how a model is measured by them.

    Attributes:
        kind: the name of its scores in files.
        score: logits (..., K) -> scores, which are averaged over views.
        view_correct: (view logits (B, V, K), labels (B, ...)) -> fraction of right views, float32 (B,); nan where
            a view is neither right nor wrong.
        hits: (video scores (B, K), labels (B,)) -> whether the true class is the best, and among the best five, bool
            (B, 2); None where videos may have several classes.
        summarize: (scores, unreadable=, details=) -> figures; ``_accuracies`` and ``_precisions`` list them.
    """

    kind: str
    score: Callable[[Tensor], Tensor]
    view_correct: Callable[[Tensor, Tensor], Tensor]
    hits: Callable[[Tensor, Tensor], Tensor] | None
    summarize: Callable[..., dict]


def _right_views(logits: Tensor, labels: Tensor) -> Tensor:
    num_views, num_classes = logits.shape[1:]
    if (bad := labels[labels >= num_classes]).numel():
        raise EvaluationError(f"the split has label {bad[0].item()}, but the model knows {num_classes} classes")
    return topk_correct(logits, labels[:, None].expand(-1, num_views), 1).float().mean(dim=1)


def _hits(scores: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([topk_correct(scores, labels, k) for k in (1, 5)], dim=1)


def _accuracies(scores: Scores, *, unreadable: str, details: bool = False) -> dict:
    """The figures of a multi-view evaluation.

    Returns:
        ``top1_acc`` and ``top5_acc``: percent of videos (of fewer than five classes, all count as the best five);
        ``top1_acc_interval``, ``top5_acc_interval``: their 95 % intervals (Wilson's); ``clip_top1_acc``: percent of
        single views;
        ``mean_class_acc``: mean of the accuracies of classes; ``calibration_error``: expected calibration error in
        percent, None where scores are not probabilities; ``num_videos`` counted, ``num_views`` of each;
        ``per_class_acc``: percent by class, None for a class without videos; ``skipped``: [{video, reason}] of
        unreadable videos; ``loss``: where scores have losses, their mean over the videos that can be read, None where
        there are none.

        With ``details`` also ``accuracy_by_views``: [number of views, top-1, top-5] for growing subsets of a video's
        views (see ``view_subsets``), the last of all views; ``most_confused``: [true class, predicted class, videos],
        the 50 most frequent mistakes among readable videos, classes as indices; and what was tested (see
        ``_tested``): ``num_crops``, ``view_starts``, ``precision``, ``videos_sha256`` and ``per_class_videos``, how
        many are counted.
    """
    readable, counted = _readable(scores, unreadable)
    labels, num_classes = scores.labels[counted], scores.scores.shape[1]
    top1, top5 = (_hits(scores.scores, scores.labels) & readable[:, None])[counted].T
    by_class = per_class_accuracy(top1, labels, num_classes)
    known = [accuracy for accuracy in by_class if accuracy is not None]
    right = topk_correct(scores.scores, scores.labels, 1)[readable]
    figures = {
        "top1_acc": percent(top1),
        "top1_acc_interval": wilson_interval(int(top1.sum()), len(top1)),
        "top5_acc": percent(top5),
        "top5_acc_interval": wilson_interval(int(top5.sum()), len(top5)),
        "mean_class_acc": sum(known) / len(known) if known else None,
        "calibration_error": expected_calibration_error(scores.scores[readable], right),
        "clip_top1_acc": percent(scores.view_correct.masked_fill(~readable, 0)[counted]),
        "num_videos": int(counted.sum()),
        "num_views": scores.num_views,
        "per_class_acc": _by_name(by_class, scores.class_names),
        "skipped": _skipped(scores),
        **_loss(scores, readable),
    }
    if details and scores.hits is not None:
        figures["accuracy_by_views"] = _by_views(scores, readable, counted)
    if details:
        figures |= _tested(scores, labels.bincount(minlength=num_classes))
        predicted = scores.scores[readable].argmax(dim=1)
        figures["most_confused"] = most_confused(confusion_matrix(predicted, scores.labels[readable], num_classes))
    return figures


def without_labels(task: Task) -> Task:
    """The same task on videos whose classes nobody has said: they are scored, and nothing is measured."""
    return replace(task, view_correct=_unknown, hits=None, summarize=_counts)


def task_of(scores: Scores) -> Task:
    """The task of a file of scores."""
    task = MULTI_LABEL if scores.multi_label else SINGLE_LABEL
    return without_labels(task) if scores.unlabelled else task


def _unknown(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.full((len(logits),), torch.nan)


def _counts(scores: Scores, *, unreadable: str, details: bool = False) -> dict:
    """``labels``: none; ``num_videos``, ``num_views`` and ``skipped`` as in ``_accuracies``, and what was tested."""
    _, counted = _readable(scores, unreadable)
    figures = {
        "labels": "none",
        "num_videos": int(counted.sum()),
        "num_views": scores.num_views,
        "skipped": _skipped(scores),
    }
    return figures | _how_tested(scores) if details else figures


def _by_views(scores: Scores, readable: Tensor, counted: Tensor) -> list[list]:
    hits = (scores.hits & readable[:, None, None])[counted]
    numbers = [len(views) for views in view_subsets(scores.num_views, scores.num_crops)]
    return [[number, percent(hits[:, i, 0]), percent(hits[:, i, 1])] for i, number in enumerate(numbers)]


def _precisions(scores: Scores, *, unreadable: str, details: bool = False) -> dict:
    """The figures of a multi-view evaluation where a video may have several classes.

    Returns:
        ``mAP``: mean over classes of the average precision over videos, in percent; ``per_class_ap``: that of each
        class, None for a class without videos, which the mean leaves out; ``num_classes_counted`` in the mean;
        ``num_videos``, ``num_views``, ``skipped`` and ``loss`` as in ``_accuracies``. An unreadable video that counts
        as wrong ranks below all others in all its classes. ``details`` adds what was tested, as there.
    """
    readable, counted = _readable(scores, unreadable)
    ranked = scores.scores.masked_fill(~readable[:, None], -torch.inf)[counted]
    positive = scores.labels[counted] > 0
    by_class = average_precisions(ranked, positive)
    known = [value for value in by_class if value is not None]
    figures = {
        "mAP": sum(known) / len(known) if known else None,
        "num_classes_counted": len(known),
        "num_videos": int(counted.sum()),
        "num_views": scores.num_views,
        "per_class_ap": _by_name(by_class, scores.class_names),
        "skipped": _skipped(scores),
        **_loss(scores, readable),
    }
    if details:
        figures |= _tested(scores, positive.sum(dim=0))
    return figures


def _loss(scores: Scores, readable: Tensor) -> dict:
    if scores.losses is None:
        return {}
    return {"loss": scores.losses[readable].double().mean().item() if readable.any() else None}


def _tested(scores: Scores, by_class: Tensor) -> dict:
    """What was tested, and how: two results with other values here are of other tests."""
    return _how_tested(scores) | {"per_class_videos": _by_name(by_class.tolist(), scores.class_names)}


def _how_tested(scores: Scores) -> dict:
    return {
        "num_crops": scores.num_crops,
        "view_starts": scores.view_starts,
        "precision": scores.precision,
        "videos_sha256": scores.videos_sha256(),
    }


def _readable(scores: Scores, unreadable: str) -> tuple[Tensor, Tensor]:
    """Which videos could be read, and which are counted: bool (N,) each."""
    readable = torch.tensor([name not in scores.failures for name in scores.ids])
    return readable, readable if unreadable == "exclude" else torch.ones_like(readable)


def _by_name(by_class: Sequence, class_names: Sequence[str] | None) -> dict[str, Any]:
    names = class_names or [str(label) for label in range(len(by_class))]
    if len(names) != len(by_class):
        raise EvaluationError(f"got {len(names)} class names for a model of {len(by_class)} classes")
    return dict(zip(names, by_class, strict=True))


def _skipped(scores: Scores) -> list[dict[str, str]]:
    return [{"video": name, "reason": reason} for name, reason in sorted(scores.failures.items())]


SINGLE_LABEL = Task("softmax", lambda logits: logits.softmax(dim=-1), _right_views, _hits, _accuracies)
MULTI_LABEL = Task("sigmoid", torch.sigmoid, _unknown, None, _precisions)
