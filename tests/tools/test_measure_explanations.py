"""``tools/measure_explanations.py``: areas and shares in the sprite's box, on a motion data set."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from tests.commands import call
from videofib.prep.encode import write_video
from videofib.prep.motion import MotionSet, clip_of, render, sprite_boxes, write_motion

TOOL = runpy.run_path(str(Path(__file__).parents[2] / "tools/measure_explanations.py"), run_name="tool")


def test_heat_in_a_box_is_weighed_by_area():
    covered = np.zeros((4, 8, 8), np.float32)
    covered[:, :, :6] = 1  # three quarters of the frame
    assert TOOL["share_inside"](np.ones((2, 2, 2), np.float32), covered) == pytest.approx(0.75)
    heat = np.zeros((2, 2, 2), np.float32)
    heat[0, 0, 1] = 2  # a cell half of which is covered
    assert TOOL["share_inside"](heat, covered) == pytest.approx(0.5)


@pytest.fixture(scope="module")
def motion(tmp_path_factory):
    folder = tmp_path_factory.mktemp("motion")
    write_motion(folder, MotionSet(train_per_class=1, test_per_class=1, size=64), 1)
    videos = sorted(str(path.relative_to(folder)) for path in folder.glob("videos/*/*g02*.mp4"))
    (folder / "list.csv").write_text("".join(f"{video} {i % 3}\n" for i, video in enumerate(videos)))
    return folder


def test_the_table_has_areas_and_shares(motion, trained):
    words = ["--model", trained, "--list", motion / "list.csv", "--num", 2, "--motion", motion, "--block", "-1"]
    lines = call(TOOL["main"], words, check=True).stdout.splitlines()
    assert lines[0].startswith("2 videos, ")
    names = [re.match(r"(deletion|heat in the sprite's box,) (\w+(?:, block -1)?)", line)[2] for line in lines[1:-1]]
    assert names == ["rollout", "gradcam", "random", "gradcam, block -1", "rollout", "gradcam", "gradcam, block -1"]
    values = [float(re.search(r" (\d+\.\d)(?: |$)", line)[1]) for line in lines[1:]]
    assert values[1] == values[3]  # the default of a model with one block and a class token
    settings = MotionSet(size=64)
    paths = [motion / line.split()[0] for line in (motion / "list.csv").read_text().splitlines()][::4]
    boxes = [sprite_boxes(clip_of(path), settings)[:, :, 4:68] for path in paths]
    assert values[-1] == pytest.approx(100 * np.mean([box.mean() for box in boxes]), abs=5)


def test_another_data_set_is_refused_in_one_line(motion, trained, tmp_path):
    (tmp_path / "motion.json").write_text((motion / "motion.json").read_text())
    clip = clip_of("v_Grow_g02_c01.mp4")
    write_video(tmp_path / "v_Grow_g02_c01.mp4", render(clip, MotionSet(size=48)), 25)
    (tmp_path / "list.csv").write_text("v_Grow_g02_c01.mp4 0\n")
    words = ["--model", trained, "--list", tmp_path / "list.csv", "--motion", tmp_path]
    done = call(TOOL["main"], words)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "has frames of (48, 54), not of (64, 72) pixels" in done.stderr
