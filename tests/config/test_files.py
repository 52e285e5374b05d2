"""Every file in configs/ loads, is named after what it holds, and builds its model."""

import re
from pathlib import Path

import pytest
import torch

from videofib.config import load_config
from videofib.run.models import build_model

ROOT = Path(__file__).parents[2] / "configs"
FILES = sorted(ROOT.rglob("*.yaml"))
TRANSFORMERS = [file for file in FILES if file.name.startswith("TimeSformer")]
# Whether a mirrored video may be of another class; a data set's folder is in one of the two.
DIRECTION_MATTERS = {"Digits", "Motion", "SSv2"}
DIRECTION_DOES_NOT_MATTER = {"Diving48", "HMDB51", "Kinetics", "UCF101", "Weizmann"}
BASELINES = [file for file in FILES if file not in TRANSFORMERS]


def test_there_are_configs_for_every_data_set():
    assert {f.parent.name for f in FILES} >= {"Motion", "UCF101", "HMDB51", "Kinetics", "SSv2"}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_sets_in_which_direction_matters_are_never_flipped(file):
    folder = file.relative_to(ROOT).parts[0]
    assert folder in DIRECTION_MATTERS | DIRECTION_DOES_NOT_MATTER, "add this data set to one of the two lists"
    if folder in DIRECTION_MATTERS:
        assert not load_config(file).DATA.RANDOM_FLIP


@pytest.mark.parametrize("file", TRANSFORMERS, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_config_builds_the_model_its_name_says(file):
    cfg = load_config(file)
    with torch.device("meta"):
        model = build_model(cfg)
        video = torch.empty(1, 3, cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE)
    assert model.head.out_features == cfg.MODEL.NUM_CLASSES
    assert model.patch_embed(video).shape[:2] == (1, cfg.DATA.NUM_FRAMES)
    kind, sparse, *named = re.search(
        r"_(joint|divided|space_only)(_fibottention)?_(\d+)(?:x(\d+))?_(\d+)$", file.stem
    ).groups()
    rate = None if cfg.DATA.SAMPLING == "uniform" else str(cfg.DATA.SAMPLING_RATE)  # segments have no rate to name
    assert cfg.TIMESFORMER.ATTENTION_TYPE.startswith(kind)
    assert named == [str(cfg.DATA.NUM_FRAMES), rate, str(cfg.DATA.TRAIN_CROP_SIZE)]
    supports = [block.attn.support_for(100) for block in model.blocks]
    assert all(support.is_dense != bool(sparse) for support in supports)


@pytest.mark.parametrize("file", BASELINES, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_config_builds_the_baseline_its_name_says(file):
    cfg = load_config(file)
    with torch.device("meta"):
        model = build_model(cfg).eval()
        video = torch.empty(1, 3, cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE)
        assert model(video).shape == (1, cfg.MODEL.NUM_CLASSES)
    name, *named = re.fullmatch(r"(.+)_(\d+)x(\d+)_(\d+)", file.stem).groups()
    assert name == cfg.MODEL.MODEL_NAME
    step = cfg.SLOWFAST.ALPHA if name.startswith("SlowFast") else 1  # named after its slow pathway, as published
    held = [cfg.DATA.NUM_FRAMES // step, cfg.DATA.SAMPLING_RATE * step, cfg.DATA.TRAIN_CROP_SIZE]
    assert held == [int(x) for x in named]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_the_header_names_the_command_the_paper_and_the_result(file):
    header = [line for line in file.read_text().splitlines() if line.startswith("#")]
    note = "\n".join(header)
    assert re.search(
        rf"videofib run --cfg {file.relative_to(ROOT).with_suffix('').as_posix()}( |$)", note, re.MULTILINE
    )
    assert "arXiv" in note
    assert "Expected: " in note or "Measured: " in note
