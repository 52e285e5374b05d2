"""Clips of segments are those of a file that was cut, without loss, to the same frames: by seconds and by frames."""

from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.clocks import TICK, constant, jumping, numbers, phone, write
from videofib.data.clips.dataset import ClipDataset, ClipSpec, ViewDataset
from videofib.data.clips.transforms import TrainTransform, ViewTransform
from videofib.data.errors import DecodeError
from videofib.data.lists.record import VideoRecord
from videofib.data.segment import Segment, named_segment, read_segment
from videofib.data.source import FrameFiles
from videofib.data.video.decode import estimate
from videofib.data.video.extent import segment_extent

PIXELS = {"mean": [0.0] * 3, "std": [1 / 255] * 3}  # normalised values are the pixels' own
SPECS = [
    ClipSpec(num_frames=4, sampling_rate=2, target_fps=25),
    ClipSpec(num_frames=5, sampling_rate=1, target_fps=25, sampling="uniform"),
    ClipSpec(num_frames=8, sampling_rate=40, target_fps=30),  # longer than any segment
]
REAL = [
    "ucf101_5/*/*.avi",
    "weizmann/*/*.avi",
    pytest.param("samples/hmdb51/climb/*.avi", marks=pytest.mark.slow),
    pytest.param("samples/hmdb51/dive/*.mp4", marks=pytest.mark.slow),
    pytest.param("samples/kinetics/*.mp4", marks=pytest.mark.slow),
    pytest.param("samples/hmdb51/talk/*.mp4", marks=pytest.mark.slow),
    pytest.param("samples/arid/Jump/*.mp4", marks=pytest.mark.slow),
    "decoders/test_non_zero_start.mp4",
]


def decoded(path):
    """(time in seconds, frame) of every frame as FFmpeg decodes them in order, and the colours of the video.

    The times of avi files are those of decoding, so they are sorted.
    """
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        frames = list(container.decode(video=0))
        times = sorted(frame.time for frame in frames)
        return [*zip(times, frames, strict=True)], {
            name: getattr(context, name) for name in ("color_range", "colorspace")
        }


def cut(path, target, first, last):
    """Write frames first to last - 1 as a file of their own, at their times, with an encoder that loses nothing."""
    frames, colours = decoded(path)
    with av.open(str(target), "w") as container:
        with av.open(str(path)) as source:
            rate = source.streams.video[0].average_rate
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = frames[0][1].width, frames[0][1].height
        stream.pix_fmt = frames[0][1].format.name
        stream.time_base = stream.codec_context.time_base = TICK
        stream.codec_context.max_b_frames = 0
        stream.options = {"qp": "0", "preset": "ultrafast"}
        for name, value in colours.items():
            setattr(stream.codec_context, name, value)
        for time, frame in frames[first:last]:
            new = av.VideoFrame.from_ndarray(frame.to_ndarray(), format=frame.format.name)
            new.time_base, new.pts = TICK, round((time - frames[first][0]) / float(TICK))
            container.mux(stream.encode(new))
        container.mux(stream.encode(None))
    return target


def items(record, size):
    """All that training, testing and validation take of a record, by each of the specs."""
    views = ViewTransform(size, size, 3, **PIXELS)
    random = TrainTransform(size, [size, size], flip=False, **PIXELS)
    for spec in SPECS:
        yield ViewDataset([record], spec, views, num_clips=3)[0]
        yield ViewDataset([record], spec, ViewTransform(size, size, 1, **PIXELS), num_clips=1)[0]
        yield ClipDataset([record], spec, random, num_views=3, seed=5)[2, 0]


def check(path, folder, first, last, *segments):
    """Each of the segments is frames first to last - 1, pixel by pixel as the same items show the cut file."""
    own = cut(path, folder / f"cut {first} {last}.mp4", first, last)
    stored = estimate(path)
    extent = segment_extent(path, segments[0], stored, stored.num_frames, stored.fps)
    # the last frame of a cut file is shown as long as those before it, so at uneven times its rate is another
    assert extent.fps == pytest.approx(estimate(own).fps, rel=0.1 if stored.times else 0.02)
    expected = list(items(VideoRecord(str(own), 0, "cut", fps=extent.fps), 32))
    for segment in segments:
        record = VideoRecord(str(path), 0, path.name, segment=segment)
        for number, (found, wanted) in enumerate(zip(items(record, 32), expected, strict=True)):
            assert found["failures"] == wanted["failures"] == []
            assert torch.equal(found["views"], wanted["views"]), (path.name, segment, number)


