"""Preparation of files whose clocks jump or whose edit lists cut frames away: at their rate, at another, and copied."""

import json
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.clocks import constant, edited, jumping, numbers, phone, shown, write
from videofib.data.clips.dataset import ClipSpec, ViewDataset
from videofib.data.clips.transforms import ViewTransform
from videofib.data.lists.manifest import read_list, read_manifest
from videofib.data.lists.record import VideoRecord
from videofib.data.video.decode import read_frames
from videofib.prep.command import summary
from videofib.prep.items import Item
from videofib.prep.prepare import prepare
from videofib.prep.transcode import Encoding, transcode

# One file of each kind; tests/data/clips/test_clip_clocks.py reads all of them.
JUMPING = {"two_parts_with_b_frames", "set_back", "back_into_a_pause", "two_mpg", "pause_5", "pause_3600"}
EDITED = {"trimmed", "cut_out_b", "delayed_b"}
WAYS = {"plain": Encoding(), "fps": Encoding(fps=10), "copy": Encoding(codec="copy")}
CENTRE = ViewTransform(32, 32, 1, mean=[0.0] * 3, std=[1 / 255] * 3)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A folder of one class, the numbers of each file's frames, and how often its clock jumps."""
    made, root = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("raw")
    (root / "class").mkdir()
    frames, jumps = {}, {}
    for name, (path, count) in jumping(made).items():
        if name in JUMPING:
            frames[name], jumps[name] = list(range(60)), count
            path.rename(root / "class" / path.name)
    for name, (path, expected, _) in edited(made).items():
        if name in EDITED:
            frames[name] = expected
            path.rename(root / "class" / path.name)
    path = phone(made)
    frames["phone"] = [number for _, number in shown(path)]
    path.rename(root / "class" / path.name)
    return root, frames, jumps


def in_this_process(work, calls, jobs):
    return enumerate(map(work, calls))


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    """Of each way, by the file's name: its record and its row in the manifest; and the report."""
    found = {}
    items = [Item(f"class/{path.name}", 0, ("train",), path) for path in sorted((raw[0] / "class").iterdir())]
    for way, encoding in WAYS.items():
        out = tmp_path_factory.mktemp("prepared") / way
        prepare(items, ["class"], out, videos=raw[0], encoding=encoding, jobs=1, engine=in_this_process)
        records, rows = read_list(out / "train.csv"), read_manifest(out / "manifest.parquet")
        by_name = {Path(row.source).stem: pair for *pair, row in zip(records, rows, rows, strict=True)}
        found[way] = by_name, json.loads((out / "report.json").read_text()), out
    return found


def every_frame(record):
    return numbers(read_frames(record.path, range(record.num_frames), backend="pyav"))


def test_at_their_own_rate_all_frames_are_kept(raw, prepared):
    _, frames, jumps = raw
    files, _, _ = prepared["plain"]
    assert files.keys() == frames.keys()
    for name, (record, row) in files.items():
        if name == "phone":
            continue
        assert every_frame(record) == frames[name], name
        assert record.fps == pytest.approx(25), name
        assert (row.status, row.random_access, row.clock_jumps) == ("ok", True, jumps.get(name, 0)), name


def test_at_another_rate_the_frames_on_the_screen_are_kept(raw, prepared):
    _, frames, jumps = raw
    for name, (record, row) in prepared["fps"][0].items():
        if name == "phone":
            continue
        # of 25 frames a second those in the middles of tenths of a second; two edits may overlap by a frame
        middles = [(i + 0.5) / 10 * 25 for i in range(round(len(frames[name]) / 2.5))]
        expected = [frames[name][int(middle)] for middle in middles]
        assert np.abs(np.subtract(every_frame(record), expected)).max() <= (name == "cut_out_b"), name
        assert (record.fps, row.status, row.clock_jumps) == (10, "ok", jumps.get(name, 0)), name


