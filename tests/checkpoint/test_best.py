"""A ``best.json`` that is damaged or from a stranger: named in one line, and the best is chosen again."""

import json
import logging
import math
import os

import pytest
import torch
from torch import nn

from videofib.checkpoint import best
from videofib.checkpoint.best import RECORD
from videofib.checkpoint.file import CheckpointError, Position, TrainingState
from videofib.checkpoint.manager import CheckpointManager, best_checkpoint

ENTRY = {"epoch": 1, "figure": 50.0, "only_as_best": False}
INTACT = {"metric": "top1_acc", "best": "checkpoint_epoch_00001.pyth", "epochs": [ENTRY]}


def altered(**changes):
    return json.dumps({**INTACT, **changes})


def entry(**changes):
    return altered(epochs=[{**ENTRY, **changes}])


def make_manager(folder):
    model = nn.Linear(2, 1)
    return CheckpointManager(folder, TrainingState(model, torch.optim.SGD(model.parameters())), metric="top1_acc")


@pytest.fixture
def heard(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("videofib"), "propagate", True)
    return caplog


DAMAGED = {
    "empty": "",
    "half": altered()[:30],
    "a list": "[]",
    "nested": "[" * 10**5,
    "digits": f'{{"best": {"9" * 5000}}}',
    "not UTF-8": b"\xff\xfe{",
    "zeros": bytes(100),
    "lacks best": json.dumps({"metric": "top1_acc", "epochs": []}),
    "lacks epochs": json.dumps({"metric": "top1_acc", "best": None}),
    **{f"best {name!r}": altered(best=name) for name in (["x"], {"a": 1}, 7, True)},
    **{f"metric {name!r}": altered(metric=name) for name in (None, ["top1_acc"], 7)},
    **{f"epochs {value!r}": altered(epochs=value) for value in (None, {}, "x", 3, [1], [None], [[]], [{}])},
    **{f"epoch {str(value)[:9]!r}": entry(epoch=value) for value in ("1", None, -1, 1.0, True, [], 10**30, math.inf)},
    **{f"figure {str(value)[:9]!r}": entry(figure=value) for value in ("5", [], True, math.nan, math.inf, 10**400)},
    **{f"only_as_best {value!r}": entry(only_as_best=value) for value in (None, 1, "false", [])},
}


@pytest.mark.parametrize("way", DAMAGED)
def test_a_damaged_record_is_reported_and_started_again(tmp_path, way, heard):
    kept = make_manager(tmp_path).save(Position(1))
    text = DAMAGED[way]
    (tmp_path / RECORD).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=r"best\.json is damaged .*; name a checkpoint file inst") as caught:
        best_checkpoint(tmp_path)
    assert str(caught.value).isprintable()
    manager = make_manager(tmp_path)
    manager.resume()
    assert "best.json is damaged" in heard.text
    assert manager.awaits_validation(1)
    manager.validated(1, {"top1_acc": 40.0})
    assert best_checkpoint(tmp_path) == kept


def test_what_is_not_a_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / RECORD)
    with pytest.raises(CheckpointError, match=r"best\.json is damaged \(not a regular file\)"):
        best_checkpoint(tmp_path)


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(best, "_MAX_BYTES", 100)
    (tmp_path / RECORD).write_text(altered(more="x" * 100))
    with pytest.raises(CheckpointError, match="it has more than 100 bytes"):
        best_checkpoint(tmp_path)


def test_a_metric_that_commands_the_terminal_is_shown_escaped(tmp_path, heard):
    make_manager(tmp_path).save(Position(1))
    (tmp_path / RECORD).write_text(altered(metric="a\x1b[2Jb\n"))
    make_manager(tmp_path).resume()
    assert r"was chosen by a\x1b[2Jb\n and is now chosen by top1_acc" in heard.text


def test_an_intact_record_is_used(tmp_path, heard):
    kept = make_manager(tmp_path).save(Position(1))
    (tmp_path / RECORD).write_text(altered(epochs=[ENTRY, {**ENTRY, "epoch": 0, "figure": None}]))
    manager = make_manager(tmp_path)
    manager.resume()
    assert not manager.awaits_validation(1)
    assert best_checkpoint(tmp_path) == kept
    assert "damaged" not in heard.text
