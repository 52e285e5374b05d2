"""Accuracies against figures counted by hand."""

import itertools

import pytest
import torch

from videofib.metrics.accuracy import (
    average_precisions,
    confusion_matrix,
    ensemble_views,
    expected_calibration_error,
    most_confused,
    per_class_accuracy,
    percent,
    topk_correct,
    view_subsets,
)

# three videos, four classes; the true class is best, second best and worst
SCORES = torch.tensor([[0.7, 0.1, 0.15, 0.05], [0.5, 0.3, 0.15, 0.05], [0.4, 0.3, 0.2, 0.1]])
LABELS = torch.tensor([0, 1, 3])


@pytest.mark.parametrize(
    ("k", "expected"),
    [(1, [True, False, False]), (2, [True, True, False]), (4, [True] * 3), (5, [True] * 3)],
)
def test_topk_counts_the_rank_of_the_true_class(k, expected):
    assert topk_correct(SCORES, LABELS, k).tolist() == expected


def test_a_tie_gets_no_credit():
    assert topk_correct(torch.zeros(3, 4), LABELS, 1).tolist() == [False] * 3


def test_nan_scores_are_never_right():
    assert topk_correct(torch.full((3, 4), torch.nan), LABELS, 1).tolist() == [False] * 3


def test_topk_takes_views_as_well_as_videos():
    assert topk_correct(SCORES[None], LABELS[None], 1).tolist() == [[True, False, False]]


def test_sum_and_max_can_name_different_classes():
    views = torch.tensor([[[0.9, 0.1, 0.0], [0.0, 0.5, 0.5], [0.2, 0.6, 0.2]]])  # (B=1, V=3, K=3)
    assert ensemble_views(views, "sum").argmax(-1).tolist() == [1]
    assert ensemble_views(views, "max").argmax(-1).tolist() == [0]
    torch.testing.assert_close(ensemble_views(views, "sum"), torch.tensor([[1.1, 1.2, 0.7]]) / 3)


def test_unknown_ensemble_method_is_named():
    with pytest.raises(ValueError, match="median"):
        ensemble_views(torch.zeros(1, 1, 2), "median")


def test_percent_of_nothing_is_none():
    assert percent(torch.tensor([True, False, False, False])) == 25.0
    assert percent(torch.tensor([], dtype=torch.bool)) is None


def test_per_class_accuracy_has_none_for_a_class_without_videos():
    correct = torch.tensor([True, False, True])
    assert per_class_accuracy(correct, torch.tensor([0, 0, 2]), 4) == [50.0, None, 100.0, None]


def test_calibration_error_by_hand():
    scores = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.45, 0.55], [0.6, 0.4], [1.0, 0.0]])
    correct = torch.tensor([True, False, True, False, True])
    # ten bins: 0.5 to 0.6 has one (0.55, right), 0.6 to 0.7 one (0.6, wrong), the last three (2.9 in all, two right)
    expected = 100 * (abs(1 - 0.55) + abs(0 - 0.6) + abs(2 - 2.9)) / 5
    assert expected_calibration_error(scores, correct, bins=10) == pytest.approx(expected, abs=1e-4)
    # certainty belongs to the top bin, beside 0.95, and not to one of its own or the one below
    top = torch.tensor([[1.0, 0.0], [0.95, 0.05], [0.85, 0.15]])
    expected = 100 * (abs(1 - 1.95) + abs(1 - 0.85)) / 3
    found = expected_calibration_error(top, torch.tensor([False, True, True]), bins=10)
    assert found == pytest.approx(expected, abs=1e-4)
    assert expected_calibration_error(torch.eye(3), torch.ones(3).bool()) == 0
    assert expected_calibration_error(3 * scores, correct) is None  # logits
    assert expected_calibration_error(scores[:0], correct[:0]) is None
    # of the 15 bins one is from 0.533 to 0.6, which holds both
    pair = torch.tensor([[0.54, 0.46], [0.59, 0.41]])
    assert expected_calibration_error(pair, torch.tensor([True, False])) == pytest.approx(100 * 0.13 / 2, abs=1e-4)
    # rounding, as of half precision, is no reason to refuse; independent sigmoids are
    assert expected_calibration_error(1.0005 * scores, correct) == pytest.approx(
        expected_calibration_error(scores, correct), abs=0.1
    )
    assert expected_calibration_error(torch.tensor([[0.9, 0.3]]), torch.tensor([True])) is None


