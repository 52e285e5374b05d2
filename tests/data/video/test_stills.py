"""Folders of frames: the frames of the videos that they were extracted from, and what may be wrong with them."""

import shutil

import numpy as np
import pytest
from PIL import Image

from videofib.data.errors import DecodeError, FrameIndexError, TooLargeError
from videofib.data.source import FrameFiles, FrameFolder
from videofib.data.video.decode import estimate, examine, probe, read_frames
from videofib.data.video.stills import open_any, stills

VIDEOS = ("samples/ucf101/BaseballPitch/v_BaseballPitch_g01_c03.avi", "hostile/codec_h264.mp4")


def extract(video, folder, pattern="img_{:05d}.png", first=1, **options):
    """Write the frames of a video as pictures; returns them (T, H, W, 3)."""
    folder.mkdir(parents=True)
    count = probe(video).num_frames
    frames = read_frames(video, range(count), backend="pyav")
    for number, frame in enumerate(frames, start=first):
        Image.fromarray(frame).save(folder / pattern.format(number), **options)
    return frames


@pytest.fixture(scope="module")
def extracted(shared_data, tmp_path_factory):
    """(video, its frames, a folder of them as PNG, a folder of them as JPEG) of each video."""
    base = tmp_path_factory.mktemp("frames")
    found = []
    for number, name in enumerate(VIDEOS):
        frames = extract(shared_data / name, base / f"png{number}")
        extract(shared_data / name, base / f"jpg{number}", "frame{:d}.jpg", first=0, quality=95, subsampling=0)
        found.append((shared_data / name, frames, base / f"png{number}", base / f"jpg{number}"))
    return found


def test_frames_are_those_of_the_video(extracted):
    for video, frames, png, jpg in extracted:
        count = len(frames)
        indices = [count - 1, 0, count // 2, 3, 3, count // 3]
        expected = read_frames(video, indices)
        assert np.array_equal(read_frames(png, indices), expected)
        difference = np.abs(read_frames(jpg, indices).astype(int) - expected)
        assert difference.mean() < 2
        assert difference.mean() < np.abs(expected[:1].astype(int) - expected[1:2]).mean() / 2  # than another frame
        assert estimate(png).num_frames == estimate(jpg).num_frames == count


def test_every_frame_is_the_one_of_its_number(tmp_path):
    (tmp_path / "v").mkdir()
    for number in range(200):
        Image.new("RGB", (16, 12), (number, 0, 0)).save(tmp_path / f"v/{number + 1}.png")
    read = read_frames(tmp_path / "v", range(200))
    assert read[:, 0, 0, 0].tolist() == list(range(200))


def test_scaled_reads_scale_as_rgb_frames_are(extracted):
    _, frames, png, _ = extracted[0]
    scaled = read_frames(png, [0, 5], short_side=64)
    assert scaled.shape == (2, 64, 85, 3)
    (image,) = read_frames(png, [5], short_side=64)
    assert np.array_equal(scaled[1], image)
    small = np.asarray(Image.fromarray(frames[5]).resize((85, 64), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(image.astype(int) - small).mean() < 2


def test_facts(extracted):
    _, frames, png, jpg = extracted[1]
    info = probe(FrameFolder(str(png), FrameFiles(fps=25.0)))
    assert (info.num_frames, info.fps, info.codec) == (len(frames), 25.0, "png")
    assert (info.height, info.width) == frames.shape[1:3]
    assert info.duration == pytest.approx(len(frames) / 25)
    assert probe(jpg).codec == "jpeg"
    assert np.array_equal(examine(png).middle, frames[len(frames) // 2])
    with open_any(png) as reader:
        assert all(np.array_equal(reader.to_rgb(a), b) for a, b in zip(reader.frames(), frames, strict=True))
        assert reader.size == frames.shape[1:3]


def test_an_index_beyond_the_last_frame_says_how_many_there_are(extracted):
    _, frames, png, _ = extracted[0]
    with pytest.raises(FrameIndexError, match=f"but {len(frames)} frames are there") as caught:
        read_frames(png, [0, len(frames)])
    assert caught.value.num_frames == len(frames)


def test_a_list_may_give_fewer_frames_but_not_more(extracted):
    _, frames, png, _ = extracted[0]
    assert estimate(FrameFolder(str(png), num_frames=7)).num_frames == 7
    with pytest.raises(FrameIndexError):
        read_frames(FrameFolder(str(png), num_frames=7), [7])
    with pytest.raises(DecodeError, match=f"the list gives {len(frames) + 1} frames, and the folder has {len(frames)}"):
        read_frames(FrameFolder(str(png), num_frames=len(frames) + 1), [0])


def test_a_damaged_frame_is_named(extracted, tmp_path):
    shutil.copytree(extracted[0][2], tmp_path / "v")
    damaged = tmp_path / "v/img_00004.png"
    damaged.write_bytes(damaged.read_bytes()[:3000])
    assert len(read_frames(tmp_path / "v", [0, 1, 2, 4])) == 4
    for read in (probe, lambda path: read_frames(path, [2, 3])):
        with pytest.raises(DecodeError, match=r"img_00004\.png: the picture does not decode: .*truncated"):
            read(tmp_path / "v")


@pytest.mark.parametrize("indices", [[0, 3], [3], [2, 3]])
def test_pictures_of_different_sizes_are_an_error_whichever_are_read(indices, tmp_path):
    (tmp_path / "v").mkdir()
    for number in range(4):
        Image.new("RGB", (64, 48) if number < 3 else (48, 64)).save(tmp_path / f"v/{number}.png")
    assert read_frames(tmp_path / "v", [0, 2]).shape == (2, 48, 64, 3)
    with pytest.raises(DecodeError, match=r"different sizes: [02]\.png has 64x48, 3\.png 48x64"):
        read_frames(tmp_path / "v", indices)
    with pytest.raises(DecodeError, match="different sizes"):
        probe(tmp_path / "v")


def test_pictures_that_only_some_marks_turn_are_of_different_sizes(tmp_path):
    (tmp_path / "v").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(3):
        Image.new("RGB", (64, 48)).save(tmp_path / f"v/{number}.png", **({"exif": exif} if number == 1 else {}))
    for read in (probe, lambda path: read_frames(path, [0, 1])):
        with pytest.raises(DecodeError, match=r"0\.png has 64x48, 1\.png 48x64"):
            read(tmp_path / "v")


def test_frames_that_take_too_much_memory_are_refused(extracted):
    _, frames, png, _ = extracted[0]
    with pytest.raises(TooLargeError, match=r"DATA\.READ_SHORT_SIDE"):
        read_frames(png, [0, 1], most_bytes=frames[0].nbytes)
    assert len(read_frames(png, [0], most_bytes=frames[0].nbytes)) == 1


def test_a_file_is_no_folder(shared_data):
    assert stills(shared_data / VIDEOS[0]) is None
    with open_any(shared_data / VIDEOS[0]) as reader:
        assert reader.to_rgb(next(reader.frames())).shape == (240, 320, 3)
