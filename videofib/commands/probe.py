"""Measure how well features tell classes apart, without training the model: neighbours, and a linear classifier.

videofib features --list train.csv --model runs/mine --out train.parquet
videofib features --list test.csv --model runs/mine --out test.parquet
videofib probe --train train.parquet --test test.parquet

The files are those of videofib features on lists with labels, of pooled features; several, such as those of shards, are
read together. Prints, with 95 % intervals, the top-1 accuracies on the test files of

  nearest neighbours   the --k nearest by cosine similarity s vote exp(s / --temperature) for their class, as for DINO
                       (arXiv 2104.14294)
  linear probe         logistic regression of standardised features; its L2 penalty is chosen by cross-validation on the
                       training files alone

Videos that could not be read are left out, and counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from videofib.metrics.features import UNKNOWN, Features, FeaturesError, read_all
from videofib.metrics.intervals import wilson_interval
from videofib.parser import Parser
from videofib.printable import printable
from videofib.report.markup.numbers import fixed

if TYPE_CHECKING:
    from torch import Tensor

_NEAREST, _TEMPERATURE = 20, 0.07  # of DINO


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    # heavy, and --help needs none of it
    import torch

    from videofib.metrics.probe import first_best, linear_probe, neighbour_votes

    try:
        trained = read_all(args.train)
        tested = read_all(args.test, like=trained)
        train, train_classes = _labelled(trained, "--train")
        test, test_classes = _labelled(tested, "--test")
    except FeaturesError as error:
        raise SystemExit(f"error: {printable(error)}") from None
    if shared := set(trained.videos) & set(tested.videos):
        print(f"warning: --train and --test share {len(shared)} videos: {printable(min(shared))}", file=sys.stderr)
    classes, numbers = np.unique(train_classes, return_inverse=True)
    learned, truth = torch.from_numpy(train), torch.from_numpy(test)
    labels = torch.from_numpy(numbers.reshape(-1))
    print(f"{len(train)} videos of {len(classes)} classes to learn from, {len(test)} to test")
    if unseen := int((~np.isin(test_classes, classes)).sum()):
        print(f"{unseen} of these are of classes that none to learn from has, and count as wrong")

    def show(name: str, scores: Tensor) -> None:
        right = int((classes[first_best(scores).numpy()] == test_classes).sum())
        low, high = wilson_interval(right, len(test))
        accuracy = 100 * right / len(test)
        print(f"{name}: top-1 {fixed(accuracy, 2)} % [{fixed(low, 2)}, {fixed(high, 2)}]")

    votes = neighbour_votes(learned, labels, truth, len(classes), k=args.k, temperature=args.temperature)
    show(f"nearest neighbours (k = {min(args.k, len(train))})", votes)
    probe = linear_probe(learned, labels, len(classes))
    show(f"linear probe (L2 {probe.strength:g})", probe.logits(truth))


def _labelled(features: Features, option: str) -> tuple[np.ndarray, np.ndarray]:
    """The features (N, D) and the classes (N,) of the videos that could be read.

    Raises:
        FeaturesError: they are not pooled, none could be read, or a video has no label.
    """
    if features.values.ndim != 2:
        raise FeaturesError(
            f"{option} has {features.about.get('kind')} features; a probe takes pooled ones, --kind pooled"
        )
    readable = np.array([not error for error in features.errors], bool)
    if not readable.any():
        raise FeaturesError(f"{option} has no videos that could be read")
    if (features.labels[readable] == UNKNOWN).any():
        row = int(np.flatnonzero(readable & (features.labels == UNKNOWN))[0])
        raise FeaturesError(
            f"{option}: {features.videos[row]} has no label; extract the features of a list with labels, --list"
        )
    if left_out := int((~readable).sum()):
        print(f"{option}: {left_out} of {len(readable)} videos could not be read and are left out")
    return features.values[readable], features.labels[readable]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("videofib probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", required=True, metavar="FILE", help="features to learn from")
    parser.add_argument("--test", nargs="+", required=True, metavar="FILE", help="features to test")
    parser.add_argument("--k", type=int, default=_NEAREST, metavar="K", help=f"neighbours (default {_NEAREST})")
    parser.add_argument(
        "--temperature", type=float, default=_TEMPERATURE, metavar="T", help=f"of votes (default {_TEMPERATURE})"
    )
    args = parser.parse_args(argv)
    if args.k < 1:
        parser.error("--k must be at least 1")
    if not 0.01 <= args.temperature < float("inf"):
        parser.error("--temperature must be at least 0.01")
    return args
