"""Checkpoints come back as they were, and bad ones are refused by name."""

import logging
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from videofib.checkpoint.file import (
    CheckpointError,
    find_checkpoints,
    latest_checkpoint,
    load_checkpoint,
    load_weights,
    resume,
    save_checkpoint,
)


def run_parts(width=3, classes=2):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, width), nn.Linear(width, classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return model, optimizer


def take_step(model, optimizer):
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_run_goes_on_as_if_never_interrupted(tmp_path):
    model, optimizer = run_parts()
    ema = ModelEmaV3(model, decay=0.5)
    take_step(model, optimizer)
    ema.update(model)
    path = save_checkpoint(tmp_path, 3, model, optimizer, ema=ema.module, config="RNG_SEED: 0\n")
    assert path.name == "checkpoint_epoch_00003.pyth"

    other, other_optimizer = run_parts()
    other_ema = ModelEmaV3(other, decay=0.5)
    checkpoint = load_checkpoint(path)
    assert checkpoint["config"] == "RNG_SEED: 0\n"
    assert resume(checkpoint, path, other, other_optimizer, ema=other_ema.module) == 3
    take_step(model, optimizer)
    take_step(other, other_optimizer)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ema.module.parameters(), other_ema.module.parameters(), strict=True))


def test_checkpoints_within_an_epoch_are_kept_until_newer_ones_are_there(tmp_path):
    model, optimizer = run_parts()
    for epoch, step in [(0, 5), (0, 10), (1, 0), (1, 5), (1, 10), (1, 15), (2, 0)]:
        save_checkpoint(tmp_path, epoch, model, optimizer, step=step, states=[{"meter": {"loss": 0.5}}])
        newest, content = latest_checkpoint(tmp_path)
        assert (content["epoch"], content["step"]) == (epoch, step)
    assert [path.name for path in find_checkpoints(tmp_path)] == [
        "checkpoint_epoch_00001.pyth",
        "checkpoint_epoch_00001_step_000015.pyth",
        "checkpoint_epoch_00002.pyth",
    ]
    assert load_checkpoint(newest)["states"] == [{"meter": {"loss": 0.5}}]


def test_resuming_keeps_the_optimizers_own_options(tmp_path):
    model, optimizer = run_parts()
    take_step(model, optimizer)
    path = save_checkpoint(tmp_path, 1, model, optimizer)
    changed = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.7)
    resume(load_checkpoint(path), path, model, changed)
    assert changed.param_groups[0]["weight_decay"] == 0.7
    assert changed.state_dict()["state"][0]["step"] == 1


def test_another_optimizer_is_refused(tmp_path):
    model, optimizer = run_parts()
    path = save_checkpoint(tmp_path, 1, model, optimizer)
    groups = torch.optim.SGD([{"params": [p]} for p in model.parameters()], lr=0.1)
    with pytest.raises(CheckpointError, match="another optimizer"):
        resume(load_checkpoint(path), path, model, groups)


def test_the_newest_epoch_is_the_latest_whatever_the_file_times_say(tmp_path):
    model, optimizer = run_parts()
    for epoch in (2, 100000, 99999):
        save_checkpoint(tmp_path, epoch, model, optimizer)
    names = [path.name for path in find_checkpoints(tmp_path)]
    assert names == [f"checkpoint_epoch_{epoch}.pyth" for epoch in ("00002", "99999", "100000")]
    assert latest_checkpoint(tmp_path)[1]["epoch"] == 100000
    assert latest_checkpoint(tmp_path / "none") is None


