"""Training and test items of files whose clocks jump or whose edit lists cut frames away: the frames at even times."""

import numpy as np
import pytest

from tests.clocks import edited, jumping, numbers, phone, shown
from videofib.data.clips.dataset import ClipDataset, ClipSpec, ViewDataset
from videofib.data.clips.transforms import TrainTransform, ViewTransform
from videofib.data.lists.record import VideoRecord

PIXELS = {"mean": [0.0] * 3, "std": [1 / 255] * 3}  # normalised values are the pixels' own
CENTRE = ViewTransform(32, 32, 1, **PIXELS)
RANDOM = TrainTransform(32, [32, 32], flip=False, **PIXELS)
EVERY_OTHER = ClipSpec(num_frames=4, sampling_rate=2, target_fps=25)  # at 25 fps 4 of 8 frames in a row


def views(item):
    """The numbers that each view of an item shows."""
    assert item["failures"] == []
    return [numbers(view.permute(1, 2, 3, 0).numpy()) for view in item["views"]]


def expected_views(count):
    """Of three clips spread over ``count`` frames: 4 evenly spaced ones of 8, at the start, the middle and the end."""
    starts = (0, (count - 8) / 2, count - 8)
    return [[int(start + k * 7 / 3 + 1e-6) for k in range(4)] for start in starts]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clocks")


def check(path, expected):
    record = VideoRecord(str(path), 0, path.name)
    item = ViewDataset([record], EVERY_OTHER, CENTRE, num_clips=3)[0]
    assert views(item) == [[expected[i] for i in clip] for clip in expected_views(len(expected))], path.name
    training = ClipDataset([record], EVERY_OTHER, RANDOM, num_views=4)
    starts = [s / 3 for s in range(3 * (len(expected) - 8) + 1)]  # a random start is anywhere between two frames
    possible = [[expected[int(start + k * 7 / 3 + 1e-6)] for k in range(4)] for start in starts]
    assert all(clip in possible for clip in views(training[0, 0])), path.name
    uniform = ClipSpec(5, 1, 25, sampling="uniform")
    (clip,) = views(ViewDataset([record], uniform, CENTRE, num_clips=1)[0])
    assert clip == [expected[int((k + 0.5) * len(expected) / 5)] for k in range(5)], path.name


def test_clips_go_on_where_the_clock_jumps(folder):
    for path, _ in jumping(folder).values():
        check(path, range(60))


def test_clips_are_of_the_frames_that_an_edit_list_shows(folder):
    for path, expected, _ in edited(folder).values():
        check(path, expected)


def test_clips_of_a_trimmed_variable_rate_follow_its_clock(folder):
    path = phone(folder)
    frames = shown(path)
    times = np.array([time for time, _ in frames])
    record = VideoRecord(str(path), 0, path.name)
    spec = ClipSpec(8, 1, 25, sampling="uniform")
    (clip,) = views(ViewDataset([record], spec, CENTRE, num_clips=1)[0])
    # the middles of 8 equal parts of the time, to within the time of one frame at the average rate
    step = (times[-1] - times[0]) / (len(times) - 1)
    for part, number in enumerate(clip):
        middle = times[0] + (part + 0.5) / 8 * len(times) * step
        near = {
            frames[np.searchsorted(times, t, "right") - 1][1] for t in np.arange(middle - step, middle + step, 0.01)
        }
        assert number in near, (part, number, near)