def positions(count):
    """Frames (first, last) of segments at the start, in the middle, at the end, of one frame, and of all."""
    third = max(count // 3, 1)
    return [(0, third), (third, 2 * third), (count - third, count), (third, third + 1), (0, count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("segments")


def shown_numbers(path, segment):
    """The numbers of all frames of a segment, in order."""
    stored = estimate(path)
    extent = segment_extent(path, segment, stored, stored.num_frames, stored.fps)
    record = VideoRecord(str(path), 0, "", segment=segment)
    spec = ClipSpec(extent.length, 1, stored.fps, sampling="uniform")
    if extent.times:  # at even times frames are repeated: each by itself
        return [extent.first + index for index in range(extent.length)]
    views = ViewDataset([record], spec, ViewTransform(48, 48, 1, **PIXELS), 1)[0]
    assert views["failures"] == []
    return numbers(views["views"][0].permute(1, 2, 3, 0).numpy())


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts"])
@pytest.mark.parametrize("fps", [25, 12.5])
def test_frames_of_seconds_are_those_that_begin_in_them(suffix, fps, folder):
    bframes = 0 if suffix == "avi" else 2
    fps = 25 if suffix == "avi" else fps
    path = write(folder / f"{suffix}{fps}.{suffix}", constant(50, fps=fps), bframes=bframes)
    for first, last in positions(50):
        wanted = list(range(first, last))
        assert shown_numbers(path, Segment(first, last, "frames")) == wanted
        assert shown_numbers(path, Segment(first / fps, last / fps, "seconds")) == wanted
        before = max(first - 0.6, 0) / fps, (last - 0.4) / fps
        assert shown_numbers(path, Segment(*before, "seconds")) == wanted
    assert shown_numbers(path, Segment(0, 50 / fps + 0.3, "seconds")) == list(range(50))  # sound may last longer


@pytest.mark.parametrize("start", [0.0, 3.0, 90.0])
def test_seconds_count_from_the_first_frame(start, folder):
    path = write(folder / f"late {start}.mp4", constant(40, start=start), bframes=2)
    assert shown_numbers(path, Segment(0.4, 0.8, "seconds")) == list(range(10, 20))


def test_seconds_run_on_where_the_clock_jumps(folder):
    for name, (path, _) in jumping(folder).items():
        assert shown_numbers(path, Segment(1.0, 1.6, "seconds")) == list(range(25, 40)), name
        assert shown_numbers(path, Segment(25, 40, "frames")) == list(range(25, 40)), name


def test_the_stated_rate_may_be_wrong(folder):
    """30 frames a second that are stated as 25 are as far away from them as the segment is late."""
    times = constant(240, fps=27)
    path = write(folder / "stated.mkv", times)
    assert shown_numbers(path, Segment(8.0, 8.5, "seconds")) == [i for i, time in enumerate(times) if 8 <= time < 8.5]


@pytest.mark.parametrize("part", range(5))
def test_clips_are_those_of_a_cut_file(part, folder):
    path = write(folder / "clips.mp4", constant(60), bframes=2)
    first, last = positions(60)[part]
    check(path, folder, first, last, Segment(first, last, "frames"), Segment(first / 25, last / 25, "seconds"))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_clips_of_a_variable_rate_are_those_of_a_cut_file(suffix, folder):
    times = [*constant(30), *constant(20, 1.2, fps=5), *constant(30, 5.2)]
    path = write(folder / f"variable.{suffix}", times, keyint=20)
    for first, last in [(0, 25), (20, 60), (32, 48), (50, 80), (0, 80)]:
        end = times[last] if last < 80 else 6.4
        check(path, folder, first, last, Segment(first, last, "frames"), Segment(times[first], end, "seconds"))


def test_segments_of_a_trimmed_file_of_variable_rate(folder):
    path = phone(folder)
    shown = [time for time, _ in decoded(path)[0]]
    times = [time - shown[0] for time in shown]
    wanted = [i for i, time in enumerate(times) if 1 <= time < 5]
    stored = estimate(path)
    extent = segment_extent(path, Segment(1, 5, "seconds"), stored, stored.num_frames, stored.fps)
    assert [extent.first, extent.length] == [wanted[0], len(wanted)]


@pytest.mark.parametrize("pattern", REAL)
def test_clips_of_real_videos_are_those_of_cut_files(pattern, shared_data, folder):
    path = min(shared_data.glob(pattern))
    times = [time for time, _ in decoded(path)[0]]
    times = [time - times[0] for time in times]
    count = len(times)
    if path.suffix == ".avi":  # states no times of presentation
        times = [index / estimate(path).fps for index in range(count)]
    third = count // 3
    for first, last in [(0, third), (third, 2 * third), (count - third, count)]:
        end = times[last] if last < count else times[-1] + times[-1] / (count - 1)
        check(path, folder, first, last, Segment(first, last, "frames"), Segment(times[first], end, "seconds"))


@pytest.mark.parametrize(
    ("segment", "said"),
    [
        (Segment(1, 9, "seconds", "l.csv:7"), "t=1,9 of l.csv:7 is not within the video, which has 2 seconds"),
        (Segment(2.5, 2.6, "seconds", "l.csv:7"), "t=2.5,2.6 of l.csv:7 is not within the video, which has 2 seconds"),
        (Segment(40, 60, "frames", "l.csv:7"), "frames=40,60 of l.csv:7 is not within the video, which has 50 frames"),
        (Segment(50, 51, "frames", "l.csv:7"), "frames=50,51 of l.csv:7 is not within the video, which has 50 frames"),
        (Segment(1.01, 1.02, "seconds", "l.csv:7"), "no frame begins in the segment #t=1.01,1.02 of l.csv:7"),
    ],
)
def test_segments_that_are_not_within_their_video_are_failures_that_name_the_row(segment, said, folder):
    path = write(folder / "two seconds.mp4", constant(50))
    record = VideoRecord(str(path), 0, f"two seconds.mp4{segment}", segment=segment)
    item = ViewDataset([record], SPECS[0], ViewTransform(32, 32, 1, **PIXELS), 1)[0]
    ((name, reason),) = item["failures"]
    assert name == f"two seconds.mp4{segment}"
    assert said in reason
    assert not item["views"].any()
    with pytest.raises(DecodeError, match=r"is not within|no frame begins"):
        segment_extent(path, segment, estimate(path), 50, 25.0)


def test_a_file_whose_frames_were_counted_has_no_segments_behind_them(folder):
    path = write(folder / "counted.mp4", constant(100))
    record = VideoRecord(str(path), 0, "", num_frames=30, segment=Segment(20, 60, "frames", "l.csv:3"))
    item = ViewDataset([record], SPECS[0], ViewTransform(32, 32, 1, **PIXELS), 1)[0]
    assert "l.csv:3 is not within the video, which has 30 frames" in item["failures"][0][1]


def test_names_of_segments_are_read_back():
    for segment in (Segment(0, 1.5, "seconds"), Segment(1e-7, 1234567.25, "seconds"), Segment(3, 90, "frames")):
        assert named_segment(f"a#t=b, c.mp4{segment}") == ("a#t=b, c.mp4", segment)
    for name in ("a.mp4", "a.mp4#t=2,1", "a.mp4#t=1,2x", "#t=1,2", "a.mp4#frames=1.5,2", "a.mp4#t=1..2,3"):
        assert named_segment(name) == (name, None)


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e400", "1_0", "", "0x3", "٣", "1,5", "9" * 4000])
def test_what_is_no_moment_is_refused(text):
    for unit in ("seconds", "frames"):
        with pytest.raises(ValueError, match=r"start .*(is not a number|is below|more .* than|is empty|no frame)"):
            read_segment(text, "1000000000", unit)


def test_frames_of_a_clip_never_leave_the_segment(folder):
    path = write(folder / "bounds.mp4", constant(60), bframes=2)
    rng = np.random.default_rng(0)
    for _ in range(30):
        first, last = sorted(rng.choice(61, 2, replace=False).tolist())
        record = VideoRecord(str(path), 0, "", segment=Segment(first, last, "frames"))
        for spec in SPECS:
            item = ClipDataset([record], spec, TrainTransform(48, [48, 48], flip=False, **PIXELS), num_views=4)[1, 0]
            for view in item["views"]:
                found = numbers(view.permute(1, 2, 3, 0).numpy())
                assert first <= min(found) <= max(found) < last


def picture_folder(folder, count, first=0):
    """A folder of ``count`` pictures, each of a grey of its own, and those from ``first`` on of a longer one."""
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (40, 36), (7 * (first + number),) * 3).save(folder / f"img_{number + 1:05d}.png")
    return folder


def item_of_frames(path, spec, rate, segment=None):
    spec = replace(spec, frame_files=FrameFiles(fps=rate))
    views = ViewTransform(32, 32, 1, **PIXELS)
    return ViewDataset([VideoRecord(str(path), 0, "a", segment=segment)], spec, views, num_clips=2)[0]


@pytest.mark.parametrize("rate", [0.0, 10.0])
@pytest.mark.parametrize("spec", SPECS)
def test_segments_of_folders_of_frames(spec, rate, tmp_path):
    """In frames, and in seconds where the rate of folders is known."""
    video, own = picture_folder(tmp_path / "all", 30), picture_folder(tmp_path / "own", 12, first=5)
    expected = item_of_frames(own, spec, rate)
    for segment in [Segment(5, 17, "frames")] + [Segment(0.5, 1.7, "seconds")] * bool(rate):
        found = item_of_frames(video, spec, rate, segment)
        assert found["failures"] == expected["failures"] == []
        assert torch.equal(found["views"], expected["views"])


def test_a_segment_behind_a_folder_of_frames_is_named(tmp_path):
    video = picture_folder(tmp_path / "all", 30)
    (_, reason), *_ = item_of_frames(video, SPECS[0], 10.0, Segment(25, 40, "frames"))["failures"]
    assert "frames=25,40 is not within the video, which has 30 frames" in reason
