"""Toyota Smarthome's names and protocols."""

import json

import pytest

from videofib.data.lists.splits import load_split
from videofib.prep.items import PrepareError
from videofib.prep.sets import smarthome


def name(activity="Walk", person=3, camera=1):
    return f"{activity}_p{person:02d}_r00_v02_c{camera:02d}.mp4"


def splits(videos, protocol):
    return {video.name: video.splits for video in smarthome.plan(videos, protocol=protocol).videos}


def test_persons_are_those_of_the_official_split_of_the_untrimmed_set(shared_data):
    videos = json.loads((shared_data / "annotations/smarthome/TSU_smarthome_CS_51.json").read_text())
    persons = {"training": set(), "testing": set()}
    for video, facts in videos.items():
        persons[facts["subset"]].add(int(video[1:3]))
    assert persons == {"training": smarthome.TRAINING_SUBJECTS, "testing": smarthome.TEST_SUBJECTS}
    assert (len(smarthome.TRAINING_SUBJECTS), len(smarthome.TEST_SUBJECTS)) == (11, 7)


def test_numbers_of_classes():
    assert {protocol: len(set(names)) for protocol, names in smarthome.CLASSES.items()} == {
        "cs": 31,
        "cv1": 19,
        "cv2": 19,
    }
    assert set(smarthome.CLASSES["cv1"]) < set(smarthome.CLASSES["cs"])


def test_cross_subject(empty):
    videos = empty(name(person=3), name(person=2), name(person=25, camera=7), name(person=1), name("Cook.Cut", 20))
    listing = smarthome.plan(videos, protocol="cs")
    assert {video.name: (video.label, video.splits) for video in listing.videos} == {
        name(person=3): ("Walk", ("train",)),
        name(person=2): ("Walk", ("val", "test")),
        name(person=25, camera=7): ("Walk", ("train",)),
        name("Cook.Cut", 20): ("Cook.Cut", ("val", "test")),
    }
    assert listing.notes == {"not_in_cs": [name(person=1)]}
    assert listing.classes[2] == "Cook.Cut"


def test_cross_view(empty):
    videos = empty(*(name(camera=camera) for camera in range(8)), name("Laydown"))
    assert splits(videos, "cv1") == {
        name(camera=1): ("train",),
        name(camera=2): ("test",),
        name(camera=5): ("val",),
    }
    assert splits(videos, "cv2") == {
        **{name(camera=camera): ("train",) for camera in (1, 3, 4, 6, 7)},
        name(camera=2): ("test",),
        name(camera=5): ("val",),
    }
    notes = smarthome.plan(videos, protocol="cv2").notes
    assert notes == {"not_in_cv2": [name("Laydown"), name(camera=0)]}


def test_other_names_are_reported(empty):
    odd = ["Fly_p03_r00_v02_c01.mp4", "Walk_p3_r00_v02_c01.mp4", "Walk_p03_r00_v02_c01_rgb.mp4", "note.avi"]
    videos = empty("mp4/" + name(), *odd)
    assert sorted(smarthome.plan(videos, protocol="cs").notes["names_not_understood"]) == sorted(odd)
    empty("copy/" + name())
    with pytest.raises(PrepareError, match=r"twice, as copy/Walk_p03.* and as mp4/Walk_p03"):
        smarthome.plan(videos, protocol="cs")


def test_a_folder_without_videos_of_the_protocol_is_refused(empty):
    with pytest.raises(PrepareError, match=r"no video under .* named like Cook.*; not_in_cv1: 1, such as Laydown_p03"):
        smarthome.plan(empty(name("Laydown")), protocol="cv1")


def test_the_script(tmp_path, raw, run_script):
    raw(name("Drink.Fromcup", 9, 3), name("Drink.Fromcup", 9, 2), name("Enter", 14, 5))
    printed = run_script(smarthome, "--protocol", "cv2").stdout
    assert "3 of 3 listed videos (1 train, 1 val, 1 test) of 19 classes" in printed
    (train,), (val,), (test,) = (load_split(tmp_path / "out", split) for split in ("train", "val", "test"))
    assert train.video_id == f"videos/Drink.Fromcup/{name('Drink.Fromcup', 9, 3)}"
    assert (train.label, val.label, test.label) == (3, 7, 3)
    result = run_script(smarthome, "--protocol", "cv3", check=False)
    assert "invalid choice: 'cv3'" in result.stderr
