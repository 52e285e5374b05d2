"""Clips of frame folders and of pictures: those of the video itself, in training and testing."""

import numpy as np
import pytest
from PIL import Image

from tests.data.video.test_stills import extract
from videofib.data.clips.dataset import ClipDataset, ClipSpec, ViewDataset
from videofib.data.clips.transforms import TrainTransform, ViewTransform
from videofib.data.clips.windows import WindowReader
from videofib.data.lists.record import VideoRecord
from videofib.data.source import FrameFiles

PIXELS = {"mean": [0.45] * 3, "std": [0.225] * 3}
TRAIN = TrainTransform(64, [72, 90], flip=True, augment="rand-m7-n2", erase_prob=0.5, **PIXELS)
VIEWS = ViewTransform(64, 64, 3, **PIXELS)
VIDEO = "hostile/codec_h264.mp4"


@pytest.fixture(scope="module")
def both(shared_data, tmp_path_factory):
    """A video, the folder of its frames, and how many there are."""
    folder = tmp_path_factory.mktemp("clips") / "video"
    frames = extract(shared_data / VIDEO, folder)
    (folder / "flow_x_00001.jpg").write_bytes(b"another series")
    return shared_data / VIDEO, folder, len(frames)


def spec(fps, **options):
    return ClipSpec(4, 5, 30, frame_files=FrameFiles("img_%05d.png", fps), **options)


@pytest.mark.parametrize("sampling", ["dense", "uniform"])
def test_samples_of_a_folder_are_those_of_its_video(both, sampling):
    video, folder, count = both
    known = VideoRecord(str(video), 3, "v", count, 25.0)
    for record in (VideoRecord(str(folder), 3, "v"), VideoRecord(str(folder), 3, "v", num_frames=count)):
        options = spec(25.0, sampling=sampling)
        for epoch in range(3):
            one, other = (ClipDataset([r], options, TRAIN, num_views=2)[epoch, 0] for r in (known, record))
            assert not other["failures"]
            assert np.array_equal(one["views"], other["views"])
        one, other = (ViewDataset([r], options, VIEWS, 3)[0] for r in (known, record))
        assert np.array_equal(one["views"], other["views"])


def test_without_a_rate_pictures_are_counted_at_the_target_rate(both):
    _, folder, count = both
    drawn = []

    class Recorded(ClipSpec):
        def train_clips(self, length, fps, number, rng):
            drawn.append((length, fps))
            return super().train_clips(length, fps, number, rng)

    options = Recorded(4, 5, 30, frame_files=FrameFiles("img_%05d.png"))
    assert not ClipDataset([VideoRecord(str(folder), 0, "v")], options, TRAIN)[0, 0]["failures"]
    assert drawn == [(count, 30)]


def test_a_row_with_too_many_frames_is_a_failure_that_names_it(both):
    _, folder, count = both
    record = VideoRecord(str(folder), 0, "the row", num_frames=count + 5)
    item = ViewDataset([record], spec(25.0), VIEWS, 1)[0]
    assert item["failures"] == [("the row", f"{folder}: the list gives {count + 5} frames, and the folder has {count}")]


def test_windows_of_a_folder_are_those_of_its_video(both):
    video, folder, _ = both
    one = WindowReader(str(video), spec(25.0), VIEWS)
    other = WindowReader(str(folder), spec(one.fps), VIEWS)
    assert one.spans == other.spans
    for (number, views), (other_number, other_views) in zip(one, other, strict=True):
        assert number == other_number
        assert np.array_equal(views, other_views)


@pytest.mark.parametrize("num_frames", [1, 4])
@pytest.mark.parametrize("starts", ["spread", "published"])
def test_all_clips_of_a_picture_are_its_only_frame(num_frames, starts, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    record = VideoRecord(str(tmp_path / "a.png"), 2, "a.png")
    options = ClipSpec(num_frames, 8, 30, view_starts=starts)
    views = ViewDataset([record], options, VIEWS, 5)[0]["views"].reshape(5, 3, 3, num_frames, 64, 64)
    expected = VIEWS(image[None], [[0]])
    for clip in views:
        for frame in range(num_frames):
            assert np.array_equal(clip[:, :, frame], expected[:, :, 0])


def test_a_picture_is_augmented_as_one_frame(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    record = VideoRecord(str(tmp_path / "a.png"), 2, "a.png")
    boxes = TrainTransform(
        64, [72, 90], flip=True, relative_areas=[0.08, 1], relative_aspects=[0.75, 1.33], augment="augmix", **PIXELS
    )
    drawn = {ClipDataset([record], ClipSpec(1, 1, 30), boxes, num_views=2)[epoch, 0]["views"].sum() for epoch in (0, 1)}
    assert len(drawn) == 2


def test_a_picture_behind_a_url_is_known_by_its_first_bytes(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    for kind in ("png", "bmp", "webp"):
        Image.fromarray(image).save(tmp_path / f"a.{kind}", **({"lossless": True} if kind == "webp" else {}))
        record = VideoRecord(f"file://{tmp_path}/a.{kind}", 0, "v")
        item = ViewDataset([record], ClipSpec(1, 1, 30), VIEWS, 1)[0]
        assert not item["failures"]
        assert np.array_equal(item["views"], VIEWS(image[None], [[0]]))
    (item,) = [ViewDataset([VideoRecord(f"file://{tmp_path}/b.png", 0, "v")], ClipSpec(1, 1, 30), VIEWS, 1)[0]]
    assert f"file://{tmp_path}/b.png: cannot be fetched" in item["failures"][0][1]
