"""What scores show beyond accuracy: confused classes, the most confident mistakes, two models on the same videos.

N videos, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from videofib.metrics.accuracy import confusion_matrix
from videofib.metrics.intervals import paired_interval
from videofib.report.scored_videos import ScoredVideos


@dataclass(frozen=True)
class Mistake:
    """A wrong class with a high score: of the video at ``index``, class ``predicted`` has ``score``."""

    index: int
    predicted: int
    score: float


def correct(videos: ScoredVideos) -> np.ndarray:
    """Of videos of one class: whether the true class has the best score, bool (N); an unreadable video is wrong."""
    own = np.where(videos.truth, videos.scores, -np.inf).max(axis=1)
    others = np.where(videos.truth, -np.inf, videos.scores).max(axis=1)
    return videos.readable & (own > others)  # a tie is wrong, as in the figures


def confusion(videos: ScoredVideos) -> torch.Tensor:
    """How many readable videos of each class (rows) are predicted as each: int64 (K, K). Videos of one class."""
    truth, scores = (torch.from_numpy(values[videos.readable]) for values in (videos.truth, videos.scores))
    return confusion_matrix(scores.argmax(dim=1), truth.int().argmax(dim=1), len(videos.class_names))


def confident_mistakes(videos: ScoredVideos, most: int) -> list[Mistake]:
    """At most ``most`` mistakes, those whose wrong class scores highest first; one for each video."""
    wrong_scores = np.where(videos.truth, -np.inf, videos.scores)
    predicted = wrong_scores.argmax(axis=1)
    score = wrong_scores.max(axis=1)
    wrong = videos.readable if videos.multi_label else videos.readable & ~correct(videos)
    order = np.argsort(-score, kind="stable")
    order = order[(wrong & np.isfinite(score))[order]]
    return [Mistake(int(n), int(predicted[n]), float(score[n])) for n in order[:most]]


def paired(first: ScoredVideos, second: ScoredVideos) -> dict[str, float | int | list[float]]:
    """Two models on the same videos, of one class each: how often only one of the two is right.

    Returns:
        ``videos`` in both, ``first_only`` and ``second_only`` right, ``difference`` of top-1 accuracy (second minus
        first) and its 95 % ``interval`` (Tango's), in percentage points, and ``p_value`` of McNemar's exact test
        (1947): the probability of counts at least this uneven if both were equally good.
    """
    row_of = {name: row for row, name in enumerate(second.ids)}
    pairs = [(n, row_of[name]) for n, name in enumerate(first.ids) if name in row_of]
    if not pairs:
        return {"videos": 0}
    of_first, of_second = map(list, zip(*pairs, strict=True))
    one, other = correct(first)[of_first], correct(second)[of_second]
    first_only, second_only = int((one & ~other).sum()), int((other & ~one).sum())
    count = len(pairs)
    return {
        "videos": count,
        "first_only": first_only,
        "second_only": second_only,
        "difference": 100.0 * (second_only - first_only) / count,
        "interval": paired_interval(first_only, second_only, count),
        "p_value": sign_test(first_only, second_only),
    }


def sign_test(one: int, other: int) -> float:
    """The probability that ``one`` + ``other`` tosses of a coin fall at least as unevenly as this."""
    tosses = one + other
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, tosses + 1)))])  # of factorials
    ways = logs[tosses] - logs[: min(one, other) + 1] - logs[tosses - np.arange(min(one, other) + 1)]
    return float(min(1.0, 2.0 * np.exp(ways - tosses * np.log(2)).sum()))
