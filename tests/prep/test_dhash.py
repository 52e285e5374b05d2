"""The difference hash: bits by hand, and which pictures it must and must not distinguish."""

import numpy as np
import pytest

from videofib.data.video.decode import read_frames
from videofib.prep.defaults import NEAR
from videofib.prep.dhash import dhash, to_signs
from videofib.prep.transcode import Encoding, transcode


def picture(cells):
    """Grey cells (8, 9) as a picture of 90 x 72 pixels."""
    return np.repeat(np.kron(np.asarray(cells), np.ones((9, 10)))[..., None], 3, 2).astype(np.uint8)


def test_bits_by_hand():
    rising = np.tile(np.arange(9) * 20, (8, 1))
    assert dhash(picture(rising)) == "ff" * 8
    assert dhash(picture(rising[:, ::-1])) == "00" * 8
    zigzag = np.tile([0, 50, 0, 50, 0, 50, 0, 50, 0], (8, 1))
    zigzag[7] = rising[0]
    assert dhash(picture(zigzag)) == "aa" * 7 + "ff"


def test_cells_are_means_of_areas_that_may_cut_through_pixels():
    """Two columns of pixels: dark, bright. The fifth of nine cells is half of each."""
    image = np.zeros((3, 2, 3), np.uint8)
    image[:, 1] = 200
    assert dhash(image) == "18" * 8  # 0 0 0 0 100 200 200 200 200


def test_a_picture_of_one_colour_has_no_hash():
    assert dhash(np.full((48, 64, 3), 77, np.uint8)) == ""
    assert dhash(picture(np.tile(np.arange(9) % 2 * 5, (8, 1)))) == ""  # 5 of 255 is noise


def test_scaling_and_encoding_keep_it_and_other_pictures_are_far(shared_data, tmp_path):
    clips = [f"ucf101_5/{name}" for name in ("Lunges/v_Lunges_g01_c01.avi", "WallPushups/v_WallPushups_g08_c01.avi")]
    hashes = []
    for clip in clips:
        for side in (0, 64):
            facts = transcode(shared_data / clip, tmp_path / "o.mp4", Encoding(side, crf=18 if side == 0 else 30))
            hashes.append(facts.dhash)
        assert dhash(read_frames(tmp_path / "o.mp4", [facts.num_frames // 2])[0]) == facts.dhash  # of the middle frame
    distance = (64 - to_signs(hashes) @ to_signs(hashes).T) / 2
    assert distance[0, 1] <= NEAR
    assert distance[2, 3] <= NEAR
    assert distance[:2, 2:].min() > 2 * NEAR


def test_signs_multiply_to_distances():
    hashes = ["0000000000000000", "ffffffffffffffff", "8000000000000001"]
    products = to_signs(hashes) @ to_signs(hashes).T
    assert ((64 - products) / 2).tolist() == [[0, 64, 2], [64, 0, 62], [2, 62, 0]]
    assert to_signs(hashes)[2, 0] == to_signs(hashes)[2, 63] == pytest.approx(1)
