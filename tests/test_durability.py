"""What must survive a power cut is on the disk before it has its name, and then so is the name.

Killing a process cannot show a missing fsync, since the kernel keeps what was written. So the order of the calls is
recorded while the real writers write real files.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from videofib.checkpoint.file import Position, TrainingState
from videofib.checkpoint.manager import CheckpointManager
from videofib.files import link_or_copy, replacing
from videofib.prep.encode import write_video
from videofib.prep.items import Item
from videofib.prep.journal import Journal
from videofib.prep.prepare import prepare
from videofib.prep.transcode import Encoding


@pytest.fixture
def disk(monkeypatch):
    """What is forced to the disk and renamed, in order: ("fsync", path, its content) and ("rename", from, to)."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        calls.append(("fsync", path, path.read_bytes() if path.is_file() else None))
        return fsync(descriptor)

    def recorded_replace(source, target, **options):
        calls.append(("rename", Path(source), Path(target)))
        return replace(source, target, **options)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    return calls


def is_durable(file: Path, calls: list) -> bool:
    """Whether a file's present content was on the disk before it was renamed to its name, and the name after that."""
    renamed = [number for number, (kind, _, target) in enumerate(calls) if kind == "rename" and target == file]
    if not renamed:
        return False
    temporary, content = calls[renamed[-1]][1], file.read_bytes()
    before = any(call == ("fsync", temporary, content) for call in calls[: renamed[-1]])
    return before and ("fsync", file.parent, None) in calls[renamed[-1] :]


def in_this_process(function, items, jobs):
    """An engine of ``prepare``."""
    return enumerate(map(function, items))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc, which only Linux has")
class TestOrder:
    def test_every_file_of_a_prepared_data_set(self, tmp_path, disk):
        frames = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)
        write_video(tmp_path / "raw/one.mp4", frames, 25)
        items = [Item("one.mp4", 0, ("train",), tmp_path / "raw/one.mp4")]
        out = tmp_path / "out"
        options = {"videos": tmp_path / "raw", "encoding": Encoding(), "jobs": 1, "engine": in_this_process}
        prepare(items, ["a"], out, **options)
        written = [path for path in out.rglob("*") if path.is_file() and path.name != ".lock"]
        assert len(written) >= 5  # a video, a list, classes, the manifest, the journal, the report
        assert [path.name for path in written if not is_durable(path, disk)] == []

    def test_a_checkpoint(self, tmp_path, disk):
        model = torch.nn.Linear(2, 2)
        state = TrainingState(model, torch.optim.SGD(model.parameters()))
        assert is_durable(CheckpointManager(tmp_path, state).save(Position(1)), disk)

    def test_a_copied_file(self, tmp_path, disk):
        (tmp_path / "source").write_bytes(b"bytes")
        link_or_copy(tmp_path / "source", tmp_path / "target")
        assert is_durable(tmp_path / "target", disk)

    def test_journal_entries_are_on_the_disk_within_a_second_and_at_the_end(self, tmp_path, disk, monkeypatch):
        file, clock = tmp_path / "journal.jsonl", [100.0]
        monkeypatch.setattr("videofib.prep.journal.time.monotonic", lambda: clock[0])
        with Journal(file, ["a.mp4", "b.mp4", "c.mp4"]) as journal:
            journal.add("a.mp4", {}, "cannot be read")
            assert disk[-1][1] != file  # together with others
            clock[0] += 1.01
            journal.add("b.mp4", {}, "cannot be read")
            kind, path, content = disk[-1]
            assert (kind, path) == ("fsync", file)
            assert [json.loads(line)["path"] for line in content.splitlines()] == ["a.mp4", "b.mp4"]
            journal.add("c.mp4", {}, "cannot be read")
        assert is_durable(file, disk)
        assert len(file.read_bytes().splitlines()) == 3

    def test_one_that_is_written_in_place_is_seen(self, tmp_path, disk):
        (tmp_path / "in place").write_text("half")
        assert not is_durable(tmp_path / "in place", disk)
        with replacing(tmp_path / "late") as partial:
            partial.write_text("first")
        (tmp_path / "late").write_text("second")
        assert not is_durable(tmp_path / "late", disk)
