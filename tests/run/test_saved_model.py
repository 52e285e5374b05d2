"""A saved model's predictions are the scores of a test, however videos come to it."""

import dataclasses

import av
import numpy as np
import pytest
import torch
from torch import nn

from tests.experiment import CLASSES, run
from videofib.data.errors import DecodeError
from videofib.metrics.scores import SCORES_NAME, read_scores
from videofib.run.load import load


@pytest.fixture(scope="module")
def model(trained):
    return load(trained)


def decoded(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_scores_are_those_of_the_test(num_workers, model, trained):
    scores = read_scores(trained / SCORES_NAME)
    predictions = list(model.predict_all(scores.paths, num_workers=num_workers))
    assert [prediction.video for prediction in predictions] == scores.paths
    assert [bool(prediction.error) for prediction in predictions] == [name in scores.failures for name in scores.ids]
    for prediction, expected in zip(predictions, scores.scores, strict=True):
        if not prediction.error:
            torch.testing.assert_close(prediction.scores, expected, atol=1e-6, rtol=0)
    assert [prediction.top(1)[0][0] for prediction in predictions if not prediction.error] == CLASSES + CLASSES[:2]


@pytest.mark.parametrize("overrides", [{"TEST.ENSEMBLE_LOGITS": True}, {"DATA.ENSEMBLE_METHOD": "max"},
                                       {"TEST.VIEW_STARTS": "published"}])  # fmt: skip
def test_views_are_averaged_as_in_a_test(overrides, trained, experiment, tmp_path):
    words = [word for pair in overrides.items() for word in pair]
    checkpoint = trained / "checkpoints" / "checkpoint_epoch_00002.pyth"
    run(experiment, tmp_path, *words, "TEST.CHECKPOINT_FILE_PATH", checkpoint, stages=["test"])
    scores = read_scores(tmp_path / SCORES_NAME)
    expected = scores.scores[:5].softmax(dim=1) if scores.kind == "logit" else scores.scores[:5]
    found = torch.stack([p.scores for p in load(trained, options=overrides).predict_all(scores.paths[:5])])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


class FixedLogits(nn.Module):
    """Gives the clips of a batch these logits, whatever they show."""

    def __init__(self, *rows):
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows))

    def forward(self, clips):
        return self.rows[: len(clips)]


@pytest.mark.parametrize("logits", [False, True])
def test_probabilities_or_logits_are_averaged(logits, trained, experiment):
    saved = load(trained, options={"TEST.ENSEMBLE_LOGITS": logits})
    saved = dataclasses.replace(saved, model=FixedLogits([4.0, 0.0, 0.0], [0.0, 1.0, 0.0]))
    ((_, probability), *_) = saved.predict(experiment / "test 0.mp4", views=(2, 1))
    views = torch.tensor([[4.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    by_hand = views.mean(dim=0).softmax(dim=0) if logits else views.softmax(dim=1).mean(dim=0)
    assert probability == pytest.approx(by_hand.max().item(), abs=1e-6)


def test_scores_that_are_not_finite_are_an_error(trained, experiment):
    saved = dataclasses.replace(load(trained), model=FixedLogits([float("nan"), 0.0, 0.0]))
    (prediction,) = saved.predict_all([experiment / "test 0.mp4"], views=(1, 1))
    assert (prediction.scores, prediction.top()) == (None, [])
    assert prediction.error.endswith("the model's scores are not finite")


def test_a_video_of_several_classes(experiment, tmp_path):
    run(experiment, tmp_path, "MODEL.LOSS_FUNC", "bce_logit", "MIXUP.ENABLE", "False")
    scores = read_scores(tmp_path / SCORES_NAME)
    (prediction,) = load(tmp_path).predict_all(scores.paths[:1])
    torch.testing.assert_close(prediction.scores, scores.scores[0], atol=1e-6, rtol=0)
    assert abs(prediction.scores.sum().item() - 1) > 1e-3


def test_frames_in_memory_are_a_video(model, experiment):
    path = experiment / "test 0.mp4"
    frames = decoded(path)
    for video in (frames, torch.from_numpy(frames)):
        assert [name for name, _ in model.predict(video, fps=30)] == [name for name, _ in model.predict(path)]
        for (_, one), (_, other) in zip(model.predict(video, fps=30), model.predict(path), strict=True):
            assert one == pytest.approx(other, abs=1e-6)
    torch.testing.assert_close(model.features(frames), model.features(path), atol=1e-6, rtol=0)
    assert model.features(path, views=(1, 1)).shape == (24,)


def test_how_many_classes_and_views(model, experiment):
    path = experiment / "test 0.mp4"
    assert len(model.predict(path, top=2)) == 2
    assert len(model.predict(path, top=9)) == 3
    ((name, probability), *_) = model.predict(path, views=(1, 1))
    assert name == "red"
    assert probability != model.predict(path)[0][1]
    for views in [(0, 1), (1, 2), (1, 0)]:
        with pytest.raises(ValueError, match=r"views must be \(temporal clips, spatial crops\)"):
            model.predict(path, views=views)


@pytest.mark.parametrize(
    "frames",
    [np.zeros((4, 3, 32, 32), np.uint8), np.zeros((4, 32, 32, 3), np.float32), np.zeros((0, 8, 8, 3), np.uint8)],
)
def test_frames_of_another_shape(frames, model):
    with pytest.raises(ValueError, match=r"frames must be uint8 of shape \(T, H, W, 3\), got"):
        model.predict(frames)


def test_a_broken_video(model, experiment):
    with pytest.raises(DecodeError, match=r"broken\.mp4: cannot be opened as video"):
        model.predict(experiment / "broken.mp4")
    with pytest.raises(DecodeError, match=r"broken\.mp4"):
        model.features(experiment / "broken.mp4")
    with pytest.raises(DecodeError, match="no such file"):
        model.predict("absent.mp4")


def test_lower_precision_is_near(trained, experiment):
    path = experiment / "test 0.mp4"
    exact, rounded = (load(trained, precision=precision).predict(path)[0][1] for precision in ("fp32", "bf16"))
    assert exact != rounded
    assert exact == pytest.approx(rounded, abs=0.02)
