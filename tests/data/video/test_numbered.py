"""Frames in order with their numbers: those of plain reading, and those behind a stretch that does not decode."""

import av
import numpy as np
import pytest

from videofib.data.errors import DecodeError
from videofib.data.video.decode import read_frames
from videofib.data.video.numbered import numbered_frames
from videofib.data.video.pyav_reader import open_in_order
from videofib.data.video.survey_cache import surveyed


def numbered(path, *, with_index=True):
    """The numbers, the frames as RGB, and why decoding broke off."""
    index = surveyed(str(path)).index if with_index else None
    with open_in_order(str(path)) as reader:
        found = [(number, reader.to_rgb(frame)) for number, frame in numbered_frames(reader, index)]
        return [number for number, _ in found], [image for _, image in found], reader.damaged


def copied(source, target, change):
    """Copy a video's packets into another file: ``change(number, packet)`` gives a packet's bytes, None without it."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(packet for packet in old.demux(video=0) if packet.size):
            data = change(number, packet)
            if data is None:
                continue
            copy = av.Packet(data)
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            new.mux(copy)


@pytest.fixture(scope="module")
def with_b_frames(tmp_path_factory):
    """50 frames, a keyframe every 10, frames that are stored in another order than they are shown in."""
    path = tmp_path_factory.mktemp("numbered") / "b.mkv"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=2:open-gop=0"}
        base = rng.integers(0, 200, (48, 64, 3), dtype=np.uint8)
        for number in range(50):
            for packet in stream.encode(av.VideoFrame.from_ndarray(base + np.uint8(number), format="rgb24")):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "decoders/nasa_13013_rotated.mp4",
        "samples/ucf101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
        "hostile/vfr_ms.mp4",
        "hostile/native_var_fps_video.mp4",
        "hostile/long_gop_one_key.mp4",
    ],
)
def test_whole_videos_have_the_frames_of_plain_reading(shared_data, name):
    numbers, images, damaged = numbered(shared_data / name)
    with open_in_order(str(shared_data / name)) as reader:
        plain = [reader.to_rgb(frame) for frame in reader.frames()]
    assert numbers == list(range(len(plain)))
    assert damaged == ""
    assert all(np.array_equal(image, expected) for image, expected in zip(images, plain, strict=True))


@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_behind_a_break_frames_keep_their_numbers(with_b_frames, tmp_path, container):
    cut = tmp_path / f"cut.{container}"
    copied(with_b_frames, cut, lambda number, packet: b"\0" * packet.size if 13 <= number < 17 else bytes(packet))
    numbers, images, damaged = numbered(cut)
    lost = sorted(set(range(50)) - set(numbers))
    assert lost == list(range(lost[0], 20))  # up to the next keyframe
    assert 10 < lost[0] <= 14
    assert "decoding stopped after" in damaged
    behind = numbers.index(20)
    expected = read_frames(str(with_b_frames), numbers[behind:], backend="pyav")
    assert np.array_equal(np.stack(images[behind:]), expected)
    assert numbered(cut, with_index=False)[0] == numbers[:behind]


def test_a_broken_keyframe_loses_its_group_and_several_breaks_are_passed(with_b_frames, tmp_path):
    cut = tmp_path / "cut.mkv"
    broken = (10, 31)
    copied(with_b_frames, cut, lambda number, packet: b"\0" * packet.size if number in broken else bytes(packet))
    numbers, images, _ = numbered(cut)
    assert {*range(0, 8), *range(20, 29), *range(40, 50)} <= set(numbers)  # decoders hold frames back, here 29
    assert not set(numbers) & {*range(10, 20), *range(34, 40)}
    behind = numbers.index(40)
    assert np.array_equal(np.stack(images[behind:]), read_frames(str(with_b_frames), list(range(40, 50))))


def test_a_video_of_which_nothing_decodes(with_b_frames, tmp_path):
    copied(with_b_frames, tmp_path / "cut.mkv", lambda number, packet: b"\0" * packet.size)
    with pytest.raises(DecodeError, match="no frame decodes"):
        numbered(tmp_path / "cut.mkv")
