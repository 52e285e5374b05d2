"""The tool on real clips: what it writes, and how it reports what it cannot read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videofib.commands.browse import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(shared_data, tmp_path_factory):
    """Lists of three Weizmann clips and an HTML page that is named as a video."""
    root = tmp_path_factory.mktemp("set")
    clips = [("bend", "daria_bend"), ("jack", "ido_jack"), ("walk", "ira_walk")]
    names = [f"weizmann/{action}/{name}.avi" for action, name in clips]
    lines = "".join(f"{name} {label}\n" for label, name in enumerate([*names, "hostile/html_error_page.mp4"]))
    for split in ("train", "val", "test"):
        (root / f"{split}.csv").write_text(lines)
    (root / "classes.txt").write_text("bend\njack & jill\nwalk\nnone\n")
    return root


def browse(folder, shared_data, out, *options, pairs=("TRAIN.BATCH_SIZE", 1)):
    cfg = ROOT / "configs/Weizmann/TimeSformerXS_joint_fibottention_8x4_112.yaml"
    data = ["DATA.PATH_TO_DATA_DIR", folder, "DATA.PATH_PREFIX", shared_data, "MODEL.NUM_CLASSES", 4]
    main([str(word) for word in ("--cfg", cfg, "--out", out, *options, *data, *pairs)])


def test_training_clips(folder, shared_data, tmp_path, capsys):
    browse(folder, shared_data, tmp_path, "--draws", 2, pairs=["TRAIN.BATCH_SIZE", 2, "MIXUP.ENABLE", True])
    assert "4 videos, 6 clips, 1 unreadable" in capsys.readouterr().out
    page = (tmp_path / "index.html").read_text()
    assert page.count("<figure>") == 6
    assert "jack &amp; jill" in page
    assert "MIXUP, which mixes these clips afterwards, is not shown" in page
    assert page.count("hostile/html_error_page.mp4") >= 2  # in the list of unreadable ones, and where it stands
    moving = sorted((tmp_path / "clips").glob("video001_clip??.webp"))
    with Image.open(moving[0]) as first, Image.open(moving[1]) as second:
        assert first.n_frames == second.n_frames == 8
        assert np.asarray(first.convert("RGB")).std() > 10
        assert not np.array_equal(np.asarray(first), np.asarray(second))
    assert (tmp_path / "sheet_1.png").read_bytes().startswith(b"\x89PNG")


def test_validation_clip_and_fewer_videos(folder, shared_data, tmp_path, capsys):
    browse(folder, shared_data, tmp_path, "--split", "val", "--num", 1)
    assert "1 videos, 1 clips, 0 unreadable" in capsys.readouterr().out
    assert "clip 1 of 1, crop 1 of 1" in (tmp_path / "index.html").read_text()


def test_errors_are_one_line(folder, shared_data, tmp_path):
    with pytest.raises(SystemExit, match=r"error: unknown key DATA\.FRAMES"):
        browse(folder, shared_data, tmp_path, "DATA.FRAMES", 4)
    (tmp_path / "taken").write_text("")
    with pytest.raises(SystemExit, match="taken"):
        browse(folder, shared_data, tmp_path / "taken", "--num", 1)
