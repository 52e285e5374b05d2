"""The clips shown are those that a model gets, and a page of hostile names is harmless."""

import random
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from videofib.data.clips.dataset import ClipDataset, ClipSpec, ViewDataset
from videofib.data.clips.transforms import TrainTransform, ViewTransform, cut, normalize, to_tensor
from videofib.data.lists.record import VideoRecord
from videofib.prep.encode import write_video
from videofib.report.browse.clips import BrowsedVideo, Clip, browse, evenly_spaced
from videofib.report.browse.contact_sheet import Row, contact_sheet, outlined
from videofib.report.browse.gallery import class_name, frames_text, write_folder

PIXELS = {"mean": [0.45, 0.4, 0.5], "std": [0.225, 0.2, 0.25]}
SPEC = ClipSpec(num_frames=4, sampling_rate=3, target_fps=25)
HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(1)>\n\u202e\udcff'


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Two videos whose frame i is about 8 * i grey in its left half, of 24 frames, and a text file in between."""
    root = tmp_path_factory.mktemp("videos")
    grey = 8 * np.arange(24, dtype=np.uint8)[:, None, None, None]
    for name in ("a.mp4", "c.mp4"):
        frames = np.zeros((24, 48, 64, 3), np.uint8)
        frames[:, :, :32] = grey
        frames[:, :24, :, 0] += 60
        write_video(root / name, frames, 25)
    (root / "b.mp4").write_text("this is no video\n" * 100)
    return [VideoRecord(str(root / name), label, name) for label, name in enumerate(("a.mp4", "b.mp4", "c.mp4"))]


@pytest.mark.parametrize("sampling", ["dense", "uniform"])
def test_training_clips_are_those_of_the_epochs(records, sampling):
    spec = ClipSpec(num_frames=4, sampling_rate=3, target_fps=25, sampling=sampling)
    transform = TrainTransform(32, [32, 40], flip=True, augment="rand-m9-n2", erase_prob=0.5, **PIXELS)
    dataset = ClipDataset(records, spec, transform, num_views=2, seed=3)
    first, broken, last = browse(dataset, range(3), draws=3)
    assert [clip.title for clip in last.clips][1:3] == ["epoch 1, clip 2 of 2", "epoch 2, clip 1 of 2"]
    for clip, (epoch, view) in zip(last.clips, ((e, v) for e in range(3) for v in range(2)), strict=True):
        pixels = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)
        given = dataset[(epoch, 2)]["views"][view]
        inside = given.abs() < 1.5  # noise that erases goes beyond what a pixel can be
        torch.testing.assert_close(normalize(pixels, **PIXELS)[inside], given[inside], atol=0.02, rtol=0)
    assert len({clip.indices[0] for clip in last.clips}) > 1
    assert (broken.record.video_id, broken.clips) == ("b.mp4", ())
    assert "b.mp4" in broken.reason
    assert first.reason == last.reason == ""


def test_frames_and_boxes_are_those_of_the_clips(records):
    plain = ClipDataset(records, SPEC, TrainTransform(32, [32, 40], flip=True, **PIXELS), seed=1)
    views = ViewDataset(records, SPEC, ViewTransform(32, 40, 3, **PIXELS), num_clips=2)
    (trained,), (tested,) = browse(plain, [0], draws=8), browse(views, [0])
    assert [clip.title for clip in tested.clips][2:4] == ["clip 1 of 2, crop 3 of 3", "clip 2 of 2, crop 1 of 3"]
    assert {clip.mirrored for clip in trained.clips} == {True, False}
    for clip in trained.clips:
        seen = cut(to_tensor(clip.full_frame[None]), clip.box, 32)[0].permute(1, 2, 0).numpy()
        assert np.array_equal(seen[:, ::-1] if clip.mirrored else seen, clip.frames[0])
    for clip in (*trained.clips, *tested.clips):
        assert clip.full_frame[30, 4, 1] == pytest.approx(8 * clip.indices[0], abs=3)
        assert clip.video_length == 24
    left = [clip.box[1] for clip in tested.clips[:3]]
    assert left == sorted(left)
    assert left[0] == 0


def test_clips_that_are_read_one_by_one_are_shown_as_the_others(records):
    """The list states more frames than there are, which only the last clip shows: the first ones are read again."""
    wrong = [replace(records[0], num_frames=29, fps=25.0)]
    apart = replace(SPEC, most_bytes=4 * 48 * 64 * 3)
    transform = ViewTransform(32, 40, 3, **PIXELS)
    (expected,) = browse(ViewDataset(records, SPEC, transform, num_clips=2), [0])
    with pytest.warns(RuntimeWarning, match="24 frames decode, not 29"):
        (found,) = browse(ViewDataset(wrong, apart, transform, num_clips=2), [0])
    assert [clip.indices for clip in found.clips] == [clip.indices for clip in expected.clips]
    assert all(np.array_equal(a.full_frame, b.full_frame) for a, b in zip(found.clips, expected.clips, strict=True))


def test_videos_are_spread_over_the_split():
    assert evenly_spaced(10, 4) == [0, 2, 5, 7]
    assert evenly_spaced(3, 8) == [0, 1, 2]


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_page_of_hostile_names(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    clip = Clip("epoch 1", frames, range(20), 30, frames[0], (4, 0, 16, 20), True)
    record = VideoRecord("a.mp4", 0, HOSTILE)
    videos = [BrowsedVideo(record, [clip] * 31), BrowsedVideo(record, reason=f"{HOSTILE}: unreadable")]
    file = write_folder(tmp_path, videos, title=HOSTILE, notes=[HOSTILE], class_names=[HOSTILE])
    page = Page()
    page.feed(file.read_text(encoding="utf-8"))
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "link"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    # title twice, note, list of unreadable videos; class and name of both videos; reason
    assert page.text.count("<script>alert(1)</script>") == 9
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 3 * 31
    assert all(image["alt"] for image in images)
    links = [a["href"] for tag, a in page.tags if tag == "a" and not a["href"].startswith("#")]
    assert links == ["sheet_1.png", "sheet_2.png"]
    for name in (*links, *(image["src"] for image in images)):
        assert (tmp_path / name).is_file()
    with Image.open(tmp_path / images[0]["src"]) as moving, Image.open(tmp_path / images[1]["src"]) as still:
        assert (moving.n_frames, getattr(still, "n_frames", 1)) == (5, 1)
        assert np.abs(np.asarray(still.convert("RGB"), float).mean() - frames[0].mean()) < 5
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_a_contact_sheet_has_every_picture_at_its_position():
    rng = random.Random(0)
    colors = [[rng.randrange(256) for _ in range(3)] for _ in range(20)]
    pictures = [np.full((128, 128, 3), color, np.uint8) for color in colors]
    sheet = np.asarray(contact_sheet([Row("title", "note", pictures, list("abc")), Row("none", alarm="why " * 200)]))
    corners = [np.argwhere((sheet == color).all(-1)) for color in colors]
    assert [len(pixels) for pixels in corners] == [128 * 128] * 20
    x, y = ([int(pixels[0][axis]) for pixels in corners] for axis in (1, 0))
    assert x[1:9] == x[9:17] == [x[0] + 134 * i for i in range(1, 9)]
    assert (len(set(y[:9])), len(set(y[9:17])), len(set(y[17:]))) == (1, 1, 1)
    assert y[17] > y[9] + 128 > y[0] + 256
    red = (sheet[..., 0] > 150) & (sheet[..., 1] < 50)
    assert red[-60:].any()  # the alarm, on lines of its own


def test_a_box_at_the_border_is_drawn_and_the_frame_left_alone():
    frame = np.full((48, 64, 3), 128, np.uint8)
    for box in ((0, 0, 48, 64), (47, 63, 1, 1), (10, 20, 30, 30)):
        drawn = outlined(frame, box)
        assert drawn.shape == frame.shape
        changed = np.argwhere((drawn != frame).any(-1))
        assert len(changed)
        assert (changed.min(0) >= box[:2]).all()
        assert (changed.max(0) < [box[0] + box[2], box[1] + box[3]]).all()
    assert (frame == 128).all()


def test_texts():
    several = BrowsedVideo(VideoRecord("a.mp4", 2, "a.mp4", labels=(2, 0)))
    assert class_name(several, ["sit", "stand", "walk"]) == "walk, sit"
    assert class_name(several, None) == "class 2, class 0"
    clip = Clip("", *[None] * 5, False)
    assert frames_text(Clip("", None, [3, 7], 95, None, clip.box, False)) == "frames 3 7 of 95"
    assert frames_text(Clip("", None, range(96), 200, None, clip.box, False)) == "frames 0 to 95 (96 frames) of 200"
