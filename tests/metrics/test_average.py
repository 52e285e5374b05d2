"""What a mean of runs keeps of them beside the scores; tests/tools/test_ensemble.py averages files."""

from dataclasses import replace

import pytest
import torch

from videofib.metrics.average import average
from videofib.metrics.scores import Scores, ScoresError

NAMES = ["a.mp4", "b.mp4"]


def run_of(values, view_correct, **changes):
    parts = {"labels": torch.tensor([0, 1]), "failures": {}, "num_views": 6, "num_crops": 3, **changes}
    return Scores(ids=NAMES, paths=NAMES, scores=torch.tensor(values), view_correct=torch.tensor(view_correct), **parts)


ONE = run_of([[0.75, 0.25], [0.5, 0.5]], [1.0, 0.5])
TWO = run_of([[0.25, 0.75], [0.25, 0.75]], [0.0, 1.0])


def test_views_count_alike_and_those_of_an_unreadable_video_not_at_all():
    assert average([ONE, replace(TWO, num_views=2)], [1, 1]).view_correct.tolist() == [0.75, 0.625]
    broken = run_of([[torch.nan, torch.nan], [0.25, 0.75]], [torch.nan, 1.0], failures={"a.mp4": "gone"}, num_views=3)
    mean = average([ONE, broken], [1, 3])
    assert mean.view_correct.tolist() == [1.0, pytest.approx((6 * 0.5 + 3) / 9)]
    assert mean.scores.tolist() == [[0.75, 0.25], [0.3125, 0.6875]]
    assert (mean.num_views, mean.failures) == (9, {})


def test_crops_and_starts_are_kept_where_all_runs_have_the_same():
    published = replace(ONE, view_starts="published")
    same = average([published, replace(TWO, view_starts="published")], [1, 1])
    assert (same.num_crops, same.view_starts, same.num_views) == (3, "published", 12)
    mixed = average([published, replace(TWO, num_crops=1)], [1, 1])
    assert (mixed.num_crops, mixed.view_starts) == (1, "mixed")


@pytest.mark.parametrize(("first", "other"), [("softmax", "logit"), ("logit", "softmax")])
def test_other_kinds_of_scores_are_refused_whichever_run_comes_first(first, other):
    with pytest.raises(ScoresError, match=f"run 2 has {other} scores, run 1 has {first} scores"):
        average([replace(ONE, kind=first), replace(TWO, kind=other)], [1, 1])


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_fewer_or_more_classes_are_refused(classes):
    first, other = (replace(ONE, scores=torch.full((2, number), 0.5)) for number in (3, classes))
    with pytest.raises(ScoresError, match=f"run 2 has {classes} classes, run 1 has 3"):
        average([first, other], [1, 1])


def test_classes_are_averaged_by_name_where_both_runs_name_them():
    first = replace(ONE, class_names=["run", "jump"])
    turned = replace(
        TWO, class_names=["jump", "run"], scores=TWO.scores.flip(1), labels=torch.tensor([1, 0])
    )  # the same classes
    for other in (turned, TWO):
        mean = average([first, other], [1, 1])
        assert mean.scores.tolist() == [[0.5, 0.5], [0.375, 0.625]]
        assert (mean.labels.tolist(), mean.class_names) == ([0, 1], ["run", "jump"])


@pytest.mark.parametrize(("labelled", "number"), [([ONE], 2), ([], 1)])
def test_lists_with_and_without_labels_are_not_averaged(labelled, number):
    without = replace(TWO, labels=torch.tensor([-1, -1]))
    runs = [*labelled, without, ONE][:2]
    message = f"run {number} was tested on a list without labels, run {3 - number} on one with labels"
    with pytest.raises(ScoresError, match=message):
        average(runs, [1, 1])
    assert average([without, without], [1, 1]).unlabelled


def test_labels_of_several_classes_do_not_fit_those_of_one():
    several = replace(TWO, labels=torch.tensor([[1.0, 0], [0, 1]]))
    for runs in ([ONE, several], [several, ONE]):
        with pytest.raises(ScoresError, match="run 2 has other labels than run 1"):
            average(runs, [1, 1])


def test_a_run_with_further_videos_is_refused_by_the_name_of_one():
    further = replace(
        TWO,
        ids=["b.mp4", "c.mp4", "a.mp4", "d.mp4"],
        labels=torch.tensor([1, 0, 0, 1]),
        scores=torch.full((4, 2), 0.5),
        view_correct=torch.zeros(4),
    )
    with pytest.raises(ScoresError, match=r"run 2 has 2 videos that run 1 lacks, such as '[cd]\.mp4'"):
        average([ONE, further], [1, 1])
