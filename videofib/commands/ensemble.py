"""Average the test scores of several runs, video by video.

videofib ensemble runs/a/test_scores.parquet runs/b/test_scores.parquet --weights 1 2 --out runs/a+b

Prints the figures of each run and of the weighted mean of their scores, on the same videos, in percent, with the 95 %
interval of the top-1 accuracy. --out writes them as test_results.json (those of the runs under "members"), and the mean
scores as test_scores.parquet. For a video that some runs could not read, the mean is over the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from videofib.files import describe
from videofib.parser import Parser
from videofib.printable import printable
from videofib.report.markup.numbers import fixed
from videofib.signals import sigint_deferred

_FIGURES = ("top1_acc", "top5_acc", "mean_class_acc", "mAP")


def line(name: str, figures: dict) -> str:
    """The figures of a run as a line to print."""
    parts = [f"{key} {fixed(figures[key], 2)}" for key in _FIGURES if figures.get(key) is not None]
    if interval := figures.get("top1_acc_interval"):
        parts[0] += f" [{fixed(interval[0], 2)}, {fixed(interval[1], 2)}]"
    none = "no labels" if figures.get("labels") == "none" else "no video is counted"
    return f"{printable(name)}: {', '.join(parts) or none} ({figures['num_videos']} videos)"


def main(argv: Sequence[str] | None = None) -> None:
    args, weights = arguments(argv)
    with sigint_deferred():
        from videofib.engine.evaluate import write_results
        from videofib.metrics.average import average
        from videofib.metrics.scores import ScoresError, read_scores
        from videofib.metrics.tasks import task_of

    try:
        members = [read_scores(file) for file in args.files]
        mean = average(members, weights)
    except ScoresError as error:
        raise SystemExit(f"error: {printable(error)}") from None
    task = task_of(mean)
    rows = []
    for file, weight, scores in zip(args.files, weights, members, strict=True):
        figures = task.summarize(scores, unreadable=args.unreadable)
        rows.append({"file": str(file), "weight": weight, **figures})
        print(line(str(file), figures))
    figures = task.summarize(mean, unreadable=args.unreadable, details=True)
    print(line("ensemble", figures))
    if args.out:
        try:
            write_results(args.out, {**figures, "members": rows}, mean)
        except OSError as error:
            raise SystemExit(
                f"error: --out {printable(args.out)} cannot be written: {printable(describe(error))}"
            ) from None


def arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[float]]:
    """The options, and the weight of each run."""
    parser = Parser("videofib ensemble", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
