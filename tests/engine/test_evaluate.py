"""Multi-view evaluation: every video once; test_processes.py compares several processes."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from tests.engine.in_memory import Loader, TinyNet, make_videos
from videofib.engine.evaluate import EvaluationError, Scoring, evaluate, write_results
from videofib.metrics.scores import read_scores
from videofib.metrics.tasks import MULTI_LABEL


class EchoModel(nn.Module):
    """The logits are the first K numbers of a clip, so that a test chooses them."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, clips):
        return clips.flatten(1)[:, : self.num_classes]


def loader_of(logits, labels, batch_size=2, failures=None):
    """A loader whose views hold logits (N, V, K)."""
    logits = torch.as_tensor(logits, dtype=torch.float32)
    views = logits[:, :, None, None, None, :]  # (N, V, C=1, T=1, H=1, W=K)
    return Loader(views, torch.tensor(labels), range(len(labels)), batch_size, failures=failures)


def evaluate_logits(logits, labels, failures=None, **options):
    loader = loader_of(logits, labels, failures=failures)
    return evaluate(EchoModel(np.shape(logits)[-1]), loader, view_batch_size=3, scoring=Scoring(**options))


# Three videos of class 0, 1, 1 with three views each, three classes.
LOGITS = [
    [[9.0, 0, 0], [0, 1, 0], [0, 1, 0]],  # softmax mean and max: class 0; most views: class 1
    [[0, 2, 0], [0, 2, 0], [2, 0, 0]],  # class 1
    [[0, 0, 5], [0, 4, 0], [0, 0, 5]],  # class 2, wrong
]
LABELS = [0, 1, 1]


def test_figures_counted_by_hand():
    results, scores = evaluate_logits(LOGITS, LABELS, class_names=["run", "jump", "swim"])
    assert results["top1_acc"] == pytest.approx(100 * 2 / 3)
    assert results["mean_class_acc"] == 75.0
    assert results["top1_acc_interval"] == pytest.approx([20.8, 93.9], abs=0.05)  # Wilson's, two of three videos
    assert results["top5_acc_interval"] == [pytest.approx(43.9, abs=0.05), 100.0]  # all three
    assert 0 < results["calibration_error"] < 100
    assert results["top5_acc"] == 100.0  # of three classes all are among the best five
    assert results["clip_top1_acc"] == pytest.approx(100 * 4 / 9)
    assert (results["num_videos"], results["num_views"]) == (3, 3)
    assert results["per_class_acc"] == {"run": 100.0, "jump": 50.0, "swim": None}
    assert results["skipped"] == []
    assert scores.ids == ["v0.mp4", "v1.mp4", "v2.mp4"]
    torch.testing.assert_close(scores.scores, torch.tensor(LOGITS).softmax(-1).mean(1))


def test_accuracy_by_the_number_of_views_and_mistakes_counted_by_hand():
    results, _ = evaluate_logits(LOGITS, LABELS, details=True)
    # the middle view is right of the last two; views 0 and 2 are of the first, and tie on the second
    assert results["accuracy_by_views"] == [
        [1, pytest.approx(200 / 3), 100.0],
        [2, pytest.approx(100 / 3), 100.0],
        [3, pytest.approx(200 / 3), 100.0],
    ]
    assert results["most_confused"] == [[1, 2, 1]]
    assert results["per_class_videos"] == {"0": 1, "1": 2, "2": 0}
    assert (results["num_crops"], results["view_starts"]) == (1, "spread")
    crops, _ = evaluate_logits(LOGITS, LABELS, details=True, num_crops=3, ensemble="max", failures={"v1.mp4": "gone"})
    right = [pytest.approx(100 / 3), pytest.approx(200 / 3)]
    assert crops["accuracy_by_views"] == [[1, *right], [3, *right]]
    assert "accuracy_by_views" not in evaluate_logits(LOGITS, LABELS)[0]


def test_max_and_raw_logits_are_switches():
    maximum = evaluate_logits(LOGITS, LABELS, ensemble="max")[1]
    torch.testing.assert_close(maximum.scores, torch.tensor(LOGITS).softmax(-1).amax(1))
    raw = evaluate_logits(LOGITS, LABELS, ensemble_logits=True)[1]
    torch.testing.assert_close(raw.scores, torch.tensor(LOGITS).mean(1))


def test_more_than_five_classes():
    logits = torch.arange(7.0).repeat(7, 1)[:, None]  # for every video class 6 is best, then 5, 4, ...
    results, _ = evaluate_logits(logits, list(range(7)))
    assert results["top1_acc"] == pytest.approx(100 / 7)
    assert results["top5_acc"] == pytest.approx(100 * 5 / 7)


@pytest.mark.parametrize(
    ("unreadable", "top1", "top5", "clip_top1", "count", "by_class"),
    [
        ("wrong", 100 / 3, 200 / 3, 300 / 9, 3, {"0": 0.0, "1": 50.0, "2": None}),
        ("exclude", 50, 100, 50, 2, {"0": None, "1": 50.0, "2": None}),
    ],
)
def test_an_unreadable_video_is_named_and_counted_as_configured(unreadable, top1, top5, clip_top1, count, by_class):
    # the prediction for the views that replace video 0 would be right
    results, scores = evaluate_logits(LOGITS, LABELS, failures={"v0.mp4": "no video stream"}, unreadable=unreadable)
    assert results["skipped"] == [{"video": "v0.mp4", "reason": "no video stream"}]
    accuracies = [results[name] for name in ("top1_acc", "top5_acc", "clip_top1_acc")]
    assert accuracies == pytest.approx([top1, top5, clip_top1])
    assert results["num_videos"] == count
    assert results["per_class_acc"] == by_class
    assert scores.scores[0].isnan().all()
    assert scores.scores[1:].isfinite().all()


