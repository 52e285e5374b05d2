"""Models by name, as in timm."""

import pytest
import torch

import videofib


def test_every_name_is_what_it_says():
    names = videofib.list_models(pretrained=False)
    assert len(names) == len(set(names)) == 24
    for name in names:
        with torch.device("meta"):
            model = videofib.create_model(name, num_classes=5, depth=1)
        assert (
            model.norm.normalized_shape[0]
            == {"tiny": 192, "small": 384, "base": 768, "large": 1024}[name.split("_")[1]]
        )
        assert model.attention_type.split("_")[0] in name
        mixers = set(model.mixers.used())
        assert mixers == {"fibottention" if name.endswith("_fibottention") else "dense"}
        assert model.head.out_features == 5


def test_options_come_over_the_name():
    model = videofib.create_model("timesformer_tiny_joint_fibottention", num_classes=7, img_size=32, num_frames=2)
    assert model.eval()(torch.zeros(1, 3, 2, 32, 32)).shape == (1, 7)
    assert videofib.list_models("*large*space*") == [
        "timesformer_large_space_only",
        "timesformer_large_space_only_fibottention",
    ]


def test_unknown_names():
    with pytest.raises(
        ValueError, match="unknown model 'timesformer_base_jiont'; did you mean 'timesformer_base_joint'"
    ):
        videofib.create_model("timesformer_base_jiont")
    with pytest.raises(TypeError):
        videofib.create_model("timesformer_base_joint", num_clases=3)
    with pytest.raises(AttributeError, match="no attribute 'loda'"):
        videofib.loda  # noqa: B018
