"""Reading frames: everything besides which frames they are (see test_frame_truth.py)."""

import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import features

from tests.pairs import every_pair, every_value
from videofib.data.errors import DecodeError, FrameIndexError
from videofib.data.video import decord_reader
from videofib.data.video.decode import Estimate, estimate, examine, probe, random_access_is_right, read_frames
from videofib.data.video.proof import RANDOM_READS
from videofib.prep.encode import write_video

COUNT = 30


def shades(count, height=48, width=64):
    """Frames of one grey each, all different: frame i has about the value 8 * i."""
    return [np.full((height, width, 3), 8 * i, np.uint8) for i in range(count)]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "shades.mp4"
    write_video(path, shades(COUNT), 25)
    return path


def values(frames):
    return np.round(frames.mean((1, 2, 3)) / 8).astype(int).tolist()


@pytest.mark.parametrize(
    ("backend", "random_access", "indices"),
    every_pair(
        ["auto", "decord", "pyav"],
        [False, True],
        [[0], [29], [3, 1, 2], [5, 5, 5], [29, 0, 29, 14], range(30), np.array([7, 2])],
    ),
)
def test_frames_come_in_the_requested_order(video, backend, random_access, indices):
    frames = read_frames(video, indices, random_access=random_access, backend=backend)
    assert frames.dtype == np.uint8
    assert frames.shape == (len(indices), 48, 64, 3)
    assert values(frames) == list(indices)


@pytest.mark.parametrize("backend", ["auto", "decord", "pyav"])
@pytest.mark.parametrize("random_access", [False, True])
def test_the_error_of_a_frame_beyond_the_end_has_the_number_of_frames(video, backend, random_access):
    with pytest.raises(FrameIndexError, match="frame 30 was requested") as caught:
        read_frames(video, [0, 30], random_access=random_access, backend=backend)
    assert caught.value.num_frames == COUNT
    assert pickle.loads(pickle.dumps(caught.value)).num_frames == COUNT  # as it travels between processes


@pytest.mark.parametrize(
    ("indices", "options", "message"),
    [
        ([], {}, "at least one"),
        ([-1], {}, "-1"),
        ([0], {"backend": "gpu"}, "'gpu'"),
        ([0], {"short_side": -8}, "short_side must be 0 or above, got -8"),
    ],
)
def test_bad_arguments_are_refused(video, indices, options, message):
    with pytest.raises(ValueError, match=message):
        read_frames(video, indices, **options)


def test_probe_finds_what_was_written(video):
    info = probe(video)
    assert (info.num_frames, info.width, info.height, info.codec, info.rotation) == (COUNT, 64, 48, "h264", 0)
    assert (info.fps, info.duration, info.damaged) == (pytest.approx(25), pytest.approx(1.2), "")
    assert estimate(video) == Estimate(COUNT, pytest.approx(25))


