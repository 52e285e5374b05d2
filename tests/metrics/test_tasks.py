"""The figures of a test, against those worked out by hand from a few scores."""

import pytest
import torch

from videofib.metrics.scores import Scores
from videofib.metrics.tasks import MULTI_LABEL, SINGLE_LABEL, EvaluationError, task_of

# four videos of three classes: predicted as 0, 1, 1, 2
PROBABILITIES = torch.tensor([[0.75, 0.25, 0.0], [0.25, 0.75, 0.0], [0.25, 0.75, 0.0], [0.0, 0.25, 0.75]])
TESTED = {"num_crops", "view_starts", "videos_sha256", "per_class_videos"}


def scores_of(labels, **changes):
    names = [f"{number}.mp4" for number in range(4)]
    labels = torch.tensor(labels)
    parts = {"view_correct": torch.zeros(4), "failures": {}, "num_views": 6, "num_crops": 3, **changes}
    return Scores(ids=names, paths=names, labels=labels, scores=PROBABILITIES, **parts)


def test_the_mean_over_classes_is_not_rounded():
    figures = SINGLE_LABEL.summarize(scores_of([0, 0, 2, 2]), unreadable="wrong")
    assert figures["per_class_acc"] == {"0": 50.0, "1": None, "2": 50.0}
    assert figures["mean_class_acc"] == 50.0
    figures = SINGLE_LABEL.summarize(scores_of([0, 2, 2, 1]), unreadable="wrong")
    assert figures["mean_class_acc"] == pytest.approx(100 / 3)  # of one class all are right, of two classes none
    labels = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    figures = MULTI_LABEL.summarize(scores_of(labels, kind="sigmoid"), unreadable="wrong")
    # class 0: ranks 1 and 4 (below two that tie); class 1: a tie of two; class 2: a tie of three below another
    precisions = [100 * (1 + 2 / 4) / 2, 100 / 2, 100 / 4]
    assert list(figures["per_class_ap"].values()) == pytest.approx(precisions)
    assert figures["mAP"] == pytest.approx(50.0)
    labels[0] = [0, 1, 0]  # class 0: rank 4 alone; class 1: ranks 2 and, of four, 4
    figures = MULTI_LABEL.summarize(scores_of(labels, kind="sigmoid"), unreadable="wrong")
    precisions = [100 / 4, 100 * (1 / 2 + 2 / 4) / 2, 100 / 4]
    assert figures["mAP"] == pytest.approx(sum(precisions) / 3)


def test_calibration_compares_confidence_with_the_best_class_alone():
    # all are 0.75 sure, and half of them right; the true class is second best where they are wrong
    figures = SINGLE_LABEL.summarize(scores_of([0, 0, 0, 2]), unreadable="wrong")
    assert figures["top1_acc"] == 50.0
    assert figures["calibration_error"] == pytest.approx(25.0)
    every = SINGLE_LABEL.summarize(scores_of([0, 1, 1, 2]), unreadable="wrong")
    assert every["calibration_error"] == pytest.approx(25.0)
    one = SINGLE_LABEL.summarize(scores_of([0, 0, 0, 0]), unreadable="wrong")  # a second best class is not right
    assert one["calibration_error"] == pytest.approx(50.0)


def test_what_was_tested_is_listed_only_where_details_are_asked_for():
    one = scores_of([0, 1, 1, 2], view_starts="published", class_names=["run", "jump", "swim"])
    several = scores_of([[1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0]], view_starts="published", kind="sigmoid")
    for task, scores, videos in (
        (SINGLE_LABEL, one, {"run": 1, "jump": 2, "swim": 1}),
        (MULTI_LABEL, several, {"0": 1, "1": 3, "2": 0}),
    ):
        assert not TESTED & task.summarize(scores, unreadable="wrong").keys()
        figures = task.summarize(scores, unreadable="wrong", details=True)
        assert figures["per_class_videos"] == videos
        assert (figures["num_crops"], figures["view_starts"]) == (3, "published")
        assert figures["videos_sha256"] == scores.videos_sha256()


def test_one_view_is_right_or_wrong_by_its_best_class():
    views = torch.tensor([[[2.0, 1, 0], [1, 2, 0]], [[0, 1, 2], [0, 2, 1]]])  # (B=2, V=2, K=3)
    assert SINGLE_LABEL.view_correct(views, torch.tensor([0, 2])).tolist() == [0.5, 0.5]
    assert SINGLE_LABEL.view_correct(views, torch.tensor([2, 0])).tolist() == [0.0, 0.0]
    assert MULTI_LABEL.view_correct(views, torch.zeros(2, 3)).isnan().tolist() == [True, True]


def test_a_label_that_the_model_does_not_know_is_refused():
    views = torch.zeros(3, 1, 3)
    assert SINGLE_LABEL.view_correct(views, torch.tensor([0, 1, 2])).shape == (3,)
    with pytest.raises(EvaluationError, match="the split has label 3, but the model knows 3 classes"):
        SINGLE_LABEL.view_correct(views, torch.tensor([0, 3, 7]))


def test_videos_without_labels_are_counted_and_nothing_is_measured():
    scores = scores_of([-1] * 4, failures={"1.mp4": "gone"})
    task = task_of(scores)
    counts = {"labels": "none", "num_videos": 3, "num_views": 6, "skipped": [{"video": "1.mp4", "reason": "gone"}]}
    assert task.summarize(scores, unreadable="exclude") == counts
    details = {"num_crops": 3, "view_starts": "spread", "precision": "fp32", "videos_sha256": scores.videos_sha256()}
    assert task.summarize(scores, unreadable="exclude", details=True) == counts | details
    assert task.summarize(scores, unreadable="wrong")["num_videos"] == 4


@pytest.mark.parametrize("names", [["run", "jump"], ["run", "jump", "swim", "sit"]])
def test_names_of_fewer_or_more_classes_than_the_model_has_are_refused(names):
    with pytest.raises(EvaluationError, match=f"got {len(names)} class names for a model of 3 classes"):
        SINGLE_LABEL.summarize(scores_of([0, 1, 1, 2], class_names=names), unreadable="wrong")
