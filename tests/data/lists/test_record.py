"""What a record says of its video, and when it is no longer believed."""

from dataclasses import replace

import pytest

from videofib.data.lists.manifest import ManifestRow, read_list, write_list, write_manifest
from videofib.data.lists.record import VideoRecord, verified


def test_a_file_whose_name_is_too_long_is_not_there(tmp_path):
    assert not VideoRecord(str(tmp_path / ("a" * 5000)), 0, "a").seems_there()


@pytest.mark.parametrize("known", [{"num_frames": 50, "fps": 25.0}, {"random_access": True}])
def test_frames_and_proof_are_each_forgotten_when_the_file_is_replaced(tmp_path, known):
    file = tmp_path / "a.mp4"
    file.write_bytes(b"x" * 11)
    bare = VideoRecord(str(file), 0, "a.mp4")
    assert verified(replace(bare, size=10, **known)) == bare
    assert verified(replace(bare, size=11, **known)) == replace(bare, size=11, **known)


def test_a_file_that_is_gone_is_left_to_its_reader_to_report(tmp_path):
    record = VideoRecord(str(tmp_path / "gone.mp4"), 0, "gone.mp4", num_frames=50, size=10)
    assert verified(record) == record


def test_frames_are_counted_in_the_manifest_and_0_without_one(tmp_path):
    write_list(tmp_path / "train.csv", [("a.mp4", 0), ("b.mp4", 1)])
    assert read_list(tmp_path / "train.csv").num_frames.tolist() == [0, 0]
    write_manifest(tmp_path / "manifest.parquet", [ManifestRow("b.mp4", 1, "train", num_frames=7)])
    records = read_list(tmp_path / "train.csv")
    assert records.num_frames.tolist() == [0, 7]
    assert records[1].size is None  # of a file that was not measured