def precision_by_definition(scores, positive):
    """Sum over thresholds, from the highest score down, of (recall's growth) x precision."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        found = [right for score, right in zip(scores, positive, strict=True) if score >= threshold]
        total += (sum(found) / sum(positive) - recall) * sum(found) / len(found)
        recall = sum(found) / sum(positive)
    return 100 * total


def test_average_precision_by_hand():
    scores = torch.tensor([[0.9, 0.2, 0.5], [0.8, 0.2, 0.5], [0.7, 0.1, 0.5], [0.6, 0.9, 0.5]])
    positive = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]).bool()
    first, tied, none = average_precisions(scores, positive)
    assert first == pytest.approx(100 * (1 / 1 + 2 / 3) / 2)
    assert tied == pytest.approx(100 / 3)  # behind the best and level with another: third, in either order of the list
    assert none is None


def test_average_precision_is_the_area_below_the_curve_in_any_order():
    generator = torch.Generator().manual_seed(0)
    for count in (1, 5, 60):
        scores = torch.randint(0, 8, (count, 3), generator=generator) / 8  # many ties
        scores[0, 0] = -torch.inf  # as for an unreadable video
        positive = torch.rand(count, 3, generator=generator) < 0.5
        positive[0] = True
        found = average_precisions(scores, positive)
        by_hand = [
            precision_by_definition(*columns) for columns in zip(scores.T.tolist(), positive.T.tolist(), strict=True)
        ]
        assert found == pytest.approx(by_hand)
        order = torch.randperm(count, generator=generator)
        assert average_precisions(scores[order], positive[order]) == pytest.approx(found, abs=1e-9)


@pytest.mark.parametrize(
    ("num_views", "num_crops", "expected"),
    [
        (1, 1, [[0]]),
        (3, 3, [[1], [0, 1, 2]]),
        (5, 1, [[2], [1, 3], [0, 2, 4], [0, 1, 2, 3, 4]]),
        (4, 1, [[2], [1, 3], [0, 2, 3], [0, 1, 2, 3]]),
        (6, 3, [[4], [3, 4, 5], [0, 1, 2, 3, 4, 5]]),
    ],
)
def test_view_subsets_are_spread_evenly_and_end_with_all(num_views, num_crops, expected):
    assert view_subsets(num_views, num_crops) == expected


def test_view_subsets_of_many_clips():
    choices = view_subsets(100, 1)
    assert [len(views) for views in choices] == [1, 2, 3, 5, 10, 20, 30, 50, 100]
    for views in choices:
        assert sorted(set(views)) == views
        gaps = {later - earlier for earlier, later in itertools.pairwise(views)}
        assert len(gaps) <= 2
        assert max(gaps, default=0) - min(gaps, default=0) <= 1
    with pytest.raises(ValueError, match="7 views are not a multiple of the 3 crops of a clip"):
        view_subsets(7, 3)


def test_confusion_matrix_against_counting():
    generator = torch.Generator().manual_seed(0)
    predicted, labels = torch.randint(5, (2, 200), generator=generator)
    matrix = confusion_matrix(predicted, labels, 6)  # class 5 is neither true nor predicted
    expected = torch.zeros(6, 6, dtype=torch.int64)
    for guess, label in zip(predicted.tolist(), labels.tolist(), strict=True):
        expected[label, guess] += 1
    assert torch.equal(matrix, expected)
    assert confusion_matrix(predicted[:0], labels[:0], 2).tolist() == [[0, 0], [0, 0]]


def test_most_confused_lists_the_most_frequent_mistakes_first():
    matrix = torch.tensor([[9, 0, 2], [5, 1, 0], [2, 1, 7]])
    assert most_confused(matrix) == [[1, 0, 5], [0, 2, 2], [2, 0, 2], [2, 1, 1]]
    assert most_confused(matrix, 2) == [[1, 0, 5], [0, 2, 2]]
    assert most_confused(torch.eye(3, dtype=torch.int64)) == []
