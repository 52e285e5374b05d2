"""Files that write_video writes can be read at any frame, and are complete or absent."""

import resource

import av
import numpy as np
import pytest

from videofib.data.video.decode import probe, random_access_is_right, read_frames
from videofib.prep.encode import GOP, write_video


def moving_gradient(count, height=96, width=128):
    """Smooth frames, each clearly another than its neighbours."""
    row, column = np.mgrid[:height, :width]
    shades = [np.stack([row + 3 * t, column + t, row + column - 2 * t], -1) for t in range(count)]
    return [(127 + 120 * np.sin(shade / 25)).astype(np.uint8) for shade in shades]


def test_round_trip_keeps_count_size_rate_and_picture(tmp_path):
    frames = moving_gradient(40)
    assert write_video(tmp_path / "a.mp4", iter(frames), 30000 / 1001) == 40
    info = probe(tmp_path / "a.mp4")
    assert (info.num_frames, info.width, info.height, info.codec, info.damaged) == (40, 128, 96, "h264", "")
    assert info.fps == pytest.approx(30000 / 1001)
    assert info.duration == pytest.approx(40 * 1001 / 30000)
    back = read_frames(tmp_path / "a.mp4", range(40))
    assert np.abs(back.astype(int) - np.stack(frames)).mean() < 4  # 4:2:0 chroma and crf 18


def test_every_group_begins_with_a_keyframe_and_none_is_reordered(tmp_path):
    write_video(tmp_path / "a.mp4", moving_gradient(5) + moving_gradient(45)[::-1], 25)  # with a cut in the middle
    with av.open(str(tmp_path / "a.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [i for i, packet in enumerate(packets) if packet.is_keyframe] == list(range(0, 50, GOP))
    assert all(packet.pts == packet.dts for packet in packets)


@pytest.mark.parametrize("count", [1, 2, GOP, GOP + 1, 50])
def test_random_access_is_proven(tmp_path, count):
    write_video(tmp_path / "a.mp4", moving_gradient(count), 25)
    assert random_access_is_right(tmp_path / "a.mp4")


def test_same_frames_give_the_same_bytes(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, moving_gradient(20), 25)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        ([], 25, "no frames"),
        ([np.zeros((5, 4, 3), np.uint8)], 25, "even size, got 4x5"),
        ([np.zeros((4, 4, 3), np.float32)], 25, "uint8"),
        ([np.zeros((4, 4), np.uint8)], 25, r"\(H, W, 3\)"),
        ([np.zeros((16, 16, 3), np.uint8), np.zeros((16, 18, 3), np.uint8)], 25, "frame 1 is 18x16"),
        ([np.zeros((4, 4, 3), np.uint8)], 0, "fps is 0"),
        ([np.zeros((4, 4, 3), np.uint8)], float("nan"), "fps is nan"),
        ([np.zeros((4, 4, 3), np.uint8)], float("inf"), "fps is inf"),
        ([np.zeros((4, 4, 3), np.uint8)], 1e-9, "fps is 1e-09"),
    ],
)
def test_bad_input_names_the_file_and_leaves_nothing(tmp_path, frames, fps, message):
    with pytest.raises(ValueError, match=rf"bad\.mp4.*{message}"):
        write_video(tmp_path / "bad.mp4", frames, fps)
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_fails_midway_leaves_the_old_file(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"old")

    def failing():
        yield from moving_gradient(20)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write_video(tmp_path / "a.mp4", failing(), 25)
    assert (tmp_path / "a.mp4").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_full_disk_is_reported_by_the_videos_name(tmp_path):
    """Here, files that cannot grow; the errors of PyAV cannot be given another name."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_video(tmp_path / "a.mp4", moving_gradient(20), 25)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value) == f"[Errno 27] File too large: '{tmp_path / 'a.mp4'}'"
    assert list(tmp_path.iterdir()) == []