def test_a_damaged_newest_file_is_reported_and_the_one_before_it_used(tmp_path, caplog, monkeypatch):
    model, optimizer = run_parts()
    save_checkpoint(tmp_path, 1, model, optimizer)
    newest = save_checkpoint(tmp_path, 2, model, optimizer)
    newest.write_bytes(newest.read_bytes()[:-300])
    monkeypatch.setattr(logging.getLogger("videofib"), "propagate", True)  # to where caplog listens
    path, checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint["epoch"] == 1
    assert path.name == "checkpoint_epoch_00001.pyth"
    assert "checkpoint_epoch_00002.pyth is damaged" in caplog.text

    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        latest_checkpoint(tmp_path)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    model, optimizer = run_parts()
    take_step(model, optimizer)
    path = save_checkpoint(tmp_path, 1, model, optimizer, config="RNG_SEED: 0\n" * 50)
    written, content, rng, refused = path.read_bytes(), load_checkpoint(path), random.Random(0), []
    for _ in range(300):
        damaged = bytearray(written)
        damaged[rng.randrange(len(written))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert same(load_checkpoint(path), content)  # such as one in a gap between two tensors
        except CheckpointError as error:
            refused.append(str(error))
    assert len(refused) > 150
    assert not any("\n" in line for line in refused)
    offset = written.index(model[0].weight.detach().numpy().tobytes())
    path.write_bytes(written[:offset] + b"\0" * 8 + written[offset + 8 :])
    torch.load(path)  # takes it
    with pytest.raises(CheckpointError, match=r"00001\.pyth is damaged: \S+ is not what was written"):
        load_checkpoint(path)


FILL = """
import resource, sys
from tests.checkpoint.test_file import run_parts
from videofib.checkpoint.file import CheckpointError, save_checkpoint

if sys.argv[2] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    for epoch in range(1, 10):
        save_checkpoint(sys.argv[1], epoch, *run_parts(width=10 if epoch < 3 else 500_000))
except CheckpointError as error:
    print(error)
print(sorted(path.name for path in __import__("pathlib").Path(sys.argv[1]).iterdir()))
"""


@pytest.mark.parametrize("full", ["limit", "tmpfs"])
def test_a_full_disk_is_told_in_one_line_and_leaves_the_old_ones(tmp_path, full):
    """A process may not write larger files; and, where one may mount it, a real file system of one megabyte."""
    command = [sys.executable, "-c", FILL, tmp_path, full]
    if full == "tmpfs":
        mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=1m none "$0" && exec "$@"', str(tmp_path)]
        if shutil.which("unshare") is None or subprocess.run([*mount, "true"], capture_output=True).returncode:
            pytest.skip("no file system may be mounted here")
        command = [*mount, *command]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
    reason = {"limit": "File too large", "tmpfs": "No space left on device"}[full]
    said, files = done.stdout.splitlines()
    assert said == f"cannot write the checkpoint {tmp_path}/checkpoint_epoch_00003.pyth: {reason}"
    assert files == "['checkpoint_epoch_00001.pyth', 'checkpoint_epoch_00002.pyth']"


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_file_that_holds_code_is_refused_and_not_run(tmp_path):
    torch.save({"model_state": Hostile(tmp_path / "owned")}, tmp_path / "bad.pyth")
    with pytest.raises(CheckpointError, match=r"bad\.pyth"):
        load_checkpoint(tmp_path / "bad.pyth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pyth")
    with pytest.raises(CheckpointError, match="no videofib checkpoint"):
        load_checkpoint(tmp_path / "other.pyth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*gone\.pyth"):
        load_checkpoint(tmp_path / "gone.pyth")


def test_weights_that_do_not_fit_are_named_with_both_shapes():
    ours, _ = run_parts(classes=2)
    theirs, _ = run_parts(classes=5)
    state = theirs.state_dict()
    del state["0.bias"]
    state["extra"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        load_weights(ours, state, "theirs.pyth")
    for words in (
        "theirs.pyth",
        "1.weight is (5, 3) there and (2, 3) here",
        "0.bias is missing",
        "extra is unexpected",
    ):
        assert words in str(caught.value)


def test_a_failed_write_says_so_and_leaves_nothing(tmp_path):
    model, optimizer = run_parts()
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        save_checkpoint(blocked, 1, model, optimizer)
