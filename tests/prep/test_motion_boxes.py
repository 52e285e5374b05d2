"""The sprite's box covers the sprite, wraps around as it does, and is not larger than it needs to be."""

import numpy as np
import pytest

from videofib.prep.motion import CLASSES, NUM_FRAMES, MotionClip, MotionSet, clip_of, render, sprite_boxes

SETTINGS = MotionSet(size=32, seed=3)


@pytest.mark.parametrize("label", CLASSES)
def test_the_box_covers_all_that_changes(label):
    clip = MotionClip(label, 4, 2)
    boxes, frames = sprite_boxes(clip, SETTINGS), render(clip, SETTINGS).astype(int)
    assert boxes.shape == (NUM_FRAMES, 32, 36)
    # pixels that no box covers in two frames are background in both
    for one, other in ((0, 20), (10, 49)):
        outside = ~boxes[one] & ~boxes[other]
        assert outside.any()
        assert (frames[one][outside] == frames[other][outside]).all()
        moved = np.abs(frames[one] - frames[other]).sum(-1) > 60
        assert moved.any()
        assert not moved[outside].any()


def test_the_box_is_as_large_as_the_sprite_and_wraps_around():
    boxes = sprite_boxes(MotionClip("MoveRight", 4, 2), SETTINGS)
    areas = boxes.sum((1, 2))
    assert np.ptp(areas) <= 2 * areas.max() ** 0.5 + 1  # its size is constant, but for pixels at its edge
    wrapped = boxes[:, :, 0].any(1) & boxes[:, :, -1].any(1)
    assert wrapped.any()
    assert not wrapped.all()
    growing = sprite_boxes(MotionClip("Grow", 4, 2), SETTINGS).sum((1, 2))
    assert growing[-1] > 2 * growing[0]


def test_a_clip_of_a_file_name():
    clip = MotionClip("RotateClockwise", 12, 3)
    assert clip_of(f"/data/videos/{clip.path}") == clip
    for name in ("v_Walk_g01_c01.mp4", "Grow.mp4", "v_Grow_g01_c01_x.mp4"):
        with pytest.raises(ValueError, match="not the name of a clip of the motion data set"):
            clip_of(name)
