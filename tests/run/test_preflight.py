"""What is looked at before a run begins."""

import json
import logging

import pytest
import torch.distributed.checkpoint as dcp

from videofib.config import ConfigError, load_config
from videofib.prep.sets.motion import CLASSES as MOTION
from videofib.run.preflight import check_shares, mirrored_classes, warn_of_flips


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
def test_flips_of_such_classes_are_warned_of(flip, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("videofib"), "propagate", True)  # a run before may have cut it off
    cfg = load_config(None, ["DATA.RANDOM_FLIP", str(flip)])
    warn_of_flips(cfg, ["clap", "wave"])
    warn_of_flips(cfg, None)
    assert not caplog.records
    warn_of_flips(cfg, ["go left", "go right", "stay"])
    told = set(caplog.messages)  # newer pytest listens at loggers that do not propagate, too, and so may hear it twice
    assert ["'go left' and 'go right'; set DATA.RANDOM_FLIP False" in message for message in told] == [True] * flip


def test_a_torch_that_cannot_write_shares_is_told_at_once(monkeypatch):
    cfg = load_config(None, ["TRAIN.STRATEGY", "fsdp", "TRAIN.SHARDED_CHECKPOINTS", "True"])
    check_shares(cfg)
    monkeypatch.delattr(dcp, "HuggingFaceStorageWriter")  # as torch 2.6 is
    with pytest.raises(ConfigError, match=r"TRAIN\.SHARDED_CHECKPOINTS True needs a newer torch than"):
        check_shares(cfg)
    check_shares(load_config())
