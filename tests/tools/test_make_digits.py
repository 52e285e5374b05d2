"""The recipe of the digits: deterministic splits, and pictures that are the scans."""

import numpy as np

from tools.make_digits import SPLITS, write
from videofib.data.lists.splits import load_split
from videofib.data.video.decode import read_frames


def test_pictures_are_the_scans_in_their_order(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 17, (sum(SPLITS.values()), 8, 8)).astype(float)
    labels = np.arange(len(images)) % 10
    write(tmp_path, images, labels)
    found = {}
    for split, count in SPLITS.items():
        records = load_split(tmp_path, split)
        assert len(records) == count
        found |= {int(record.video_id[-8:-4]): (split, record) for record in records}
    assert [found[number][0] for number in (0, 1096, 1097, 1296, 1297, 1796)] == [
        *("train", "train", "val", "val", "test", "test")
    ]
    for number in (0, 1100, 1796):
        _, record = found[number]
        assert record.label == labels[number]
        (picture,) = read_frames(record.path, [0])
        assert np.array_equal(picture[..., 0], np.round(images[number] * 15.9375).astype(np.uint8))
