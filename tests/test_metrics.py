"""Accuracies against figures counted by hand."""

import pytest
import torch

from videofib.metrics import ensemble_views, per_class_accuracy, percent, topk_correct

# three videos, four classes; the true class is best, second best and worst
SCORES = torch.tensor([[0.7, 0.1, 0.15, 0.05], [0.5, 0.3, 0.15, 0.05], [0.4, 0.3, 0.2, 0.1]])
LABELS = torch.tensor([0, 1, 3])


@pytest.mark.parametrize(
    ("k", "expected"),
    [(1, [True, False, False]), (2, [True, True, False]), (4, [True] * 3), (5, [True] * 3)],
)
def test_topk_counts_the_rank_of_the_true_class(k, expected):
    assert topk_correct(SCORES, LABELS, k).tolist() == expected


def test_a_tie_is_not_credited():
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
