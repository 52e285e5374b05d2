"""What one pass over the packets of a long video shows is kept: used again, never believed, and done without."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from videofib.data.clips.dataset import ClipSpec, read_clips
from videofib.data.errors import DecodeError
from videofib.data.lists.record import VideoRecord
from videofib.data.source import ByteRange
from videofib.data.video import seeking_reader, survey_cache, survey_file
from videofib.data.video.decode import estimate, read_frames
from videofib.data.video.pyav_reader import OrderedReader, open_in_order
from videofib.data.video.seeking_reader import read_seeking

INDICES = [3, 150, 231, 232, 280]
# Every kind of container; B-frames in all but avi, and groups of pictures that are open or closed.
FILES = {
    **{name: ["-c:v", "libx264", "-bf", "2", "-x264-params", "open-gop=1"] for name in ("a.mp4", "a.mkv", "a.ts")},
    "closed.ts": ["-c:v", "libx264", "-bf", "3"],
    "fragmented.mp4": ["-c:v", "libx264", "-movflags", "frag_keyframe+empty_moov"],
    "hevc.mp4": ["-c:v", "libx265", "-x265-params", "log-level=none:pools=1"],
    "vp9.webm": ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"],
    "a.avi": ["-c:v", "mpeg4", "-bf", "0"],
    "a.mpg": ["-c:v", "mpeg2video", "-bf", "2"],
    "a.flv": ["-c:v", "flv"],
    "a.wmv": ["-c:v", "wmv2"],
}
SETTLED = 1_600_000_000  # a time of change long ago


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """300 frames of 96 x 64 that all differ, a keyframe every 25."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("the program ffmpeg is not installed")
    folder = tmp_path_factory.mktemp("films")
    picture = "testsrc2=size=96x64:rate=25,noise=c0s=20:c0f=t"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", picture, "-frames:v", "300"]
    for name, options in FILES.items():
        encode = [*command, *options, "-g", "25", "-threads", "1", "-pix_fmt", "yuv420p", folder / name]
        subprocess.run(encode, check=True, stdin=subprocess.DEVNULL)
    subprocess.run(
        ["ffmpeg", "-v", "error", "-ss", "1.5", "-i", folder / "a.mp4", "-c", "copy", folder / "edit_list.mp4"],
        check=True,
    )
    joined = (folder / "a.ts").read_bytes() + (folder / "closed.ts").read_bytes()
    (folder / "joined.ts").write_bytes(joined)  # the clock jumps back
    for path in folder.iterdir():
        os.utime(path, (SETTLED, SETTLED))
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of a cache for videos of any size, of which every group of pictures is reached by a seek."""
    monkeypatch.setenv("VIDEOFIB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(survey_cache, "_LONG_BYTES", 0)
    monkeypatch.setattr(seeking_reader, "_SKIPPED_BYTES", 0)
    forget()
    return tmp_path / "cache" / "packets"


def forget():
    """As a new process: without surveys in memory."""
    survey_cache._slot.cache_clear()


@pytest.fixture
def counted(monkeypatch):
    """A list to which the number of every packet that is read is added."""
    honest, read = OrderedReader.packets, []

    def packets(reader):
        for packet in honest(reader):
            read.append(packet.pts)
            yield packet

    monkeypatch.setattr(OrderedReader, "packets", packets)
    return read


def true_frames(path):
    with open_in_order(path) as reader:
        return [reader.to_rgb(frame) for frame in reader.frames()]


@pytest.mark.parametrize("name", [*FILES, "edit_list.mp4", "joined.ts"])
def test_frames_are_the_same_with_an_index_and_without(films, cache, name):
    true = true_frames(films / name)
    last = len(true) - 1
    draws = [[0], [last], [3, last // 2, last], [i * last // 9 for i in range(10)], list(range(20, 60))]
    for indices in draws:
        for _ in range(2):  # the index is new, and it is from a file
            forget()
            frames = read_frames(films / name, indices)
            assert all(np.array_equal(frame, true[i]) for frame, i in zip(frames, indices, strict=True))
    assert len(list(cache.iterdir())) == 1


def test_the_files_of_other_programs(shared_data, cache):
    """Every hostile file and every test file of a decoder library, with a survey that was kept before."""
    paths = [
        path for folder in ("hostile", "decoders") for path in (shared_data / folder).rglob("*.*") if path.is_file()
    ]
    compared = 0
    for path in paths:
        try:
            true = true_frames(path)
            before = estimate(path)
        except DecodeError:
            continue
        last = len(true) - 1
        for indices in ([last], sorted({0, last // 3, last})):
            forget()
            frames = read_seeking(path, indices)
            if frames is not None:
                compared += 1
                assert all(np.array_equal(frame, true[i]) for frame, i in zip(frames, indices, strict=True)), path
        forget()
        assert estimate(path) == before, path
    assert compared > 100


@pytest.mark.parametrize(
    "name", ["a.mp4", "a.mkv", "a.ts", "closed.ts", "hevc.mp4", "vp9.webm", "a.avi", "edit_list.mp4"]
)
def test_few_packets_are_read_where_the_index_is_known(films, cache, counted, name):
    count = estimate(films / name).num_frames
    passed = len(counted)
    forget()
    counted.clear()
    estimate(films / name)
    assert not counted
    read_frames(films / name, [count - 10])
    # a group of pictures, another one where the container leads to the keyframe before, and one for the orientation
    assert 0 < len(counted) <= 60 < passed / 4


def test_a_part_of_another_file_has_an_index_too(films, cache, counted, tmp_path):
    video = (films / "a.mkv").read_bytes()
    shard = tmp_path / "a.tar"
    shard.write_bytes(bytes(1000) + video + bytes(1000) + video)
    os.utime(shard, (SETTLED, SETTLED))
    parts = [ByteRange(str(shard), start, len(video)) for start in (1000, 2000 + len(video))]
    for part in parts:
        read_frames(part, INDICES)
    forget()
    counted.clear()
    for part in parts:
        assert np.array_equal(read_frames(part, [280]), read_frames(films / "a.mkv", [280]))
    assert len(list(cache.iterdir())) == 3
    assert len(counted) < 300 + 2 * 60  # the file itself was read once


def test_an_unprepared_row_is_passed_over_once(films, cache, counted):
    record = VideoRecord(str(films / "a.mp4"), 0, "a.mp4")
    list(read_clips(record, ClipSpec(4, 2, 25), lambda length, fps: [list(range(length - 8, length, 2))]))
    assert 300 <= len(counted) <= 360
    counted.clear()
    list(read_clips(record, ClipSpec(4, 2, 25), lambda length, fps: [list(range(length - 8, length, 2))]))
    assert len(counted) <= 60


def test_short_videos_leave_no_files(films, cache, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("VIDEOFIB_CACHE_DIR", str(cache.parent))
    forget()
    read_frames(films / "a.mp4", INDICES)
    assert not cache.exists()


def test_short_videos_are_not_sought_in(films, monkeypatch):
    def refused(reader, ticks):
        raise AssertionError("sought")

    forget()
    monkeypatch.setattr(OrderedReader, "seek", refused)
    for _ in range(2):
        read_frames(films / "a.mp4", INDICES)


def damages(good):
    """Bytes that may lie where a kept survey should, each with what they are."""
    body = good[19 + 32 :]
    header = body[4 : 4 + int.from_bytes(body[:4], "little")]
    columns = body[4 + len(header) :]

    def signed(header, columns):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        body = len(text).to_bytes(4, "little") + text + columns
        return good[:19] + survey_file.hashlib.sha256(body).digest() + body

    stated = json.loads(header)
    yield "nothing", b""
    yield "cut off", good[:-9]
    yield "one bit", good[:-100] + bytes([good[-100] ^ 1]) + good[-99:]
    yield "a pickle", b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR."
    yield "another version", good.replace(b"packets 1", b"packets 9")
    yield "no JSON", signed(b"{", columns)
    yield "deep JSON", signed(b"[" * 60_000, columns)
    yield "no header", signed([], columns)
    yield "negative lengths", signed({**stated, "lengths": [-n for n in stated["lengths"]]}, columns)
    yield "huge lengths", signed({**stated, "lengths": [2**62 for _ in stated["lengths"]]}, columns)
    yield "lengths that are none", signed({**stated, "lengths": None}, columns)
    yield "zeros", signed(stated, bytes(len(columns)))
    yield "backwards", signed(stated, np.frombuffer(columns, np.int64)[::-1].tobytes())
    yield "no more columns", signed(stated, b"")
    yield "another file", signed({**stated, "key": [*stated["key"][:-1], 1]}, columns)
    for field, value in [
        ("fps", 0.0),
        ("fps", "x"),
        ("num_frames", -3),
        ("clock", {"jumps": -1}),
        ("clock", None),
        ("clock_goes_back", 1),
        ("x", 1),
    ]:
        changed = {**stated, "estimate": {**stated["estimate"], field: value}}
        yield f"{field} is {value}", signed(changed, columns)


def test_damaged_files_are_replaced(films, cache):
    path = films / "a.mp4"
    true, about = read_frames(path, INDICES, backend="pyav"), estimate(path)
    (file,) = cache.iterdir()
    good = file.read_bytes()
    for what, data in damages(good):
        file.write_bytes(data)
        forget()
        assert estimate(path) == about, what
        assert file.read_bytes() == good, what
        assert np.array_equal(read_frames(path, INDICES), true), what


def test_an_index_of_other_packets_is_noticed(films, cache):
    """A sound survey that is not that of the file: by the numbers of its packets, their times, or the container."""
    path = films / "a.mkv"
    true = read_frames(path, INDICES, backend="pyav")
    estimate(path)
    stamp = survey_cache.stamped(path)
    honest = survey_cache.kept(stamp)
    index = honest.index
    later = {name: type(index.times)("q", [t + 40 for t in getattr(index, name)]) for name in ("times", "packet_times")}
    sizes = type(index.times)("q", [size + 1 for size in index.packet_sizes])
    for lie in (
        replace(honest, index=replace(index, **later)),
        replace(honest, index=replace(index, packet_sizes=sizes)),
        replace(honest, stated="another"),
    ):
        survey_cache._slot(stamp).survey = lie
        assert np.array_equal(read_frames(path, INDICES), true)
        again = survey_cache.kept(stamp)
        assert (again.stated, again.index) == (honest.stated, index)


def test_a_container_that_leads_elsewhere_is_not_believed(films, cache, monkeypatch):
    true = read_frames(films / "a.mp4", INDICES)
    stamp = survey_cache.stamped(films / "a.mp4")
    survey, honest = survey_cache.kept(stamp), OrderedReader.seek

    def refusing(reader, ticks):
        raise av.PermissionError(1, "no seeking here")

    elsewhere = [lambda reader, ticks: honest(reader, ticks + 25 * 512), lambda reader, ticks: honest(reader, 0)]
    for seek in (*elsewhere, lambda reader, ticks: None, refusing):
        monkeypatch.setattr(OrderedReader, "seek", seek)
        assert np.array_equal(read_seeking(films / "a.mp4", INDICES), true)
        assert survey_cache.kept(stamp) is survey  # all packets are as it says


def test_a_file_that_changed_is_read_anew(films, cache, tmp_path):
    path = tmp_path / "film.mp4"
    shutil.copy(films / "a.mp4", path)
    os.utime(path, (SETTLED, SETTLED))
    assert estimate(path).num_frames == 300
    shutil.copy(films / "edit_list.mp4", path)
    os.utime(path, (SETTLED, SETTLED))  # even where it has the old time
    for _ in range(2):
        assert estimate(path) == estimate(films / "edit_list.mp4")
        assert np.array_equal(read_frames(path, [100]), read_frames(films / "edit_list.mp4", [100], backend="pyav"))
        forget()
    names = {survey_cache._name(survey_cache.stamped(p)) for p in (path, films / "edit_list.mp4")}
    assert {file.name for file in cache.iterdir()} == names


def test_a_file_of_the_same_size_and_time_is_another(films, cache, tmp_path):
    path, whole = tmp_path / "film.ts", (films / "a.ts").read_bytes()
    path.write_bytes(whole)
    os.utime(path, (SETTLED, SETTLED))
    assert estimate(path).num_frames == 300
    half = len(whole) // 188 // 2
    path.write_bytes(whole[: 188 * half] + b"\x47\x1f\xff\x10".ljust(188, b"\xff") * (len(whole) // 188 - half))
    os.utime(path, (SETTLED, SETTLED))
    assert path.stat().st_size == len(whole)
    assert 100 < estimate(path).num_frames < 200


def test_a_file_that_is_still_written_is_not_kept(films, cache, tmp_path):
    path = tmp_path / "film.mp4"
    shutil.copy(films / "a.mp4", path)
    read_frames(path, INDICES)
    assert time.time() - path.stat().st_mtime > 2 or not cache.exists()


def test_a_pass_that_an_error_ends_is_not_kept(films, cache, monkeypatch):
    """It may have been a network drive's, and pass."""
    honest = OrderedReader.packets

    def failing(reader):
        yield from islice(honest(reader), 100)
        reader.damaged = "reading stopped early: Input/output error"

    monkeypatch.setattr(OrderedReader, "packets", failing)
    assert estimate(films / "a.mp4").num_frames < 105
    assert not cache.exists()
    monkeypatch.undo()
    assert estimate(films / "a.mp4").num_frames == 300


