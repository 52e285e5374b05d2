"""Training survives broken files, hanging decoders and killed workers; see ``reads.py`` for the long drill."""

import pytest

from tests.faults.reads import drill, write_slow_video, wrong


@pytest.mark.slow
def test_readable_videos_are_all_read_and_unreadable_ones_named_once(shared_data, tmp_path):
    hostile = sorted(path for path in (shared_data / "hostile").rglob("*.*") if path.name != ".keep")
    write_slow_video(tmp_path / "slow.mp4")
    found = drill(hostile, tmp_path, reads=300, workers=2, limit=2.0, disturb_every=10)
    assert found["reads"] >= 300
    assert found["unreadable"] == 13
    assert not wrong(found)
    assert found["longest_batch_s"] < 20  # 2 s on a quiet machine
    assert sum(found["workers_killed"].values()) > 0
