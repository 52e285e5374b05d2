"""Intervals against published ones, and against the score tests that define them."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from videofib.metrics.intervals import paired_interval, wilson_interval

Z = NormalDist().inv_cdf(0.975)


@pytest.mark.parametrize(
    ("right", "count", "published"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilson_intervals_are_the_published_ones(right, count, published):
    """Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998)."""
    assert wilson_interval(right, count) == pytest.approx([100 * bound for bound in published], abs=0.005)
    mirrored = [100 - bound for bound in reversed(wilson_interval(right, count))]
    assert wilson_interval(count - right, count) == pytest.approx(mirrored)


def test_no_accuracy_is_certain():
    assert wilson_interval(5, 5) == [pytest.approx(100 * 5 / (5 + Z**2)), 100.0]
    assert wilson_interval(0, 5) == [0.0, pytest.approx(100 * Z**2 / (5 + Z**2))]
    assert wilson_interval(1, 1)[0] == pytest.approx(100 / (1 + Z**2))
    assert wilson_interval(0, 0) is None
    narrow, wide = wilson_interval(7, 9, confidence=0.5), wilson_interval(7, 9)
    assert wide[0] < narrow[0] < 100 * 7 / 9 < narrow[1] < wide[1]


def score(first_only, second_only, count, difference):
    """The score statistic of a difference, from the likelihood that is searched for its maximum."""
    first = np.linspace(max(0.0, -difference), (1 - difference) / 2, 20_001)  # the share that only the first gets right
    second, rest = first + difference, np.clip(1 - 2 * first - difference, 0, None)
    counts = (first_only, second_only, count - first_only - second_only)
    with np.errstate(divide="ignore"):
        likelihood = sum(n * np.log(share) for n, share in zip(counts, (first, second, rest), strict=True) if n)
    best = first[np.argmax(likelihood)]
    variance = (2 * best + difference - difference**2) / count
    return ((second_only - first_only) / count - difference) / math.sqrt(variance)


@pytest.mark.parametrize(
    "counts", [(12, 2, 50), (3, 9, 20), (40, 61, 1000), (1, 0, 6), (0, 3, 7), (5, 5, 10), (0, 0, 12)]
)
def test_paired_intervals_end_where_the_score_test_does(counts):
    low, high = (bound / 100 for bound in paired_interval(*counts))
    assert score(*counts, low) == pytest.approx(Z, rel=2e-3)
    assert score(*counts, high) == pytest.approx(-Z, rel=2e-3)


def test_no_difference_is_certain():
    # without a video on which the runs differ the statistic of a difference d is -d / sqrt(d (1 - d) / n)
    edge = 100 * Z**2 / (12 + Z**2)
    assert paired_interval(0, 0, 12) == pytest.approx([-edge, edge])
    low, high = paired_interval(0, 12, 12)  # the second run is right on all 12, the first on none
    assert (low, high) == (pytest.approx(51.5, abs=0.05), pytest.approx(100))
    assert paired_interval(12, 0, 12) == pytest.approx([-high, -low])