def test_without_a_folder_that_can_be_written(films, cache, monkeypatch, tmp_path):
    true = read_frames(films / "a.mp4", INDICES, backend="pyav")
    (tmp_path / "file").touch()
    for folder in ("/proc/nowhere", tmp_path / "file", "/dev/full", ""):
        monkeypatch.setenv("VIDEOFIB_CACHE_DIR", str(folder))
        forget()
        assert np.array_equal(read_frames(films / "a.mp4", INDICES), true)
    assert not cache.exists()


def test_where_the_folder_lies(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert survey_cache.cache_folder() is None  # conftest turns it off
    monkeypatch.delenv("VIDEOFIB_CACHE_DIR")
    assert survey_cache.cache_folder() == Path("/x/videofib/packets")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, as XDG says
    assert survey_cache.cache_folder() == Path.home() / ".cache/videofib/packets"
    monkeypatch.setenv("VIDEOFIB_CACHE_DIR", "/y")
    assert survey_cache.cache_folder() == Path("/y/packets")


def test_the_folder_does_not_grow_beyond_its_limit(films, cache, monkeypatch):
    for name in ("a.mp4", "a.mkv"):
        estimate(films / name)
    first, second = (cache / survey_cache._name(survey_cache.stamped(films / name)) for name in ("a.mp4", "a.mkv"))
    os.utime(second, (SETTLED, SETTLED))
    forget()
    estimate(films / "a.mkv")  # used last
    os.utime(first, (SETTLED, SETTLED))
    monkeypatch.setattr(survey_cache, "_MOST_BYTES", int(2.5 * first.stat().st_size))
    estimate(films / "a.ts")
    assert not first.exists()
    assert second.exists()
    assert len(list(cache.iterdir())) == 2


READ_MANY = """
import sys
from videofib.data.video import survey_cache
from videofib.data.video.decode import estimate, read_frames
survey_cache._LONG_BYTES = 0
for _ in range(10):
    survey_cache._slot.cache_clear()
    if sys.argv[2] == "damage":
        for file in survey_cache.cache_folder().glob("[!.]*"):
            file.write_bytes(file.read_bytes()[:-8])
    print(estimate(sys.argv[1]).num_frames, read_frames(sys.argv[1], [3, 231]).sum())
"""


def test_processes_share_a_folder(films, cache):
    """Four read, and two of them damage the kept survey over and over."""
    command = [sys.executable, "-c", READ_MANY, str(films / "a.mp4")]
    processes = [
        subprocess.Popen([*command, role], stdout=subprocess.PIPE, text=True) for role in ("read", "damage") * 2
    ]
    expected = f"300 {read_frames(films / 'a.mp4', [3, 231], backend='pyav').sum()}"
    for process in processes:
        assert set(process.communicate()[0].splitlines()) == {expected}
        assert process.returncode == 0
    assert len(list(cache.glob("[!.]*"))) == 1
    assert not list(cache.glob(".*"))
