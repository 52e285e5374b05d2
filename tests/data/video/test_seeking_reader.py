"""Reading real videos from keyframes: exactly the frames that reading in order returns, or none."""

import random
from fractions import Fraction

import av
import numpy as np
import pytest

from videofib.data.errors import DecodeError, FrameIndexError
from videofib.data.video import seeking_reader, survey
from videofib.data.video.decode import read_frames
from videofib.data.video.pyav_reader import open_in_order
from videofib.data.video.seeking_reader import read_seeking
from videofib.prep.encode import write_video

# Packets that are no frames, no frames' times, or damage: only reading in order finds their frames.
IN_ORDER_ONLY = {
    *("bitflips.avi", "bitflips_mdat.mp4", "truncated_60pct.avi", "truncated_faststart.mp4"),
    *("codec_vp8.webm", "resolution_change.ts", "short_1frame.mp4", "short_2frame.mp4"),
    *("codec_mpeg2.mpg", "interlaced_mpeg2.mpg"),
    *(f"h264_in_avi_v_{name}_c01.avi" for name in ("JumpingJack_g01", "Lunges_g02", "WallPushups_g03")),
}


def check(path):
    """Assert that seeking gives the true frames, byte for byte, or nothing; returns how often it gave nothing."""
    try:
        with open_in_order(path) as reader:
            true = [reader.to_rgb(frame) for frame in reader.frames()]
    except DecodeError:
        return None
    rng, last, gave_up = random.Random(0), len(true) - 1, 0
    draws = [[rng.randrange(last + 1)] for _ in range(3)]
    draws += [sorted(rng.sample(range(last + 1), min(8, last + 1))), [i * last // 7 for i in range(8)], [0, last]]
    for indices in draws:
        indices = sorted(set(indices))
        frames = read_seeking(path, indices)
        if frames is None:
            gave_up += 1
        else:
            assert all(np.array_equal(frame, true[i]) for frame, i in zip(frames, indices, strict=True)), path
    return gave_up


def test_hostile_videos(shared_data):
    gave_up = {path.name: check(path) for path in (shared_data / "hostile").rglob("*.*") if path.is_file()}
    readable = {name for name, times in gave_up.items() if times is not None}
    assert {name for name in readable if gave_up[name]} == IN_ORDER_ONLY
    assert len(readable) > 60


def test_sample_videos(shared_data):
    samples = shared_data / "samples"
    seekable = [*sorted((samples / "kinetics").iterdir())[:3], *sorted((samples / "ssv2").rglob("*.webm"))[:1]]
    assert [check(path) for path in seekable] == [0] * len(seekable)
    packed = min((samples / "hmdb51").rglob("*.avi"))  # two frames in a packet
    placeholder = samples / "ucf101/BaseballPitch/v_BaseballPitch_g01_c03.avi"  # a packet without a frame
    no_times = samples / "ntu/S001C001P001R001A001_rgb.avi"  # B-frames, and only times of decoding
    for path in (packed, placeholder, no_times):
        assert read_seeking(path, [0]) is None


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """60 frames that differ, a keyframe every 12."""
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    write_video(path, [np.roll(noise, 2 * i, axis=1) for i in range(60)], 25)
    return path


def remuxed(source, target, change):
    """The same packets in another file, each after ``change(packet, its number)``."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(video=0)):
            if packet.size:
                change(packet, number)
                packet.stream = stream
                new.mux(packet)
    return target


def decoded(monkeypatch):
    """The list to which every packet that is decoded from now on adds its number."""
    numbers, honest = [], seeking_reader._Walk._decoded

    def counting(walk):
        for frame in honest(walk):
            numbers.append(walk._position - 1)
            yield frame

    monkeypatch.setattr(seeking_reader._Walk, "_decoded", counting)
    return numbers


@pytest.mark.parametrize(
    ("indices", "packets"),
    [
        ([0], [0]),
        ([36], [0, 36]),
        ([14, 15, 50], [0, 12, 13, 14, 15, 48, 49, 50]),
        ([22, 25], [0, *range(12, 23), 24, 25]),
        ([23, 25], [0, *range(12, 26)]),
        ([59], [0, *range(48, 60)]),
    ],
)
def test_only_what_is_needed_is_decoded(video, monkeypatch, indices, packets):
    numbers = decoded(monkeypatch)
    assert len(read_seeking(video, indices)) == len(indices)
    assert sorted(set(numbers)) == [p for p in packets if p in numbers] == packets


def test_videos_too_large_to_keep_are_read_twice(video, monkeypatch):
    frames = read_seeking(video, [3, 40, 59])
    monkeypatch.setattr(survey, "_KEPT_BYTES", 1000)
    assert np.array_equal(read_seeking(video, [3, 40, 59]), frames)


def test_packets_that_are_kept_count_with_what_each_takes_beside_its_data(video, monkeypatch):
    """Of a film of tiny packets, the objects take more memory than the data."""
    with open_in_order(video) as reader:
        sizes = [packet.size for packet in reader.packets()]
    taken = sum(sizes) + 860 * len(sizes)  # bytes; 860 were measured for a packet
    for most, kept in ((taken, True), (taken - 1, False)):
        monkeypatch.setattr(survey, "_KEPT_BYTES", most)
        with open_in_order(video) as reader:
            _, packets = survey.take(reader)
        assert (packets is not None) == kept


@pytest.mark.parametrize(
    ("name", "believed"),
    [("codec_h264.mp4", False), ("codec_hevc.mp4", True), ("codec_flv1.flv", True), ("codec_wmv2.wmv", True)],
)
def test_wrong_keyframe_flags_are_noticed(shared_data, tmp_path, name, believed):
    def all_keys(packet, number):
        packet.is_keyframe = True

    path = shared_data / "hostile" / name
    lying = remuxed(path, tmp_path / name, all_keys)
    for i in (7, 17, 29):
        assert (read_seeking(lying, [i]) is None) == believed  # FFmpeg looks into H.264's packets itself
        assert np.array_equal(read_frames(lying, [i]), read_frames(path, [i], backend="pyav"))


def test_a_size_that_changes_midway_is_left_to_reading_in_order(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        larger = av.CodecContext.create("mjpeg", "w")
        larger.width, larger.height, larger.pix_fmt, larger.time_base = 96, 72, "yuvj420p", Fraction(1, 25)
        for number, encoder in enumerate([stream] * 5 + [larger] * 5):
            frame = av.VideoFrame.from_ndarray(np.full((encoder.height, encoder.width, 3), 20 * number, np.uint8))
            for packet in encoder.encode(frame.reformat(format="yuvj420p", threads=1)):
                packet.pts = packet.dts = number
                packet.stream, packet.time_base = stream, Fraction(1, 25)
                container.mux(packet)
    assert read_seeking(tmp_path / "a.mkv", [4]) is not None
    assert read_seeking(tmp_path / "a.mkv", [7]) is None
    assert read_frames(tmp_path / "a.mkv", [7]).shape == (1, 48, 64, 3)


def test_wrong_times_are_noticed(video, tmp_path):
    def swapped(packet, number):
        packet.pts = packet.dts + 2 * packet.duration + packet.duration * {28: 1, 29: -1}.get(number, 0)

    lying = remuxed(video, tmp_path / "a.mkv", swapped)
    assert read_seeking(lying, [25, 30]) is None
    assert np.array_equal(read_frames(lying, [25, 28, 30]), read_frames(video, [25, 28, 30], backend="pyav"))


def test_an_index_beyond_the_end_is_left_to_reading_in_order(video):
    assert read_seeking(video, [0, 60]) is None
    with pytest.raises(FrameIndexError, match="60 frames decode"):
        read_frames(video, [0, 60])
