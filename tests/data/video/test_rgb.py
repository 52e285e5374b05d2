"""Conversion to RGB while scaling: every chroma sample counts, in frames of any pixel format and with every backend."""

import av
import numpy as np
import pytest
import torch

from videofib.data.video.decode import read_frames
from videofib.data.video.rgb import ToRGB

# Luma 81, 145 or 41 and the chroma of pure red, green and blue in BT.601, limited range.
RED, GREEN, BLUE = ((81, 90, 240), (145, 54, 34), (41, 240, 110))
AS_RGB = {RED: (255, 0, 0), GREEN: (0, 255, 0), BLUE: (0, 0, 255)}


def stripes(colours, wide, height=48, width=96):
    """A yuv420p frame of upright stripes, ``wide`` pixels each, in these colours."""
    columns = [colours[x // wide % len(colours)] for x in range(width)]
    luma = [[y for y, _, _ in columns]] * height
    chroma = [[column[plane] for column in columns[::2]] * (height // 2) for plane in (1, 2)]
    planes = np.concatenate([np.ravel(luma), *chroma]).astype(np.uint8)
    return av.VideoFrame.from_ndarray(planes.reshape(height * 3 // 2, width), format="yuv420p")


@pytest.mark.parametrize("colours", [(RED, BLUE), (GREEN, RED), (BLUE, GREEN, RED)])
def test_no_chroma_sample_of_a_row_is_lost(colours):
    """Stripes of one chroma sample each: at half the width each is one column, of its colour."""
    image = ToRGB()(stripes(colours, 2), 24, 48)
    for x in range(2, 46):
        assert np.abs(image[:, x].astype(int) - AS_RGB[colours[x % len(colours)]]).max() <= 12


@pytest.mark.parametrize("pixels", ["rgb24", "bgr24", "bgra", "gbrp", "rgb8"])
@pytest.mark.parametrize("size", [(120, 160), (96, 128), (112, 149), (180, 240)])
def test_rgb_frames_are_scaled_as_another_library_scales_them(pixels, size):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(np.kron(noise, np.ones((4, 4, 1), np.uint8)), format="rgb24")
    frame = frame.reformat(format=pixels, threads=1)
    full = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(full, size, mode="bicubic", antialias=True).clamp(0, 255)
    image = ToRGB()(frame, *size)
    assert np.abs(image - expected[0].permute(1, 2, 0).numpy()).mean() < 1.5


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("samples/kinetics/clean_and_jerk.mp4", 2),  # as a camera sees things
        ("samples/ucf101/Basketball/v_Basketball_g01_c01.avi", 2),
        ("decoders/bt601_limited_range.mp4", 8),  # test pictures in full colours
        ("decoders/discard_first_keyframe.mp4", 8),
        ("hostile/native_h264_10bits.mp4", 8),
    ],
)
def test_scaled_frames_of_the_backends_differ_as_little_as_documented(shared_data, name, bound):
    for short_side in (48, 96, 160):
        frames = {
            backend: read_frames(shared_data / name, [0, 7], backend=backend, short_side=short_side).astype(int)
            for backend in ("auto", "pyav", "decord")
        }
        assert np.array_equal(frames["auto"], frames["pyav"])
        assert np.abs(frames["decord"] - frames["pyav"]).mean((1, 2, 3)).max() < bound