def test_a_copied_file_gives_the_same_items(raw, prepared):
    _, frames, jumps = raw
    spec = ClipSpec(num_frames=4, sampling_rate=2, target_fps=25)
    for name, (record, row) in prepared["copy"][0].items():
        if name == "phone":
            continue
        count = len(frames[name])
        assert (record.num_frames, record.fps, record.variable_rate) == (count, pytest.approx(25), False), name
        assert (row.status, row.clock_jumps) == ("ok", jumps.get(name, 0)), name
        assert not row.random_access or name not in jumps or name.startswith("pause"), name
        for backend in ("auto", "decord"):
            spec = ClipSpec(num_frames=4, sampling_rate=2, target_fps=25, backend=backend)
            views = ViewDataset([record], spec, CENTRE, num_clips=3)[0]["views"]
            for view, start in zip(views, (0, (count - 8) / 2, count - 8), strict=True):
                clip = [frames[name][int(start + k * 7 / 3 + 1e-6)] for k in range(4)]
                assert numbers(view.permute(1, 2, 3, 0).numpy()) == clip, (name, backend)


def test_a_trimmed_variable_rate_becomes_constant_by_its_shown_times(raw, prepared):
    times, expected = zip(*shown(raw[0] / "class/phone.mp4"), strict=True)
    record, _ = prepared["fps"][0]["phone"]
    middles = [(i + 0.5) / 10 for i in range(record.num_frames)]
    assert record.num_frames == pytest.approx(10 * times[-1] + 1, abs=1)
    assert every_frame(record) == [expected[np.searchsorted(times, middle, "right") - 1] for middle in middles]
    record, _ = prepared["plain"][0]["phone"]
    fps = (len(times) - 1) / times[-1]
    assert (record.num_frames, record.fps) == (pytest.approx(len(times), abs=1), pytest.approx(fps, rel=1e-3))
    middles = [(i + 0.5) / fps for i in range(record.num_frames)]
    assert every_frame(record) == [expected[np.searchsorted(times, middle, "right") - 1] for middle in middles]
    record, _ = prepared["copy"][0]["phone"]
    assert (record.num_frames, record.variable_rate) == (len(times), True)
    spec = ClipSpec(8, 1, 25, sampling="uniform")
    copied, source = (
        ViewDataset([known], spec, CENTRE, num_clips=2)[0]["views"]
        for known in (record, VideoRecord(str(raw[0] / "class/phone.mp4"), 0, "not prepared"))
    )
    assert torch.equal(copied, source)  # tests/data/clips/test_clip_clocks.py says what the source's are


def test_the_report_and_the_command_name_the_files_whose_clocks_jump(raw, prepared):
    for way, (_, report, out) in prepared.items():
        named = {line.split(": ")[0] for line in report["clock_jumps"]}
        assert len(report["clock_jumps"]) == len(raw[2]), way
        assert all(f"{name}." in " ".join(named) for name in raw[2]), way
        assert f"clock jumps: {len(raw[2])}" in summary(report, out), way


def test_avi_with_b_frames_keeps_all_of_them_at_its_own_rate(tmp_path):
    # avi states when frames are decoded, so B-frames come out with times that go back
    path = write(tmp_path / "a.avi", constant(40), bframes=2)
    times = [time for time, _ in shown(path)]
    assert times != sorted(times)
    found = transcode(path, tmp_path / "a.mp4", Encoding(fps=25))
    assert (found.num_frames, found.clock_jumps) == (40, 0)
    assert numbers(read_frames(tmp_path / "a.mp4", range(40), backend="pyav")) == list(range(40))


def test_frames_held_for_seconds_stay_as_long(tmp_path):
    # a screen recording: 12 frames while a cursor moves, then one for 3 and one for 8 s, three times
    steps = ([1 / 30] * 12 + [3.0, 8.0]) * 3
    times = [0.0, *accumulate(steps)]
    path = write(tmp_path / "screen.mp4", times, bframes=2)
    found = transcode(path, tmp_path / "a.mp4", Encoding(fps=10))
    assert (found.num_frames, found.clock_jumps) == (pytest.approx(10 * times[-1], abs=10 * max(steps)), 0)
    middles = [(i + 0.5) / 10 for i in range(found.num_frames)]
    expected = [int(np.searchsorted(times, middle + 1e-4, "right")) - 1 for middle in middles]
    assert numbers(read_frames(tmp_path / "a.mp4", range(found.num_frames), backend="pyav")) == expected
