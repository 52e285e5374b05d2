"""Training and evaluation see the picture that a marked file shows, whatever the backend."""

import numpy as np
import pytest

from tests.marked_videos import COUNT, MARKS, marked, write_plain
from videofib.data.clips.dataset import ClipDataset, ClipSpec, ViewDataset
from videofib.data.clips.transforms import TrainTransform, ViewTransform
from videofib.data.lists.record import VideoRecord

PIXELS = {"mean": [0.0] * 3, "std": [1 / 255] * 3}  # normalised values are the pixels' own
EVERY_FRAME = ClipSpec(num_frames=COUNT, sampling_rate=1, target_fps=25)
VIEW = ViewTransform(64, 64, 3, **PIXELS)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_plain(tmp_path_factory.mktemp("plain") / "a.mp4")


def views(frames):
    """All views of all frames in order, (V, C, T, H, W)."""
    return VIEW(np.ascontiguousarray(frames), [range(COUNT)]).numpy()


@pytest.mark.parametrize("mark", MARKS)
def test_a_data_set_reads_the_picture_that_is_shown(plain, tmp_path, mark):
    path, shown = marked(plain, tmp_path, mark)
    known = VideoRecord(str(path), 0, "v", COUNT, 25.0, random_access=True)  # as an earlier version may have proved it
    for record, backend in ((VideoRecord(str(path), 0, "v"), "pyav"), (known, "auto"), (known, "decord")):
        spec = ClipSpec(num_frames=COUNT, sampling_rate=1, target_fps=25, backend=backend)
        item = ViewDataset([record], spec, VIEW, 1)[0]
        assert not item["failures"]
        assert np.abs(item["views"].numpy() - views(shown)).max() <= 1
    # a training view: somewhere in the picture a square of its height or, where it is taller than wide, of its width
    side = min(shown.shape[1:3])
    train = TrainTransform(side, [side, side], flip=False, **PIXELS)
    (view,) = ClipDataset([known], EVERY_FRAME, train)[0, 0]["views"].permute(0, 2, 3, 4, 1).numpy()
    starts = [range(length - side + 1) for length in shown.shape[1:3]]
    crops = (shown[:, y : y + side, x : x + side] for y in starts[0] for x in starts[1])
    assert min(np.abs(view[0] - crop[0]).max() for crop in crops) <= 1
