"""The windows of real videos hold the frames that a clip with their start has, in whatever way these are stored."""

import pytest
import torch

from videofib.data.clips.dataset import ClipSpec
from videofib.data.clips.transforms import ViewTransform
from videofib.data.clips.windows import WindowReader
from videofib.data.sampling import clip_indices, frames_shown_at
from videofib.data.video.decode import estimate, read_frames

SPEC = ClipSpec(num_frames=4, sampling_rate=5, target_fps=30)


@pytest.mark.parametrize(
    "name",
    [
        "decoders/mirrored_horizontally.mp4",
        "decoders/nasa_13013_rotated.mp4",
        "decoders/testsrc2_odd_height_and_width_vp9_10bit.mp4",
        "samples/ucf101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
        "hostile/vfr_ms.mp4",
        "hostile/native_var_fps_video.mp4",
    ],
)
def test_windows_hold_the_frames_of_clips(shared_data, name):
    path = str(shared_data / name)
    transform = ViewTransform(32, 40, 3, mean=(0.45,) * 3, std=(0.225,) * 3)
    reader = WindowReader(path, SPEC, transform)
    span, read = SPEC.span(reader.fps), 0
    length = round(reader.spans[-1][1] * reader.fps)
    for number, views in reader:
        clip = clip_indices(reader.spans[number][0] * reader.fps, span, SPEC.num_frames, length)
        if times := estimate(path).times:
            clip = frames_shown_at(clip, times)
        frames = read_frames(path, sorted(set(clip))).copy()
        positions = [sorted(set(clip)).index(index) for index in clip]
        torch.testing.assert_close(views, transform(frames, [positions]), rtol=0, atol=1e-6)
        read += 1
    assert read == len(reader.spans)
    assert reader.broken == ""
