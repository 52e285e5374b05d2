"""Features of videos: of every kind and block, the mean over views, the same however videos come to the model."""

import dataclasses

import pytest
import torch
from torch import nn

from videofib.models.timesformer import TimeSformer
from videofib.run.feature_model import FeatureModel
from videofib.run.load import load
from videofib.run.loaders import build_video_loader

SHAPES = {"pooled": (24,), "frames": (2, 24), "tokens": (8, 24)}  # 2 frames of 2 x 2 patches


@pytest.fixture(scope="module")
def saved(trained):
    """The trained model in front of two more blocks, so that blocks differ."""
    torch.manual_seed(0)
    saved = load(trained)
    deeper = TimeSformer(
        img_size=32, patch_size=16, num_frames=2, embed_dim=24, depth=3, num_heads=2, num_classes=3,
        attention_type="joint_space_time", drop_path_rate=0.0,
    )  # fmt: skip
    return dataclasses.replace(saved, model=deeper.eval())


@pytest.fixture(scope="module")
def clips(saved, experiment):
    """The two views of a video, (2, C, T, H, W)."""
    (batch,) = build_video_loader(saved.cfg, [str(experiment / "test 0.mp4")], 2, 1)
    return batch["views"][0]


def by_hand(model, clips, kind, block):
    """Features of each clip from what the blocks return in an ordinary forward pass."""
    seen = []
    handles = [item.register_forward_hook(lambda *args: seen.append(args[2][0])) for item in model.blocks]
    with torch.no_grad():
        model(clips)
    for handle in handles:
        handle.remove()
    tokens = model.norm(seen[block])  # class token first; patches in the order h w t
    by_frame = [tokens[:, 1 + frame :: 2] for frame in range(2)]
    return {
        "pooled": tokens[:, 0],
        "frames": torch.stack([frame.mean(dim=1) for frame in by_frame], dim=1),
        "tokens": torch.cat(by_frame, dim=1),
    }[kind]


@pytest.mark.parametrize("block", [0, 1, -1, -3])
@pytest.mark.parametrize("kind", SHAPES)
def test_the_mean_over_views_of_what_a_block_returns(kind, block, saved, clips, experiment):
    found = saved.features(experiment / "test 0.mp4", views=(2, 1), kind=kind, block=block)
    assert found.shape == SHAPES[kind]
    assert not found.is_inference()  # a classifier may be trained on it
    expected = by_hand(saved.model, clips, kind, block).mean(dim=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_pooled_is_what_the_classifier_sees(saved, clips, experiment):
    found = saved.features(experiment / "test 0.mp4", views=(2, 1))
    with torch.inference_mode():
        torch.testing.assert_close(saved.model.head(found), saved.model(clips).mean(dim=0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", SHAPES)
def test_many_videos_are_each_as_alone(kind, num_workers, saved, experiment):
    names = ["test 0.mp4", "broken.mp4", "test 3.mp4", "absent.mp4", "test 1.mp4"]
    videos = [experiment / name for name in names]
    found = list(saved.features_all(videos, kind=kind, block=1, num_workers=num_workers))
    assert [item.video for item in found] == [str(video) for video in videos]
    assert [item.values is None for item in found] == [bool(item.error) for item in found]
    assert [index for index, item in enumerate(found) if item.error] == [1, 3]
    for index in (0, 2, 4):
        alone = saved.features(videos[index], kind=kind, block=1)
        torch.testing.assert_close(found[index].values, alone, rtol=0, atol=1e-5)


def test_forward_passes_are_full_across_videos(saved, experiment):
    sizes = []
    handle = saved.model.patch_embed.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    videos = [experiment / f"test {index}.mp4" for index in range(5)]
    list(saved.features_all(videos, kind="tokens", views=(5, 1)))
    handle.remove()
    assert sizes == [12, 12, 1]


def test_features_that_are_not_finite_are_an_error(saved, experiment):
    class Nowhere(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(float("inf")))

        def forward_features(self, video):
            return video.flatten(1)[:, :4] + self.weight

    (found,) = dataclasses.replace(saved, model=Nowhere()).features_all([experiment / "test 0.mp4"])
    assert found.values is None
    assert found.error.endswith("the model's features are not finite")


class Pooled(nn.Linear):
    """A model with features of its last block alone."""

    def forward_features(self, video):
        return video


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.Linear(2, 2), {}, "Linear has no features in front of its classifier"),
        (Pooled(2, 2), {"kind": "tokens"}, "Pooled returns the pooled features of its last block alone; got kind=tok"),
        (Pooled(2, 2), {"block": 0}, "Pooled returns the pooled features of its last block alone; .* block=0"),
        (None, {"kind": "patches"}, "unknown kind of features 'patches'; it must be one of pooled, frames, tokens"),
        (None, {"block": 3}, "no block 3 in a model of 3; name -3 to 2"),
        (None, {"kind": "frames", "block": -4}, "no block -4"),
        (None, {"views": (1, 2)}, "views must be"),
    ],
)
def test_what_there_is_not_is_refused_before_a_video_is_read(model, options, message, saved):
    if model is not None:
        saved = dataclasses.replace(saved, model=model)
    with pytest.raises(ValueError, match=message):
        saved.features_all(["absent.mp4"], **options)


def test_a_model_that_pools_alone(saved):
    model = FeatureModel(Pooled(2, 2))
    assert torch.equal(model(torch.ones(1, 2)), torch.ones(1, 2))
