"""A report calls exact only what gives the same logits: transformers' own models are asked, with the same weights."""

import json

import pytest
import torch
from transformers import (
    TimesformerConfig,
    TimesformerForVideoClassification,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
)

from tests.models.pretrained.published import largest_difference
from videofib.checkpoint.file import CheckpointError
from videofib.models import TimeSformer
from videofib.models.pretrained.load import load_pretrained

SMALL = dict(img_size=32, patch_size=8, num_classes=5, embed_dim=48, depth=2, num_heads=3)
VIDEO = dict(
    image_size=32, patch_size=8, num_frames=4, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, num_labels=5
)
VIDEOMAE = dict(
    **SMALL, num_frames=4, tubelet_size=2, class_token=False, pooling="mean", position="sinusoid",
    attention_type="joint_space_time",
)  # fmt: skip


@pytest.fixture
def clip():
    return torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))


def videomae(**options):
    return VideoMAEForVideoClassification(VideoMAEConfig(**VIDEO, tubelet_size=2, intermediate_size=192, **options))


@pytest.mark.parametrize(
    ("theirs", "ours", "differs"),
    [
        (dict(layer_norm_eps=1e-5), dict(norm_eps=1e-5), ()),  # that of the norm behind the mean
        (dict(layer_norm_eps=0.1), dict(norm_eps=0.1), ("last norm's epsilon 1e-05 there, 0.1 here",)),
        (dict(layer_norm_eps=1e-5, qv_bias=False), dict(norm_eps=1e-5, qkv_bias=False), ()),
        (
            dict(layer_norm_eps=1e-5, hidden_act="gelu_new"),
            dict(norm_eps=1e-5),
            ("activation gelu approximated by tanh there, gelu here",),
        ),
        (
            dict(layer_norm_eps=1e-5, use_mean_pooling=False),
            dict(norm_eps=1e-5),
            ("pooling the first patch there, the mean, then the last norm here",),
        ),
    ],
)
@pytest.mark.parametrize("as_folder", [False, True])
def test_videomae_of_transformers_is_compared_in_its_settings(
    theirs, ours, differs, as_folder, clip, tmp_path, randomize
):
    source = randomize(videomae(**theirs))
    model = TimeSformer(**VIDEOMAE, **ours).eval()
    if as_folder:
        source.save_pretrained(tmp_path)
    report = load_pretrained(model, tmp_path if as_folder else source)
    assert report.differs == differs
    assert report.is_exact == (not differs)
    with torch.no_grad():
        assert (largest_difference(model(clip), source(clip.transpose(1, 2)).logits) < 1e-5) == (not differs)


@pytest.mark.parametrize(
    ("options", "differs"),
    [
        ({}, ()),
        (
            dict(layer_norm_eps=1e-3),
            ("norm epsilon 0.001 there, 1e-06 here", "last norm's epsilon 0.001 there, 1e-06 here"),
        ),
        (dict(hidden_act="gelu_pytorch_tanh"), ("activation gelu approximated by tanh there, gelu here",)),
        (
            dict(attention_type="space_only"),
            ("attention over space_only, with logits of each frame there, space_only here",),
        ),
    ],
)
def test_timesformer_of_transformers_is_compared_in_its_settings(options, differs, clip, randomize):
    source = randomize(TimesformerForVideoClassification(TimesformerConfig(**VIDEO, intermediate_size=192, **options)))
    model = TimeSformer(
        **SMALL, num_frames=4, attention_type=options.get("attention_type", "divided_space_time")
    ).eval()
    report = load_pretrained(model, source)
    assert report.differs == differs
    assert report.is_exact == (not differs)
    with torch.no_grad():
        expected = source(clip.transpose(1, 2)).logits
        same = expected.shape == (2, 5) and largest_difference(model(clip), expected) < 1e-5
    assert same == (not differs)


def test_a_subclass_may_do_anything(randomize):
    class OfTransformers(VideoMAEForVideoClassification):
        def forward(self, pixel_values):
            return self.classifier(self.videomae(pixel_values).last_hidden_state.amax(1))

    class OfOurs(TimeSformer):
        def forward(self, video):
            return -super().forward(video)

    config = VideoMAEConfig(**VIDEO, tubelet_size=2, intermediate_size=192, layer_norm_eps=1e-5)
    for source in (OfTransformers(config), OfOurs(**VIDEOMAE, norm_eps=1e-5)):
        report = load_pretrained(TimeSformer(**VIDEOMAE, norm_eps=1e-5), randomize(source))
        assert report.unknown == ("pooling",)
        assert report.fits
        assert not report.is_exact


@pytest.mark.parametrize("activation", ["quick_gelu", "relu"])
def test_another_activation_of_transformers_is_refused(activation):
    with pytest.raises(CheckpointError, match=f"activation {activation}, this one gelu"):
        load_pretrained(TimeSformer(**VIDEOMAE), videomae(hidden_act=activation))


def test_a_config_of_another_kind_of_model_is_refused(tmp_path, randomize):
    source = randomize(videomae())
    source.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "beit"}))
    with pytest.raises(CheckpointError, match="blocks of beit"):
        load_pretrained(TimeSformer(**VIDEOMAE), tmp_path)
