"""Confidence intervals of accuracies, and of the difference of two on the same videos; of some width for any counts.

Both hold the values that a score test, at one minus the confidence, does not reject. A bootstrap would return the
figure itself, as if it were certain, where all videos are right or all are wrong: every resampled test set is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

_CONFIDENCE = 0.95
_HALVINGS = 60  # of an interval within -1..1: beyond the digits of a float


def wilson_interval(right: int, count: int, confidence: float = _CONFIDENCE) -> list[float] | None:
    """The interval [low, high], in percent, of the accuracy where ``right`` of ``count`` videos are; None without any.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if not count:
        return None
    z, share = _quantile(confidence), right / count
    middle = share + z**2 / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    low, high = ((middle + side * spread) / (1 + z**2 / count) for side in (-1, 1))
    return [100.0 * low if right else 0.0, 100.0 * high if right < count else 100.0]


def paired_interval(first_only: int, second_only: int, count: int, confidence: float = _CONFIDENCE) -> list[float]:
    """The interval of the difference of two accuracies on the same videos: second minus first, in percentage points.

    Args:
        first_only, second_only: videos that only the first run, or only the second, gets right.
        count: all videos, above 0.

    Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design",
    Statistics in Medicine 17 (1998). It needs only the videos on which the runs differ, like McNemar's test.
    """
    z = _quantile(confidence)
    found = (second_only - first_only) / count

    def z_score(difference: float) -> float:
        variance = _variance(first_only, second_only, count, difference)
        gap = found - difference
        return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap) if gap else 0.0

    low = _boundary(lambda difference: z_score(difference) > z, -1.0, found)
    high = _boundary(lambda difference: z_score(difference) >= -z, found, 1.0)
    return [100.0 * low, 100.0 * high]


def _variance(first_only: int, second_only: int, count: int, difference: float) -> float:
    """Of the observed difference, if ``difference`` is the true one and the data are most likely under it.

    The share p of videos that only the first run gets right then solves a p² + b p + c = 0 (Tango 1998, equation 5).
    """
    a = 2.0 * count
    b = -first_only - second_only + (2 * count - (second_only - first_only)) * difference
    c = -first_only * difference * (1 - difference)
    share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    return (2 * share + difference * (1 - difference)) / count


def _boundary(below: Callable[[float], bool], low: float, high: float) -> float:
    """Where ``below`` turns from True to False between ``low`` and ``high``."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)
