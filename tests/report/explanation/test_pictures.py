"""Heat over frames: what is coloured, what is grey, and which frame has which heat."""

import numpy as np

from videofib.report.explanation.pictures import colour, overlaid, resized, scaled, side_by_side

rng = np.random.default_rng(0)


def test_scaled_takes_the_root_of_the_share_of_the_range():
    heat = np.array([[[2.0, 3.0, 6.0]]])
    np.testing.assert_allclose(scaled(heat, from_zero=False), [[[0, 0.5, 1]]])
    np.testing.assert_allclose(scaled(heat, from_zero=True)[0, 0], np.sqrt([1 / 3, 1 / 2, 1]), rtol=1e-6)
    assert not scaled(np.full((2, 1, 1), 0.25), from_zero=False).any()
    assert not scaled(np.zeros((2, 1, 1)), from_zero=True).any()


def test_frames_get_even_sizes():
    frames = rng.integers(0, 255, (2, 45, 51, 3), dtype=np.uint8)
    assert resized(frames).shape == (2, 224, 254, 3)  # 5 x, made even
    large = np.zeros((1, 448, 450, 3), np.uint8)
    assert resized(large).shape == large.shape
    assert resized(large, 112, 112).shape == (1, 112, 112, 3)


def test_heat_colours_its_own_place_and_time():
    frames = rng.integers(40, 215, (4, 32, 48, 3), dtype=np.uint8)
    heat = np.zeros((2, 2, 3))
    heat[1, 0, 2] = 1  # frames 2 and 3, at the top right
    found = overlaid(frames, heat)
    assert found.dtype == np.uint8
    spread = np.ptp(found.astype(int), axis=-1)  # of colours; grey has none
    assert spread[2:, :8, 40:].min() > 60
    assert spread[:2].max() < 60
    assert spread[2:, 24:, :16].max() < 60
    assert found[2, :8, 40:].mean() > 1.3 * found[0, :8, 40:].mean()


def test_more_heat_is_brighter():
    luma = colour(np.linspace(0, 1, 50)) @ [0.299, 0.587, 0.114]
    assert (np.diff(luma) > 0).all()


def test_side_by_side_keeps_both():
    one, other = rng.integers(0, 255, (2, 3, 4, 6, 3), dtype=np.uint8)
    found = side_by_side(one, other)
    assert found.shape == (3, 4, 16, 3)
    assert (found[:, :, :6] == one).all()
    assert (found[:, :, -6:] == other).all()
