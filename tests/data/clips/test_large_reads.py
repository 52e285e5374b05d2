"""Clips whose frames take more memory together than a read may: read one by one, with the same result."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from videofib.data.clips.dataset import ClipDataset, ClipSpec, ViewDataset, read_clips
from videofib.data.clips.transforms import TrainTransform, ViewTransform
from videofib.data.errors import TooLargeError
from videofib.data.lists.record import VideoRecord
from videofib.prep.encode import write_video

PIXELS = {"mean": [0.45] * 3, "std": [0.225] * 3}
SPEC = ClipSpec(num_frames=4, sampling_rate=2, target_fps=25)
CLIP_BYTES = 4 * 48 * 64 * 3
EACH = replace(SPEC, most_bytes=2 * CLIP_BYTES)  # less than three clips of the video have, more than one


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "a.mp4"
    frames = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
    write_video(path, frames, 25)
    return VideoRecord(str(path), 0, "a.mp4", num_frames=40, fps=25.0)


def test_clips_come_one_by_one_only_where_they_do_not_fit_together(record):
    def choose(length, fps):
        return SPEC.view_clips(length, fps, 3)

    ((first, frames, clips),) = read_clips(record, SPEC, choose)
    assert (first, len(clips)) == (0, 3)
    apart = list(read_clips(record, EACH, choose))
    assert [number for number, _, _ in apart] == [0, 1, 2]
    assert all(part.nbytes <= CLIP_BYTES for _, part, _ in apart)
    for clip, (_, part, (positions,)) in zip(clips, apart, strict=True):
        assert np.array_equal(part[positions], frames[clip])


def test_views_of_a_test_are_the_same(record):
    transform = ViewTransform(32, 40, 3, **PIXELS)
    together, apart = (ViewDataset([record], spec, transform, num_clips=3)[0] for spec in (SPEC, EACH))
    assert not apart["failures"]
    assert torch.equal(apart["views"], together["views"])


def test_views_of_training_are_the_same(record):
    transform = TrainTransform(32, [32, 40], flip=True, **PIXELS)
    together, apart = (ClipDataset([record], spec, transform, num_views=3)[0, 0] for spec in (SPEC, EACH))
    assert torch.equal(apart["views"], together["views"])


def test_all_clips_are_taken_from_the_frames_that_decode(record):
    """The list states more frames than there are, which only the last clip shows: the first ones are read again."""
    wrong = replace(record, num_frames=47)
    transform = ViewTransform(32, 40, 1, **PIXELS)
    true = ViewDataset([record], SPEC, transform, num_clips=3)[0]
    with pytest.warns(RuntimeWarning, match="40 frames decode, not 47"):
        found = ViewDataset([wrong], EACH, transform, num_clips=3)[0]
    assert torch.equal(found["views"], true["views"])


def test_a_single_clip_that_is_too_large_is_a_failure_with_the_keys_that_help(record):
    spec = replace(SPEC, most_bytes=CLIP_BYTES - 1)
    with pytest.raises(TooLargeError, match=r"4 frames of 64x48 .*DATA\.READ_SHORT_SIDE.*DATA\.READ_GIB"):
        list(read_clips(record, spec, lambda length, fps: spec.view_clips(length, fps, 3)))
    item = ViewDataset([record], spec, ViewTransform(32, 40, 1, **PIXELS), num_clips=3)[0]
    ((name, reason),) = item["failures"]
    assert name == "a.mp4"
    assert "raise DATA.READ_GIB" in reason
    assert not item["views"].any()
