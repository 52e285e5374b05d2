"""Average the test scores of several runs, video by video.

videofib ensemble runs/a/test_scores.parquet runs/b/test_scores.parquet --weights 1 2 --out runs/a+b

Prints the figures of each run and of the weighted mean of their scores, on the same videos. --out writes them as
test_results.json (those of the runs under "members"), and the mean scores as test_scores.parquet. For a video that some
runs could not read, the mean is over the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from videofib.engine.evaluate import write_results
from videofib.metrics.scores import Scores, ScoresError, read_scores
from videofib.metrics.tasks import MULTI_LABEL, SINGLE_LABEL

_FIGURES = ("top1_acc", "top5_acc", "mean_class_acc", "mAP")


def combine(members: Sequence[Scores], weights: Sequence[float]) -> Scores:
    """The weighted mean of several runs' scores of the same videos, in the order of the first.

    Raises:
        ScoresError: runs of other videos, labels, classes or kinds of scores; says of which, and of how many videos.
    """
    first, *others = members
    aligned = [first, *(_as(first, other, number) for number, other in enumerate(others, start=2))]
    readable = torch.stack([member.scores.isfinite().all(dim=1) for member in aligned], dim=1)  # (N, members)
    share = readable * torch.tensor(weights, dtype=torch.float64)
    share = share / share.sum(dim=1, keepdim=True)  # nan where no run could read it
    values = torch.stack([member.scores.nan_to_num() for member in aligned], dim=1).double()  # (N, members, K)
    views = readable * torch.tensor([member.num_views for member in aligned])
    right = torch.stack([member.view_correct.masked_fill(~readable[:, i], 0) for i, member in enumerate(aligned)], 1)
    crops = {member.num_crops for member in aligned}
    return replace(
        first,
        scores=(share[:, :, None] * values).sum(dim=1).float(),
        view_correct=(right * views).sum(dim=1) / views.sum(dim=1),
        failures={name: why for name, why in first.failures.items() if all(name in run.failures for run in aligned)},
        num_views=sum(member.num_views for member in aligned),
        num_crops=crops.pop() if len(crops) == 1 else 1,
    )


def _as(first: Scores, other: Scores, number: int) -> Scores:
    """Run ``number`` in the order of the first one's videos."""
    row_of = {name: row for row, name in enumerate(other.ids)}
    if missing := [name for name in first.ids if name not in row_of]:
        raise ScoresError(f"run {number} lacks {len(missing)} videos that run 1 has, such as {missing[0]!r}")
    if len(other.ids) > len(first.ids):
        (extra, *_) = set(other.ids) - set(first.ids)
        raise ScoresError(f"run {number} has {len(other.ids) - len(first.ids)} videos that run 1 lacks: {extra!r}")
    if other.kind != first.kind:
        raise ScoresError(f"run {number} has scores of the kind {other.kind}, run 1 of the kind {first.kind}")
    if (found := other.scores.shape[1]) != (expected := first.scores.shape[1]):
        raise ScoresError(f"run {number} has {found} classes, run 1 has {expected}")
    if None not in (names := (first.class_names, other.class_names)) and list(names[0]) != list(names[1]):
        differing = next(k for k, (one, two) in enumerate(zip(*names, strict=True)) if one != two)
        raise ScoresError(
            f"class {differing} is {names[1][differing]!r} in run {number}, {names[0][differing]!r} in run 1"
        )
    rows = [row_of[name] for name in first.ids]
    labels = other.labels[rows]
    if labels.shape != first.labels.shape or not torch.equal(labels, first.labels):
        raise ScoresError(f"run {number} has other labels than run 1; were both tested on the same lists?")
    return replace(
        other, ids=first.ids, labels=labels, scores=other.scores[rows], view_correct=other.view_correct[rows]
    )


def line(name: str, figures: dict) -> str:
    """A run's figures in a line."""
    parts = [f"{key} {figures[key]:.2f}" for key in _FIGURES if figures.get(key) is not None]
    if interval := figures.get("top1_acc_interval"):
        parts[0] += f" [{interval[0]:.2f}, {interval[1]:.2f}]"
    return f"{name}: {', '.join(parts) or 'no video is counted'} ({figures['num_videos']} videos)"


def main(argv: Sequence[str] | None = None) -> None:
    args, weights = arguments(argv)
    try:
        members = [read_scores(file) for file in args.files]
        mean = combine(members, weights)
    except ScoresError as error:
        raise SystemExit(f"error: {error}") from None
    task = MULTI_LABEL if mean.multi_label else SINGLE_LABEL
    rows = []
    for file, weight, scores in zip(args.files, weights, members, strict=True):
        figures = task.summarize(scores, unreadable=args.unreadable)
        rows.append({"file": str(file), "weight": weight, **figures})
        print(line(str(file), figures))
    figures = task.summarize(mean, unreadable=args.unreadable, details=True)
    print(line("together", figures))
    if args.out:
        write_results(args.out, {**figures, "members": rows}, mean)


def arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[float]]:
    """The options, and the weight of each run."""
    parser = argparse.ArgumentParser(
        "videofib ensemble", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="test_scores.parquet of each run")
    parser.add_argument("--weights", nargs="+", type=float, metavar="W", help="weights of the runs (default: equal)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--unreadable", choices=("wrong", "exclude"), default="wrong", help="as TEST.UNREADABLE (default wrong)"
    )
    args = parser.parse_args(argv)
    weights = args.weights or [1.0] * len(args.files)
    if len(args.files) < 2 or len(weights) != len(args.files) or not all(0 < w < float("inf") for w in weights):
        parser.error(f"expected two files or more and a weight above 0 for each, got {len(args.files)} and {weights}")
    if args.out and any(file.resolve().parent == args.out.resolve() for file in args.files):
        parser.error(f"--out {args.out} holds one of the runs, whose results it would replace")
    return args, weights
