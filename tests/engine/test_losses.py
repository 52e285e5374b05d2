"""The losses of clips, against sums written out."""

import math

import pytest
import torch
from torch import nn

from tests.engine.in_memory import Loader, TinyNet, make_videos
from videofib.engine.evaluate import Scoring, evaluate
from videofib.engine.losses import BinaryCrossEntropy, CrossEntropy
from videofib.metrics.tasks import MULTI_LABEL


def one_class(logits, label):
    """−log softmax, by hand."""
    return math.log(sum(math.exp(value) for value in logits)) - logits[label]


def several_classes(logits, targets):
    """The mean over classes of −log of the probability of what is so, by hand."""
    right = [1 / (1 + math.exp(-value if target else value)) for value, target in zip(logits, targets, strict=True)]
    return -sum(map(math.log, right)) / len(right)


def test_training_keeps_the_losses_of_torch_to_the_bit():
    logits, labels = torch.randn(7, 5), torch.arange(7) % 5
    soft = torch.rand(7, 5).softmax(dim=1)
    for smoothing in (0.0, 0.1):
        own, theirs = CrossEntropy(smoothing), nn.CrossEntropyLoss(label_smoothing=smoothing)
        assert torch.equal(own(logits, labels), theirs(logits, labels))
        assert torch.equal(own(logits, soft), theirs(logits, soft))
    hot = (soft > 0.2).float()
    assert torch.equal(BinaryCrossEntropy()(logits, hot), nn.BCEWithLogitsLoss()(logits, hot))


@pytest.mark.parametrize("unreadable", ["wrong", "exclude"])
@pytest.mark.parametrize("several", [False, True])
def test_validation_reports_the_mean_over_readable_videos_of_the_mean_over_views(several, unreadable):
    views, labels = make_videos(7, num_views=3)
    if several:
        labels = (torch.randn(7, 3, generator=torch.Generator().manual_seed(1)) > 0).float()
    model = TinyNet(seed=4).eval()
    scoring = Scoring(
        **({"task": MULTI_LABEL} if several else {}),
        unreadable=unreadable,
        loss=BinaryCrossEntropy() if several else CrossEntropy(0.3),  # of which validation takes no smoothing
    )
    loader = Loader(views, labels, range(7), 2, failures={"v4.mp4": "gone"})
    figures, scores = evaluate(model, loader, view_batch_size=4, scoring=scoring)
    by_hand = several_classes if several else one_class
    expected = []
    for video in (0, 1, 2, 3, 5, 6):
        logits = model(views[video]).tolist()
        expected.append(sum(by_hand(view, labels[video].tolist()) for view in logits) / 3)
    assert figures["loss"] == pytest.approx(sum(expected) / 6, rel=1e-5)
    assert scores.losses.shape == (7,)


def test_without_a_loss_and_without_readable_videos_there_is_no_figure():
    views, labels = make_videos(2)
    failures = {"v0.mp4": "gone", "v1.mp4": "gone"}
    found = {}
    for name, loss in (("none", None), ("asked", CrossEntropy())):
        loader = Loader(views, labels, range(2), 2, failures=failures)
        found[name], _ = evaluate(TinyNet(), loader, view_batch_size=4, scoring=Scoring(loss=loss))
    assert "loss" not in found["none"]
    assert found["asked"]["loss"] is None
