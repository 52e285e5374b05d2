"""``SavedModel.explain``: heat of a trained model, on videos and frames, with the views and scores of ``predict``."""

import numpy as np
import pytest
import torch

from tests.models.test_baselines import tiny
from videofib.data.errors import DecodeError
from videofib.data.video.decode import read_frames
from videofib.models.explain import attention_rollout, deletion_curve, grad_cam
from videofib.report.explanation.explained import FRACTIONS
from videofib.run.load import load
from videofib.run.loaders import build_video_loader
from videofib.run.saved_model import SavedModel


@pytest.fixture(scope="module")
def saved(trained):
    return load(trained)


def denormal(view, saved):
    """The view as the model takes it (C, T, H, W), from the frames to look at."""
    data = saved.cfg.DATA
    return ((view.clip.frames / 255 - data.MEAN) / data.STD).astype(np.float32).transpose(3, 0, 1, 2).copy()


@pytest.fixture(scope="module")
def video(experiment):
    return str(experiment / "test 1.mp4")


def test_probabilities_and_views_are_those_of_predict(saved, video):
    found = saved.explain(video, views=(2, 3))
    assert dict(found.top(3)) == pytest.approx(dict(saved.predict(video, views=(2, 3))), abs=1e-6)
    assert found.explained == found.top(1)[0][0] == saved.predict(video)[0][0]
    assert len(found.views) == 6
    assert [view.clip.title for view in found.views][:4:3] == ["clip 1 of 2, crop 1 of 3", "clip 2 of 2, crop 1 of 3"]
    with build_video_loader(saved.cfg, [video], 2, 3) as loader:
        (batch,) = loader
    for view, clip in zip(found.views, batch["views"][0], strict=True):
        rollout = attention_rollout(saved.model, clip[None])
        np.testing.assert_allclose(view.heat["rollout"], rollout.heat[0], rtol=1e-5)
        np.testing.assert_allclose(view.heads, rollout.heads[0], rtol=1e-5)
        heat, _ = grad_cam(saved.model, clip[None], torch.tensor([found.label]))
        np.testing.assert_allclose(view.heat["gradcam"], heat[0], rtol=1e-4, atol=1e-6)
        assert view.prefix == pytest.approx(1 - view.heat["rollout"].sum(), abs=1e-5)
    assert found.heat["rollout"].shape == (6, 2, 2, 2)
    assert found.from_class_token
    assert found.block == 0  # of one block: the tokens that it takes


def test_frames_in_memory_are_a_video_that_has_them(saved, video):
    frames = read_frames(video, list(range(16)))
    by_frames, by_file = saved.explain(frames, fps=30), saved.explain(video)
    np.testing.assert_array_equal(by_frames.heat["rollout"], by_file.heat["rollout"])
    (one,), (other,) = by_frames.views, by_file.views
    assert list(one.clip.indices) == list(other.clip.indices)
    assert (one.clip.box, one.clip.video_length) == (other.clip.box, other.clip.video_length)
    assert by_frames.video == ""


def test_a_class_and_a_method_can_be_chosen(saved, video):
    best = saved.explain(video)
    other = next(name for name in saved.classes if name != best.explained)
    found = saved.explain(video, label=other, methods=["gradcam"])
    assert found.explained == other
    assert list(found.heat) == ["gradcam"]
    assert found.views[0].heads is None
    assert not np.allclose(found.heat["gradcam"], best.heat["gradcam"])
    assert list(saved.explain(video, methods=["rollout"]).heat) == ["rollout"]


def test_deletion_curves_begin_with_the_probability_and_end_alike(saved, video):
    found = saved.explain(video, check=True)
    (view,) = found.views
    assert list(view.deletion) == ["rollout", "gradcam", "random"]
    for curve in view.deletion.values():
        assert curve.shape == (len(FRACTIONS),)
        assert curve[0] == pytest.approx(found.probabilities[found.label], abs=1e-5)
        assert curve[-1] == pytest.approx(view.deletion["random"][-1], abs=1e-6)
    clip, shape = torch.from_numpy(denormal(view, saved)), view.heat["rollout"].shape
    order = torch.from_numpy(view.heat["rollout"]).flatten().argsort(descending=True)
    expected = deletion_curve(
        lambda clips: saved.model(clips).softmax(1)[:, found.label], clip, order, shape, FRACTIONS
    )
    np.testing.assert_allclose(view.deletion["rollout"], expected, atol=1e-5)
    areas = found.areas()
    assert areas["rollout"] == pytest.approx(np.trapezoid(view.deletion["rollout"], FRACTIONS), abs=1e-6)
    assert saved.explain(video).areas() == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(label="rde"), "unknown class 'rde'; did you mean 'red'"),
        (dict(methods=["roll"]), "unknown method 'roll'.*known: rollout, gradcam"),
        (dict(methods=[]), "methods names none"),
        (dict(methods=["rollout"], block=0), "block=0 is of Grad-CAM"),
        (dict(block=1), "no influence on the class token"),
        (dict(block=7), "no block 7 in a model of 1"),
        (dict(views=(1, 2)), "views must be"),
    ],
)
def test_what_is_not_there_is_refused(saved, video, options, message):
    with pytest.raises(ValueError, match=message):
        saved.explain(video, **options)


def test_a_video_that_cannot_be_read_is_an_error(saved, experiment):
    with pytest.raises(DecodeError):
        saved.explain(experiment / "broken.mp4")


def test_a_baseline_has_gradcam_alone(saved, video):
    cfg = saved.cfg.clone()
    cfg.defrost()
    cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE, cfg.DATA.TRAIN_JITTER_SCALES = 8, 64, [64, 64]
    baseline = SavedModel(tiny("X3D_S"), list("abcde"), cfg, "x3d")
    found = baseline.explain(video, check=True)
    assert found.heat["gradcam"].shape == (1, 8, 2, 2)
    assert found.block is None
    assert list(found.areas()) == ["gradcam", "random"]
    with pytest.raises(ValueError, match="rollout needs a TimeSformer, got ConvNet; Grad-CAM serves this model"):
        baseline.explain(video, methods=["rollout"])
