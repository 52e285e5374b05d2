"""Prepared, resampled and copied files show the picture that a marked source shows."""

import os
import shutil
import subprocess
from collections import Counter

import av
import numpy as np
import pytest

from tests.commands import call
from tests.marked_videos import COUNT, MARKS, marked, plain_frames, write_plain
from videofib.commands.prep import main
from videofib.data.clips.dataset import ClipSpec, ViewDataset
from videofib.data.clips.transforms import ViewTransform
from videofib.data.lists.manifest import read_manifest
from videofib.data.lists.shard_index import read_shards
from videofib.data.lists.splits import load_split
from videofib.data.video.decode import examine, probe, random_access_is_right, read_frames
from videofib.data.video.pyav_reader import OrderedReader
from videofib.prep.afterwards import shards
from videofib.prep.transcode import Encoding, transcode

PIXELS = {"mean": [0.0] * 3, "std": [1 / 255] * 3}  # normalised values are the pixels' own
EVERY_FRAME = ClipSpec(num_frames=COUNT, sampling_rate=1, target_fps=25)
VIEW = ViewTransform(64, 64, 3, **PIXELS)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_plain(tmp_path_factory.mktemp("plain") / "a.mp4")


def furthest(frames, expected):
    """The largest mean difference of a frame from the expected one, of 255."""
    assert frames.shape == expected.shape
    return np.abs(frames.astype(int) - expected).mean((1, 2, 3)).max()


def views(frames):
    """All views of all frames in order, (V, C, T, H, W)."""
    return VIEW(np.ascontiguousarray(frames), [range(COUNT)]).numpy()


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("fps", [0.0, 12.5])
def test_a_prepared_file_has_the_picture_that_is_shown(plain, tmp_path, mark, fps):
    path, shown = marked(plain, tmp_path, mark, even=True)
    facts = transcode(path, tmp_path / "o.mp4", Encoding(short_side=0, crf=1, fps=fps))
    assert (facts.height, facts.width, facts.rotation, facts.mirrored) == (*shown.shape[1:3], 0, False)
    assert facts.random_access
    expected = shown[1::2] if fps else shown  # halfway through an output frame the second of two begins
    assert furthest(read_frames(tmp_path / "o.mp4", range(facts.num_frames)), expected) < 6
    assert furthest(plain_frames(tmp_path / "o.mp4"), expected) < 6  # without any mark


@pytest.mark.parametrize("mark", MARKS)
def test_a_copied_file_shows_the_same_in_a_data_set_and_in_shards(plain, tmp_path, mark):
    path, shown = marked(plain, tmp_path, mark)
    words = ["folder", "--videos", path.parents[1], "--out", tmp_path / "out", "--codec", "copy", "--jobs", "1"]
    call(main, words, check=True)
    (row,) = read_manifest(tmp_path / "out/manifest.parquet")
    assert (tmp_path / "out" / row.path).read_bytes() == path.read_bytes()
    assert (row.height, row.width) == shown.shape[1:3]
    assert row.random_access == (mark == "as stored")
    shards.main([str(tmp_path / "out"), "--out", str(tmp_path / "shards")])
    for records in (load_split(tmp_path / "out", "train"), read_shards(tmp_path / "shards", "train")):
        item = ViewDataset(records, EVERY_FRAME, VIEW, 1)[0]
        assert np.abs(item["views"].numpy() - views(shown)).max() <= 1


def planes(path):
    """The stored pixels of all frames, not converted."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray() for frame in container.decode(video=0)])


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg is not installed")
def test_plain_pixels_are_encoded_as_they_are_and_marked_ones_are_converted(plain, tmp_path):
    lossless = Encoding(short_side=0, crf=0)
    transcode(plain, tmp_path / "o.mp4", lossless)
    assert np.array_equal(planes(tmp_path / "o.mp4"), planes(plain))
    # H.264's matrix_coefficients and video_full_range_flag; 1: BT.709, 5 and 6: BT.601
    for matrix, full_range, is_plain in [(5, 0, True), (6, 0, True), (1, 0, False), (5, 1, False)]:
        marked_file = tmp_path / f"{matrix}{full_range}.mp4"
        marks = f"h264_metadata=matrix_coefficients={matrix}:video_full_range_flag={full_range}"
        command = ["ffmpeg", "-v", "error", "-i", plain, "-c", "copy", "-bsf:v", marks, marked_file]
        subprocess.run(command, check=True)
        transcode(marked_file, tmp_path / "o.mp4", lossless)
        expected = read_frames(marked_file, range(COUNT))
        assert furthest(read_frames(tmp_path / "o.mp4", range(COUNT)), expected) < 4, marks
        assert np.array_equal(planes(tmp_path / "o.mp4"), planes(plain)) == is_plain, marks


@pytest.mark.parametrize("codec", ["h264", "copy"])
def test_what_is_written_is_decoded_in_order_once(plain, tmp_path, monkeypatch, codec):
    decoded = Counter()
    honest = OrderedReader.frames

    def counted(reader):
        for frame in honest(reader):
            decoded[reader.path] += 1
            yield frame

    monkeypatch.setattr(OrderedReader, "frames", counted)
    facts = transcode(plain, tmp_path / "o.mp4", Encoding(codec=codec))
    assert facts.random_access
    assert decoded[str(tmp_path / "o.mp4")] == facts.num_frames == COUNT
    assert decoded[str(plain)] == (COUNT if codec == "h264" else 0)


def test_one_decode_shows_what_separate_ones_show(plain, shared_data):
    hostile = [
        shared_data / "hostile" / name for name in ("bframes_open_gop.mp4", "truncated_faststart.mp4", "vfr_ms.mkv")
    ]
    for path in (plain, *hostile):
        found = examine(path)
        assert found.info == probe(path)
        assert found.random_access == random_access_is_right(path)
        (middle,) = read_frames(path, [found.info.num_frames // 2], backend="pyav")
        assert np.array_equal(found.middle, middle)


def test_a_copy_is_proven_by_its_own_name(plain, tmp_path):
    odd = tmp_path / os.fsdecode(b"\xe9")
    odd.mkdir()
    (odd / "a.mp4").write_bytes(plain.read_bytes())
    assert transcode(odd / "a.mp4", tmp_path / "o.mp4", Encoding(codec="copy")).random_access
    assert not transcode(plain, odd / "o.mp4", Encoding(codec="copy")).random_access
