"""Measure features by their nearest neighbours and a linear classifier, and print the accuracies."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from videofib.metrics.features import Features, FeaturesError, read_all
from videofib.metrics.intervals import wilson_interval
from videofib.metrics.probe import first_best, linear_probe, neighbour_votes
from videofib.metrics.table import UNLABELLED
from videofib.printable import printable
from videofib.report.markup.numbers import fixed


def probe(train_files: Sequence[str], test_files: Sequence[str], *, k: int, temperature: float) -> None:
    """Print the top-1 accuracies, with 95 % intervals, of classifiers that learn from the features of ``train_files``.

    Args:
        k, temperature: of the nearest neighbours; see ``metrics.probe.neighbour_votes``.

    Raises:
        FeaturesError: a file that cannot be used, or that does not fit the others.
    """
    trained = read_all(train_files)
    tested = read_all(test_files, like=trained)
    train, train_classes = _labelled(trained, "--train")
    test, test_classes = _labelled(tested, "--test")
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

    votes = neighbour_votes(learned, labels, truth, len(classes), k=k, temperature=temperature)
    show(f"nearest neighbours (k = {min(k, len(train))})", votes)
    linear = linear_probe(learned, labels, len(classes))
    show(f"linear probe (L2 {linear.strength:g})", linear.logits(truth))


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
    if (features.labels[readable] == UNLABELLED).any():
        row = int(np.flatnonzero(readable & (features.labels == UNLABELLED))[0])
        raise FeaturesError(
            f"{option}: {features.videos[row]} has no label; extract the features of a list with labels, --list"
        )
    if left_out := int((~readable).sum()):
        print(f"{option}: {left_out} of {len(readable)} videos could not be read and are left out")
    return features.values[readable], features.labels[readable]
