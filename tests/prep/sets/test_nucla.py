"""Northwestern-UCLA's layouts and folds."""

import pytest

from videofib.data.lists.splits import load_split
from videofib.prep.items import PrepareError
from videofib.prep.sets import nucla

LAYOUTS = {
    "official videos": "multiview_action_videos/a{a}/v0{v}_s01_e00.avi",
    "skeleton names": "any/a{a}_s01_e00_v0{v}.mp4",
    "views": "view_{v}/a{a}_s01_e00.avi",
    "views of folders": "multiview_action/view_{v}/a{a}_s01_e00/rgb.avi",
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_all_layouts_give_the_same_videos(empty, layout):
    videos = empty(*(layout.format(a=action, v=view) for action in nucla.ACTIONS for view in (1, 2, 3)))
    listing = nucla.plan(videos)
    assert len(listing.videos) == 30
    assert listing.notes == {}
    assert {video.name[:15]: (video.label, video.splits) for video in listing.videos} == {
        f"a{action}_s01_e00_v0{view}": (label, ("val", "test") if view == 3 else ("train",))
        for action, label in nucla.ACTIONS.items()
        for view in (1, 2, 3)
    }


def test_ten_classes_in_the_order_of_their_numbers(empty):
    listing = nucla.plan(empty("a12_s01_e00_v01.avi"))
    assert (len(listing.classes), listing.classes[6], listing.classes[9]) == (10, "donning", "carry")
    assert list(nucla.ACTIONS) == [f"{number:02d}" for number in (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)]


@pytest.mark.parametrize("test_view", [1, 2, 3])
def test_folds(empty, test_view):
    videos = empty(*(f"a01/v0{view}_s01_e00.avi" for view in (1, 2, 3)))
    listing = nucla.plan(videos, test_view=test_view)
    assert [video.name for video in listing.videos if "test" in video.splits] == [f"a01_s01_e00_v0{test_view}.avi"]


def test_other_names_are_reported(empty):
    odd = ["a07/v01_s01_e00.avi", "a01/v04_s01_e00.avi", "a01/v01_s1_e00.avi", "a01/x.avi", "v01_s01_e00.avi"]
    videos = empty("a01/v01_s01_e00.avi", *odd)
    assert sorted(nucla.plan(videos).notes["names_not_understood"]) == sorted(odd)
    empty("a01_s01_e00_v01.mp4")
    with pytest.raises(
        PrepareError, match=r"a01_s01_e00_v01 twice, as a01/v01_s01_e00\.avi and as a01_s01_e00_v01\.mp4"
    ):
        nucla.plan(videos)


def test_the_script(tmp_path, raw, run_script):
    raw("view_1/a02_s01_e00.avi", "view_2/a02_s01_e00.avi", "view_3/a02_s01_e00.avi")
    printed = run_script(nucla, "--test-view", "2").stdout
    assert "3 of 3 listed videos (2 train, 1 val, 1 test) of 10 classes" in printed
    (test,) = load_split(tmp_path / "out", "test")
    assert (test.video_id, test.label) == ("videos/pick_up_with_two_hands/a02_s01_e00_v02.mp4", 1)