def test_excluding_every_video_leaves_no_accuracy():
    failures = {f"v{i}.mp4": "gone" for i in range(3)}
    results, _ = evaluate_logits(LOGITS, LABELS, failures=failures, unreadable="exclude")
    assert results["top1_acc"] is None
    assert results["num_videos"] == 0


def test_chunks_of_views_do_not_change_the_scores():
    views, labels = make_videos(5, num_views=4)
    one_by_one, together = (
        evaluate(TinyNet(), Loader(views, labels, range(5), 2), view_batch_size=size)[1].scores for size in (1, 100)
    )
    torch.testing.assert_close(one_by_one, together)


def test_the_model_is_in_eval_mode_and_then_in_its_earlier_mode():
    views, labels = make_videos(4)
    model = TinyNet(drop=0.9).train()
    first, second = (evaluate(model, Loader(views, labels, range(4), 2), view_batch_size=2)[1] for _ in range(2))
    assert torch.equal(first.scores, second.scores)
    assert model.training


@pytest.mark.parametrize(
    ("indices", "message"), [([0, 1, 1, 2], r"\[1\] were scored twice and \[\] never"), ([0, 2], r"and \[1\] never")]
)
def test_a_video_scored_twice_or_never_is_an_error(indices, message):
    views, labels = make_videos(3)
    with pytest.raises(EvaluationError, match=message):
        evaluate(TinyNet(), Loader(views, labels, indices, 2), view_batch_size=2)


def test_a_label_the_model_does_not_know_is_an_error():
    with pytest.raises(EvaluationError, match="label 7, but the model knows 3 classes"):
        evaluate_logits(LOGITS, [0, 1, 7])


def test_scores_that_are_not_finite_are_an_error():
    logits = torch.tensor(LOGITS)
    logits[1, 0, 0] = torch.nan
    with pytest.raises(EvaluationError, match=r"v1\.mp4 are not finite"):
        evaluate_logits(logits, LABELS)


def test_results_are_complete_files(tmp_path):
    results, scores = evaluate_logits(LOGITS, LABELS)
    write_results(tmp_path, results, scores)
    assert json.loads((tmp_path / "test_results.json").read_text()) == results
    assert "class_names" not in results
    saved = read_scores(tmp_path / "test_scores.parquet")
    assert saved.ids == ["v0.mp4", "v1.mp4", "v2.mp4"]
    assert saved.labels.tolist() == LABELS
    assert torch.equal(saved.scores, scores.scores)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        *("test_predictions.csv", "test_results.json", "test_scores.parquet")
    ]


def test_results_name_the_classes_in_the_order_of_the_outputs(tmp_path):
    names = ["swim", "run", "jump"]
    results, scores = evaluate_logits(LOGITS, LABELS, class_names=names)
    write_results(tmp_path, results, scores)
    assert json.loads((tmp_path / "test_results.json").read_text())["class_names"] == names
    assert read_scores(tmp_path / "test_scores.parquet").class_names == names


SEVERAL = [[1.0, 0, 1], [0, 0, 1], [1, 0, 0]]  # classes of three videos, of three; none is of class 1


def evaluate_multi_label(**options):
    loader = loader_of(LOGITS, [0, 0, 0], failures=options.pop("failures", None))
    loader.labels = torch.tensor(SEVERAL)
    return evaluate(EchoModel(3), loader, view_batch_size=3, scoring=Scoring(task=MULTI_LABEL, **options))


def test_precisions_counted_by_hand():
    results, scores = evaluate_multi_label(class_names=["run", "jump", "swim"])
    torch.testing.assert_close(scores.scores, torch.tensor(LOGITS).sigmoid().mean(1))
    assert scores.labels.tolist() == SEVERAL
    # run scores 0.67 0.63 0.5: the first and the last are right
    # swim scores 0.5 0.5 0.83: those that are right tie behind one that is wrong
    expected = {"run": 100 * (1 + 2 / 3) / 2, "jump": None, "swim": 100 * 2 / 3}
    assert results["per_class_ap"] == pytest.approx(expected)
    assert results["mAP"] == pytest.approx((expected["run"] + expected["swim"]) / 2)
    assert (results["num_classes_counted"], results["num_videos"], results["num_views"]) == (2, 3, 3)
    assert "top1_acc" not in results
    best, _ = evaluate_multi_label(ensemble="max")
    assert best["per_class_ap"]["0"] == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_an_unreadable_video_of_several_classes_ranks_last_or_is_left_out():
    broken = {"v0.mp4": "no video"}
    wrong, _ = evaluate_multi_label(failures=broken)
    assert wrong["per_class_ap"]["0"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
    assert wrong["num_videos"] == 3
    without, _ = evaluate_multi_label(failures=broken, unreadable="exclude")
    assert without["per_class_ap"]["0"] == pytest.approx(100 / 2)
    assert without["num_videos"] == 2
    assert wrong["skipped"] == without["skipped"] == [{"video": "v0.mp4", "reason": "no video"}]