@pytest.mark.parametrize("width", [16, 32, 48, 62, 64, 96, 98, 160])
def test_decord_reads_every_width(tmp_path, width):
    # decord pads rows of some widths and then reports 4, 6 or 12 channels
    frame = np.zeros((20, width, 3), np.uint8)
    frame[:, : width // 2] = 200, 60, 30
    write_video(tmp_path / "a.mp4", [frame] * 14, 25)
    assert random_access_is_right(tmp_path / "a.mp4")
    seeking = read_frames(tmp_path / "a.mp4", [13, 2], random_access=True, backend="decord")
    assert np.abs(seeking.astype(int) - read_frames(tmp_path / "a.mp4", [13, 2], backend="pyav")).max() <= 1


def test_decord_in_order_returns_the_true_frames(shared_data):
    placeholder = "samples/ucf101/BaseballPitch/v_BaseballPitch_g01_c03.avi"
    names = ["misseek/h264_in_avi_v_Lunges_g02_c01.avi", "bframes_open_gop.mp4", "bitflips.avi"]
    for path in [shared_data / placeholder, *(shared_data / "hostile" / name for name in names)]:
        indices = range(0, probe(path).num_frames, 7)
        true = read_frames(path, indices, backend="pyav").astype(int)
        assert np.abs(read_frames(path, indices, backend="decord") - true).max() <= 1, path


def test_proof_fails_where_decord_returns_other_frames(video, monkeypatch):
    assert random_access_is_right(video)
    honest = decord_reader.SeekingReader.read

    def one_off_after_the_second_keyframe(reader, indices, short_side=0):
        return honest(reader, [i + 1 if 12 < i < 23 else i for i in indices], short_side)

    monkeypatch.setattr(decord_reader.SeekingReader, "read", one_off_after_the_second_keyframe)
    assert not random_access_is_right(video)


def test_proof_fails_for_files_known_to_be_read_wrong(shared_data):
    for path in sorted((shared_data / "hostile/misseek").glob("*.avi")):
        assert not random_access_is_right(path), path


def test_proof_does_not_depend_on_the_frames_that_are_drawn(video, shared_data):
    # of MPEG-2 streams decord returns others for the last frames of a group if it seeks to them, not if it decodes on
    mpeg2 = shared_data / "hostile/codec_mpeg2.mpg"
    for random_reads in (0, 1, RANDOM_READS):
        found = {
            path: {examine(path, random_reads=random_reads, seed=seed).random_access for seed in range(8)}
            for path in (video, mpeg2)
        }
        assert found == {video: {True}, mpeg2: {False}}


def test_a_proven_file_that_was_replaced_is_still_read_right(video, shared_data, tmp_path):
    # decord alone would return wrong frames, or fail; this file it cannot open at all
    shutil.copy(shared_data / "hostile/codec_h264.ts", tmp_path / "a.mp4")
    assert read_frames(tmp_path / "a.mp4", [3, 30], random_access=True).shape == (2, 120, 160, 3)


def test_files_that_break_midway_are_read_up_to_the_break(shared_data):
    for name, count in {"truncated_faststart.mp4": 32, "native_corrupted.mp4": 28, "bitflips_mdat.mp4": 2}.items():
        path = shared_data / "hostile" / name
        info = probe(path)
        assert info.num_frames == count
        assert info.damaged.startswith(f"decoding stopped after {count} frames: ")
        assert len(read_frames(path, [0, count - 1])) == 2
        with pytest.raises(FrameIndexError, match="decoding stopped") as caught:
            read_frames(path, [0, count])
        assert caught.value.num_frames == count
        assert not random_access_is_right(path)


@pytest.mark.parametrize(
    ("name", "rotation", "size"),
    [("rotated_90.mp4", 270, (160, 120)), ("rotated_180.mp4", 180, (120, 160)), ("rotated_270.mp4", 90, (160, 120))],
)
def test_rotation_is_applied(shared_data, name, rotation, size):
    path = shared_data / "hostile" / name
    upright = read_frames(shared_data / "hostile/codec_h264.mp4", [0, 9])  # the same video, without the rotation
    turned = read_frames(path, [0, 9])
    info = probe(path)
    assert (info.rotation, (info.height, info.width)) == (rotation, size)
    assert np.array_equal(turned, np.rot90(upright, rotation // 90, axes=(1, 2)))


@pytest.mark.parametrize("backend", ["auto", "pyav", "decord"])
def test_frames_come_scaled_down_to_a_short_side(shared_data, backend):
    for name, shape, scaled in [
        ("samples/kinetics/mmaction2_demo_arm_wrestling.mp4", (256, 426), (112, 186)),  # 340 pixels of 64:51
        ("hostile/rotated_90.mp4", (160, 120), (149, 112)),
        ("hostile/tall_32x480.mp4", (480, 32), (240, 16)),
    ]:
        path, short_side = shared_data / name, 16 if "tall" in name else 112
        full = read_frames(path, [1, 9], backend=backend)
        height, width = full.shape[1:3]
        assert (height, width) == shape
        frames = read_frames(path, [1, 9], backend=backend, short_side=short_side)
        assert frames.shape[1:3] == scaled
        # the same picture, as another library scales it
        smooth = torch.nn.functional.interpolate(
            torch.from_numpy(full).permute(0, 3, 1, 2).float(), frames.shape[1:3], mode="bicubic", antialias=True
        )
        assert np.abs(frames - smooth.clamp(0, 255).permute(0, 2, 3, 1).numpy()).mean() < 2
        for large in (min(height, width), 4000):  # never enlarged
            assert np.array_equal(read_frames(path, [1, 9], backend=backend, short_side=large), full)


def test_frames_of_a_video_that_changes_size_all_have_its_first_size(shared_data):
    path = shared_data / "hostile/resolution_change.ts"
    assert read_frames(path, [31]).shape == read_frames(path, [0]).shape == (1, 120, 160, 3)


def test_rates_that_containers_misstate_are_measured(shared_data):
    hostile = shared_data / "hostile"
    assert probe(hostile / "vfr_ms.mkv").fps == pytest.approx(17.2, abs=0.3)  # stated: 30
    assert probe(hostile / "vfr_ms.mp4").fps == pytest.approx(17.2, abs=0.3)
    assert probe(hostile / "fps_ntsc_film.mp4").fps == pytest.approx(24000 / 1001)
    assert probe(hostile / "fps_1.mp4").fps == pytest.approx(1)


NOT_VIDEOS = [  # how the file is made, and the reason that the error gives
    (lambda path: None, "no such file"),
    (lambda path: path.mkdir(), "a directory"),
    (lambda path: path.touch(), "the file is empty"),
    (lambda path: path.write_text("<html>404</html>" * 40), "cannot be opened|not a video|not a picture"),
    (
        lambda path: path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(200)),
        "cannot be opened|not a video|not a picture",
    ),
    (
        lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://localhost/a.ts\n"),
        "cannot be opened|not a video|not a picture",
    ),
]


@pytest.mark.parametrize(("file", "name"), every_value(NOT_VIDEOS, ["a.mp4", "a.txt", "a.m3u8", "file:a.mp4", "a.jpg"]))
def test_what_is_not_a_video_is_refused_with_a_reason(tmp_path, file, name):
    make, reason = file
    make(tmp_path / name)
    for read in (probe, estimate, random_access_is_right, lambda path: read_frames(path, [0])):
        with pytest.raises(DecodeError, match=reason) as caught:
            read(tmp_path / name)
        assert name in str(caught.value)


def test_pictures_by_the_name_of_videos_and_text_are_not_videos(tmp_path):
    from PIL import Image

    for name, kind in (("jpeg_as.mp4", "JPEG"), ("png_as.avi", "PNG")):
        Image.new("RGB", (64, 48)).save(tmp_path / name, format=kind)
        with pytest.raises(DecodeError, match="not a video"):
            probe(tmp_path / name)
    (tmp_path / "notes.txt").write_text("plain text\n" * 200)  # FFmpeg would decode it as a video of letters
    with pytest.raises(DecodeError, match=r"not a video|cannot be opened"):
        probe(tmp_path / "notes.txt")


needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow cannot write AVIF")


@needs_avif
def test_a_still_in_the_container_of_videos_is_not_a_video_and_an_animation_in_it_is(tmp_path):
    from PIL import Image

    still, animation = tmp_path / "still.avif", tmp_path / "animation.avif"
    pictures = [Image.new("RGB", (64, 48), (shade, 0, 0)) for shade in (0, 120, 240)]
    pictures[0].save(still)
    pictures[0].save(animation, save_all=True, append_images=pictures[1:], duration=100)
    still.rename(renamed := tmp_path / "still.mp4")
    for read in (probe, estimate, random_access_is_right, lambda path: read_frames(path, [0])):
        with pytest.raises(DecodeError, match=r"still\.mp4: not a video but a picture \(avif\)"):
            read(renamed)
    assert probe(animation).num_frames == 3


@needs_avif
@pytest.mark.parametrize("brand", ["heic", "heix", "mif1"])
def test_a_picture_of_a_phone_is_not_a_video(brand, tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 48)).save(tmp_path / "phone.heic", format="AVIF")
    content = (tmp_path / "phone.heic").read_bytes()
    assert content[4:12] == b"ftypavif"  # the brand that the file begins with says what kind of picture it is
    (tmp_path / "phone.heic").write_bytes(content[:8] + brand.encode() + content[12:])
    with pytest.raises(DecodeError, match=rf"not a video but a picture \({brand}\)"):
        probe(tmp_path / "phone.heic")


def test_names_that_look_like_protocols_are_files(video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(video, tmp_path / "http:a.mp4")
    assert probe("http:a.mp4").num_frames == COUNT


def test_torch_works_in_a_process_that_has_read_a_video_first(video):
    """decord2 before torch makes linear layers crash where torch's CUDA libraries are installed."""
    script = (
        "import sys; from videofib.data.video.decode import read_frames;"
        "read_frames(sys.argv[1], [3], random_access=True);"
        "import torch; print(torch.nn.Linear(24, 72)(torch.ones(2, 11, 24)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(video)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert "[2, 11, 72]" in done.stdout
