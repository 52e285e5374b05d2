"""The analysis of scores, against counting by hand."""

import math

import numpy as np
import pytest

from videofib.metrics.intervals import paired_interval
from videofib.report.analysis import (
    confident_mistakes,
    confusion,
    correct,
    paired,
    sign_test,
)
from videofib.report.scored_videos import ScoredVideos

NAMES = ("a", "b", "c")


def scored(labels, scores, *, ids=None, multi_label=False):
    truth = np.zeros((len(labels), 3), bool)
    for row, own in zip(truth, labels, strict=True):
        row[own] = True
    ids = ids or [f"video {n}" for n in range(len(labels))]
    return ScoredVideos(ids, ids, truth, np.array(scores, np.float32), NAMES, multi_label, True)


NAN = [math.nan] * 3
FOUND = scored(
    [0, 0, 1, 1, 2, 2],
    [[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.05, 0.05, 0.9], [0.4, 0.4, 0.2], NAN, [0.6, 0.1, 0.3]],
)


def test_confusion_counts_what_could_be_read():
    matrix = confusion(FOUND)
    assert matrix.tolist() == [[1, 1, 0], [1, 0, 1], [1, 0, 0]]


def test_a_tie_and_an_unreadable_video_are_wrong():
    assert correct(FOUND).tolist() == [True, False, False, False, False, False]


def test_the_most_confident_mistakes_come_first_and_unreadable_videos_not_at_all():
    found = confident_mistakes(FOUND, 10)
    assert [(mistake.index, mistake.predicted) for mistake in found] == [(2, 2), (1, 1), (5, 0), (3, 0)]
    assert found[0].score == pytest.approx(0.9)
    assert len(confident_mistakes(FOUND, 2)) == 2


def test_with_several_classes_a_mistake_is_a_class_that_the_video_does_not_have():
    found = scored([[0, 1], [2]], [[0.99, 0.98, 0.7], [0.8, 0.1, 0.9]], multi_label=True)
    assert [(mistake.index, mistake.predicted) for mistake in confident_mistakes(found, 5)] == [(1, 0), (0, 2)]


def test_pairs_are_made_by_name_in_any_order():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60).tolist()
    one, other = (scored(labels, rng.random((60, 3))) for _ in range(2))
    order = rng.permutation(60)[:50]
    shuffled = scored([labels[n] for n in order], other.scores[order], ids=[other.ids[n] for n in order])
    found = paired(one, shuffled)
    first, second = correct(one)[order], correct(other)[order]
    assert found["videos"] == 50
    assert found["first_only"] == sum(a and not b for a, b in zip(first, second, strict=True))
    assert found["second_only"] == sum(b and not a for a, b in zip(first, second, strict=True))
    assert found["difference"] == pytest.approx(2 * (int(second.sum()) - int(first.sum())))
    assert found["interval"] == paired_interval(found["first_only"], found["second_only"], 50)
    assert paired(one, scored([0], [[1, 0, 0]], ids=["elsewhere"])) == {"videos": 0}


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (3, 9), (9, 3), (7, 7), (40, 61)])
def test_the_sign_test_adds_up_binomials(one, other):
    tail = sum(math.comb(one + other, k) for k in range(min(one, other) + 1))
    assert sign_test(one, other) == pytest.approx(min(1.0, 2 * tail / 2 ** (one + other)))
