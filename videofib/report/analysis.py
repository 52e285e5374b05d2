"""What scores show beyond accuracy: confused classes, the most confident mistakes, two models on the same videos.

N videos, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from videofib.classes import same_name
from videofib.metrics.accuracy import bootstrap_interval, confusion_matrix, topk_correct
from videofib.report.scored_videos import ScoredVideos

_RESAMPLES = 10_000


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


def intervals(videos: ScoredVideos | None, results: dict) -> dict[str, list[float] | None]:
    """The 95 % interval of top-5 accuracy, which test results lack; none where videos have several classes."""
    if videos is None or videos.multi_label:
        return {}
    labels = torch.from_numpy(videos.truth.argmax(axis=1))
    found = topk_correct(torch.from_numpy(videos.scores), labels, 5) & torch.from_numpy(videos.readable)
    excluded = results.get("num_videos") == int(videos.readable.sum())
    return {"top5_acc_interval": bootstrap_interval(found[videos.readable] if excluded else found)}


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


def disagreement(first: ScoredVideos, second: ScoredVideos) -> str:
    """The first video whose classes differ between two runs, with them; "" where all are the same.

    Classes are compared by name where both runs name theirs, and by index otherwise.
    """
    row_of = {name: row for row, name in enumerate(second.ids)}
    named = first.named and second.named
    for row, video in enumerate(first.ids):
        if video in row_of:
            one, other = _classes(first, row, named), _classes(second, row_of[video], named)
            if {same_name(name) for name in one} != {same_name(name) for name in other}:
                return (
                    f"{video} has {' and '.join(map(repr, one))} in one, {' and '.join(map(repr, other))} in the other"
                )
    return ""


def _classes(videos: ScoredVideos, row: int, named: bool) -> list[str]:
    labels = videos.truth[row].nonzero()[0].tolist()
    return [videos.class_names[label] if named else f"class {label}" for label in labels]


def paired(first: ScoredVideos, second: ScoredVideos) -> dict[str, float | int | list[float]]:
    """Two models on the same videos, of one class each: how often only one of the two is right.

    Returns:
        ``videos`` in both, ``first_only`` and ``second_only`` right, ``difference`` of top-1 accuracy (second minus
        first) and its 95 % bootstrap ``interval``, in percentage points, and ``p_value`` of McNemar's exact test
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
    fractions = np.array([first_only, second_only, count - first_only - second_only]) / count
    drawn = np.random.default_rng(0).multinomial(count, fractions, size=_RESAMPLES)  # videos, with replacement
    differences = 100.0 * (drawn[:, 1] - drawn[:, 0]) / count
    return {
        "videos": count,
        "first_only": first_only,
        "second_only": second_only,
        "difference": 100.0 * (second_only - first_only) / count,
        "interval": np.percentile(differences, [2.5, 97.5]).tolist(),
        "p_value": sign_test(first_only, second_only),
    }


def sign_test(one: int, other: int) -> float:
    """The probability that ``one`` + ``other`` tosses of a coin fall at least as unevenly as this."""
    tosses = one + other
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, tosses + 1)))])  # of factorials
    ways = logs[tosses] - logs[: min(one, other) + 1] - logs[tosses - np.arange(min(one, other) + 1)]
    return float(min(1.0, 2.0 * np.exp(ways - tosses * np.log(2)).sum()))
