"""Loading weights into the model of a config: what differs from the source is logged."""

import json
import logging

import pytest
from transformers import CLIPVisionConfig, CLIPVisionModel

from videofib.config import load_config
from videofib.models.pretrained.weight_files import read_weights
from videofib.run.parts import load_into_model, model_from_config

CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
SMALL = [
    *("TIMESFORMER.EMBED_DIM", 24, "TIMESFORMER.DEPTH", 2, "TIMESFORMER.NUM_HEADS", 3, "TIMESFORMER.PATCH_SIZE", 8),
    *("DATA.TRAIN_CROP_SIZE", 32, "DATA.TEST_CROP_SIZE", 32, "DATA.NUM_FRAMES", 2, "MODEL.NUM_CLASSES", 5),
    *("TIMESFORMER.ATTENTION_TYPE", "space_only", "TIMESFORMER.PRE_NORM", True, "TIMESFORMER.NORM_EPS", 1e-5),
    *("TIMESFORMER.ACTIVATION", "quick_gelu"),
]


@pytest.fixture
def clip_folder(tmp_path):
    config = CLIPVisionConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=32, patch_size=8, intermediate_size=96
    )
    CLIPVisionModel(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CLIP))
    return tmp_path


@pytest.mark.parametrize("same", [False, True])
def test_pixels_that_clip_normalises_otherwise_are_reported(same, clip_folder, caplog):
    own = ["DATA.MEAN", [0.481, 0.458, 0.408], "DATA.STD", [0.269, 0.261, 0.276]] if same else []
    cfg = load_config(None, SMALL + own)
    with caplog.at_level(logging.WARNING, logger="videofib.run.parts"):
        load_into_model(cfg, model_from_config(cfg), read_weights(clip_folder))
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    expected = [] if same else [
        f"set DATA.MEAN {CLIP['image_mean']} (it is [0.45, 0.45, 0.45])",
        f"set DATA.STD {CLIP['image_std']} (it is [0.225, 0.225, 0.225])",
    ]  # fmt: skip
    assert len(said) == len(expected)
    for line, end in zip(said, expected, strict=True):
        assert line.startswith(str(clip_folder))
        assert line.endswith(end)


@pytest.mark.parametrize("value", [None, "x", [0.5], [0.5, "x", 0.5], {"a": 1}])
def test_hostile_figures_of_pixels(value, clip_folder, caplog):
    (clip_folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": value}))
    cfg = load_config(None, SMALL)
    load_into_model(cfg, model_from_config(cfg), read_weights(clip_folder))
