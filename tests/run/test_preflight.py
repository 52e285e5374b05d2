"""Checks before a run begins."""

import json
import logging

import pytest
import torch.distributed.checkpoint as dcp

from videofib.config import ConfigError, load_config
from videofib.prep.motion import CLASSES as MOTION
from videofib.run.preflight import check_sharded_checkpoints, mirrored_classes, warn_of_flips


def test_classes_of_something_something_that_mirrors_exchange(shared_data):
    labels = shared_data / "annotations" / "ssv2" / "something-something-v2-labels.json"
    pairs = mirrored_classes(list(json.loads(labels.read_text())))
    assert sorted(pairs) == [
        ("Pulling something from left to right", "Pulling something from right to left"),
        ("Pushing something from left to right", "Pushing something from right to left"),
        ("Turning the camera left while filming something", "Turning the camera right while filming something"),
    ]


def test_other_classes_that_mirrors_exchange():
    assert mirrored_classes(list(MOTION)) == [("MoveLeft", "MoveRight"), ("RotateClockwise", "RotateCounterclockwise")]
    assert mirrored_classes(["turn anticlockwise", "turn clockwise"]) == [("turn anticlockwise", "turn clockwise")]
    assert mirrored_classes(["upright", "bright", "left hand", "hand"]) == []
    assert mirrored_classes([]) == []


@pytest.mark.parametrize("flip", [True, False])
def test_flips_of_mirrored_classes_are_warned_about(flip, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("videofib"), "propagate", True)  # an earlier test may have turned it off
    cfg = load_config(None, ["DATA.RANDOM_FLIP", str(flip)])
    warn_of_flips(cfg, ["clap", "wave"])
    warn_of_flips(cfg, None)
    assert not caplog.records
    warn_of_flips(cfg, ["go left", "go right", "stay"])
    logged = set(caplog.messages)  # newer pytest also listens to loggers that do not propagate, so it may come twice
    assert ["'go left' and 'go right'; set DATA.RANDOM_FLIP False" in message for message in logged] == [True] * flip


def test_a_torch_that_cannot_write_sharded_checkpoints_is_reported_first(monkeypatch):
    cfg = load_config(None, ["TRAIN.STRATEGY", "fsdp", "TRAIN.SHARDED_CHECKPOINTS", "True"])
    check_sharded_checkpoints(cfg)
    monkeypatch.delattr(dcp, "HuggingFaceStorageWriter")  # as in torch 2.6
    with pytest.raises(ConfigError, match=r"TRAIN\.SHARDED_CHECKPOINTS True needs a newer torch than"):
        check_sharded_checkpoints(cfg)
    check_sharded_checkpoints(load_config())
