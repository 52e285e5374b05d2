"""Checkpoint folders are read as they were written; damaged, hostile and half-written ones are refused by name."""

import json
import logging
import os
import pickle
import shutil
import struct
import zlib

import pytest
import torch
import torch.distributed as dist
from torch import nn

from videofib.checkpoint.file import (
    CheckpointError,
    ModelDescription,
    Position,
    TrainingState,
    load_checkpoint,
    restore,
)
from videofib.checkpoint.manager import CheckpointManager, find_checkpoints, latest_checkpoint
from videofib.distributed.fsdp import shard


@pytest.fixture(scope="module", autouse=True)
def _group():
    """A process group of this process alone, in which models can be sharded."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def run_parts(sharded=True):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model.register_buffer("scale", torch.tensor(2.0))
    if sharded:
        shard(model)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def take_step(model, optimizer):
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def save(folder, epoch, step=0, states=(), sharded=True):
    model, optimizer = run_parts()
    take_step(model, optimizer)
    description = ModelDescription("RNG_SEED: 0\n", ["walk", "wave"], {"num_frames": 8})
    manager = CheckpointManager(folder, TrainingState(model, optimizer), description, sharded=sharded)
    return manager.save(Position(epoch, step, states))


def test_a_folder_holds_what_a_file_holds(tmp_path):
    states = [{"generators": (1, (2, 3)), "meter": {"loss": 0.5}, "cpu": torch.arange(3)}]
    options = {"step": 7, "states": states}
    folder, file = save(tmp_path, 3, **options), save(tmp_path, 3, sharded=False, **options)
    assert [path.name for path in (folder, file)] == [
        "checkpoint_epoch_00003_step_000007.dcp",
        "checkpoint_epoch_00003_step_000007.pyth",
    ]
    assert sorted(path.suffix for path in folder.iterdir()) == [".pyth", ".safetensors"]
    found, expected = load_checkpoint(folder), load_checkpoint(file)
    assert found.keys() == expected.keys()
    for key in ("model_state", "optimizer_state", "states"):
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0)
    for key in ("epoch", "step", "config", "classes", "input", "versions", "scaler_state", "ema_state"):
        assert found[key] == expected[key]

    for sharded in (True, False):  # and into sharded and unsharded weights
        model, optimizer = run_parts(sharded)
        restore(found, folder, TrainingState(model, optimizer))
        take_step(model, optimizer)
    assert not list(tmp_path.glob(".*"))


def test_a_model_that_is_not_sharded_is_kept_in_a_file(tmp_path):
    state = TrainingState(*run_parts(sharded=False))
    assert CheckpointManager(tmp_path, state, sharded=True).save(Position(1)).name.endswith(".pyth")


def cut_off(folder):
    (shard_file,) = folder.glob("*.safetensors")
    shard_file.write_bytes(shard_file.read_bytes()[:-8])


def lose(folder):
    next(folder.glob("*.safetensors")).unlink()


def lose_content(folder):
    (folder / "content.pyth").unlink()


def add_a_file(folder):
    shutil.copy(next(folder.glob("*.safetensors")), folder / "shard-00009-model-00001-of-00001.safetensors")


def flip_a_bit(folder):
    (shard_file,) = folder.glob("*.safetensors")
    flip(shard_file, 1)


def flip_a_bit_of_the_content(folder):
    data = (folder / "content.pyth").read_bytes()
    flip(folder / "content.pyth", len(data) - data.index(b"RNG_SEED: 0") - len("RNG_SEED: "))  # 0 becomes 1


def flip(file, distance):
    """Flip a bit of the byte at this distance from the end."""
    data = bytearray(file.read_bytes())
    data[-distance] ^= 1
    file.write_bytes(data)


def alter_offsets(folder):
    """Change the header of a file of shards: a shard that begins elsewhere leaves a hole in the full tensor."""
    (shard_file,) = folder.glob("*.safetensors")
    data = shard_file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    head = json.loads(data[8 : 8 + length])
    offsets = json.loads(head["__metadata__"]["DCP_SHARDING_INFO"])
    offsets["model_state.0.weight"]["saved_offsets"] = [1, 0]
    head["__metadata__"]["DCP_SHARDING_INFO"] = json.dumps(offsets)
    text = json.dumps(head, separators=(",", ":")).encode()
    assert len(text) <= length
    rewrite_shards(folder, lambda data: data[:8] + text.ljust(length) + data[8 + length :])


def rewrite_shards(folder, change):
    """Change the bytes of a file of shards, and its checksum, as a stranger would."""
    (shard_file,) = folder.glob("*.safetensors")
    shard_file.write_bytes(change(shard_file.read_bytes()))
    content = torch.load(folder / "content.pyth", weights_only=True)
    content["files"][shard_file.name] = zlib.crc32(shard_file.read_bytes())
    torch.save(content, folder / "content.pyth")


DAMAGES = [cut_off, lose, lose_content, add_a_file, flip_a_bit, flip_a_bit_of_the_content, alter_offsets]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_reported_and_the_one_before_it_used(tmp_path, caplog, monkeypatch, capfd, damage):
    save(tmp_path, 1, sharded=False)
    folder = save(tmp_path, 2)
    load_checkpoint(folder)
    damage(folder)
    monkeypatch.setattr(logging.getLogger("videofib"), "propagate", True)  # to where caplog listens
    path, content = latest_checkpoint(tmp_path)
    assert (path.name, content["epoch"]) == ("checkpoint_epoch_00001.pyth", 1)
    assert "checkpoint_epoch_00002.dcp" in caplog.text
    assert "Traceback" not in capfd.readouterr().err

    path.write_bytes(b"half a file")
    assert save(tmp_path, 2) == folder  # the run gets there again, and replaces it
    assert latest_checkpoint(tmp_path)[0] == folder


def test_a_header_that_is_not_one_is_reported_without_a_traceback(tmp_path, caplog):
    folder = save(tmp_path, 1)
    rewrite_shards(folder, lambda data: data[:8] + b"x" + data[9:])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(folder)
    assert not [record for record in caplog.records if record.exc_info or "Traceback" in record.getMessage()]


def test_memory_is_not_taken_for_more_than_the_files_hold(tmp_path):
    folder = save(tmp_path, 1)
    content = torch.load(folder / "content.pyth", weights_only=True)
    content["model_state"]["0.weight"] = torch.empty(10**9, 10**3, device="meta")
    torch.save(content, folder / "content.pyth")
    with pytest.raises(CheckpointError, match=r"names tensors of 4,000,000,000,\d+ bytes, and the files .* only \d"):
        load_checkpoint(folder)


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize(("name", "write"), [("content.pyth", torch.save), (".metadata", pickle.dump)])
def test_code_in_a_folder_is_not_run(tmp_path, name, write):
    folder = save(tmp_path, 1)
    with (folder / name).open("wb") as file:
        write({"epoch": Hostile(tmp_path / "owned")}, file)
    if name == ".metadata":  # which torch.distributed.checkpoint would unpickle, and here nothing reads
        assert load_checkpoint(folder)["epoch"] == 1
    else:
        with pytest.raises(CheckpointError, match=r"content\.pyth holds code"):
            load_checkpoint(folder)
    assert not (tmp_path / "owned").exists()


def test_what_a_killed_process_left_is_not_a_checkpoint_and_is_replaced(tmp_path):
    folder = save(tmp_path, 1)
    folder.rename(tmp_path / f".{folder.name}.partial")
    assert find_checkpoints(tmp_path) == []
    assert save(tmp_path, 1) == folder
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_folders_within_an_epoch_are_kept_until_newer_ones_are_there(tmp_path):
    for step in (5, 10, 15):
        save(tmp_path, 0, step=step)
    save(tmp_path, 1)
    names = [path.name for path in tmp_path.iterdir()]
    assert sorted(names) == ["checkpoint_epoch_00000_step_000015.dcp", "checkpoint_epoch_00001.dcp"]


def test_a_failed_write_says_so(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        save(tmp_path / "file", 1)
