"""The mean of several models' scores, video by video. N videos, M models, K classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from videofib.classes import ClassesError, difference, positions
from videofib.metrics.scores import Scores, ScoresError


def average(runs: Sequence[Scores], weights: Sequence[float]) -> Scores:
    """The weighted mean of the scores of several runs on the same videos, in the order of the first.

    A video that some runs could not read has the mean over the others.

    Raises:
        ScoresError: the runs have other videos, labels, classes or kinds of scores than the first.
    """
    first, *others = runs
    aligned = [first, *(_aligned(first, other, number) for number, other in enumerate(others, start=2))]
    readable = torch.stack([run.scores.isfinite().all(dim=1) for run in aligned], dim=1)  # (N, M)
    share = readable * torch.tensor(weights, dtype=torch.float64)
    share = share / share.sum(dim=1, keepdim=True)  # nan where no run could read the video
    values = torch.stack([run.scores.nan_to_num() for run in aligned], dim=1).double()  # (N, M, K)
    views = readable * torch.tensor([run.num_views for run in aligned])
    right = torch.stack([run.view_correct.masked_fill(~readable[:, i], 0) for i, run in enumerate(aligned)], 1)
    crops, starts, precisions = (
        {getattr(run, name) for run in aligned} for name in ("num_crops", "view_starts", "precision")
    )
    return replace(
        first,
        scores=(share[:, :, None] * values).sum(dim=1).float(),
        view_correct=(right * views).sum(dim=1) / views.sum(dim=1),
        failures={name: why for name, why in first.failures.items() if all(name in run.failures for run in aligned)},
        num_views=sum(run.num_views for run in aligned),
        num_crops=crops.pop() if len(crops) == 1 else 1,
        view_starts=starts.pop() if len(starts) == 1 else "mixed",
        precision=precisions.pop() if len(precisions) == 1 else "mixed",
    )


def _with_classes_of(first: Scores, other: Scores, number: int) -> Scores:
    """Run ``number`` with its classes in the order of the first run, where both name them."""
    names, theirs = first.class_names, other.class_names
    if names is None or theirs is None or not (differs := difference(theirs, names, f"in run {number}", "in run 1")):
        return other
    try:
        there = positions(names, theirs)  # class k of run 1 is class there[k] of the other
    except ClassesError as error:
        raise ScoresError(differs) from error
    here = torch.tensor(there).argsort()
    labels = other.labels
    if not other.unlabelled:
        labels = labels[:, there] if other.multi_label else here[labels]
    return replace(other, labels=labels, scores=other.scores[:, there], class_names=names)


def _aligned(first: Scores, other: Scores, number: int) -> Scores:
    """Run ``number`` with its videos, and its classes, in the order of the first run."""
    row_of = {name: row for row, name in enumerate(other.ids)}
    if missing := [name for name in first.ids if name not in row_of]:
        raise ScoresError(f"run {number} lacks {len(missing)} videos that run 1 has, such as {missing[0]!r}")
    if len(other.ids) > len(first.ids):
        (extra, *_) = set(other.ids) - set(first.ids)
        raise ScoresError(
            f"run {number} has {len(other.ids) - len(first.ids)} videos that run 1 lacks, such as {extra!r}"
        )
    if other.unlabelled != first.unlabelled:
        without, others = (number, 1) if other.unlabelled else (1, number)
        raise ScoresError(f"run {without} was tested on a list without labels, run {others} on one with labels")
    if other.kind != first.kind:
        raise ScoresError(f"run {number} has {other.kind} scores, run 1 has {first.kind} scores")
    if (found := other.scores.shape[1]) != (expected := first.scores.shape[1]):
        raise ScoresError(f"run {number} has {found} classes, run 1 has {expected}")
    other = _with_classes_of(first, other, number)
    rows = [row_of[name] for name in first.ids]
    labels = other.labels[rows]
    if labels.shape != first.labels.shape or not torch.equal(labels, first.labels):
        raise ScoresError(f"run {number} has other labels than run 1; were both tested on the same lists?")
    return replace(
        other, ids=first.ids, labels=labels, scores=other.scores[rows], view_correct=other.view_correct[rows]
    )
