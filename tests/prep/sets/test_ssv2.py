"""Something-Something v2's official files, and the full command on webm and mp4."""

import json
import shutil

import pytest

from videofib.data.lists.splits import load_split
from videofib.prep.items import PrepareError
from videofib.prep.sets import ssv2

LABELS = {"Closing something": "1", "Approaching something with your camera": "0", "Bending something": "2"}
CLOSE, BEND = "Closing [something]", "Bending [something]"


def write(folder, labels=LABELS, train=(("1", CLOSE),), validation=(("2", BEND),), answers=None, test=None, prefix=""):
    folder.mkdir(exist_ok=True)
    lists = {"train": train, "validation": validation}
    for part, rows in lists.items():
        entries = [{"id": name, "label": "closing box", "template": template} for name, template in rows]
        (folder / f"{prefix}{part}.json").write_text(json.dumps(entries, indent=0))
    (folder / f"{prefix}labels.json").write_text(json.dumps(labels))
    if answers is not None:
        (folder / "test-answers.csv").write_text(answers)
    if test is not None:
        (folder / f"{prefix}test.json").write_text(json.dumps(test))
    return folder


def test_official_files(shared_data, tmp_path):
    """Its labels, and of its validation list the first 2000 rows, as published; a training list is not there."""
    official = shared_data / "annotations/ssv2"
    prefix = "something-something-v2-"
    write(tmp_path, train=[("1", CLOSE)], prefix=prefix)
    shutil.copyfile(official / f"{prefix}labels.json", tmp_path / f"{prefix}labels.json")
    shutil.copyfile(official / f"{prefix}validation_head2000.json", tmp_path / f"{prefix}validation.json")
    listing = ssv2.read_annotations(tmp_path)
    assert len(listing.classes) == 174
    assert listing.classes == (official / "mmaction2_label_map.txt").read_text().splitlines()
    assert listing.classes[57] == "Poking something so that it falls over"  # as in 166766_info.txt
    own = [video for video in listing.videos if "val" in video.splits]
    assert len(own) == 2000
    assert {video.splits for video in own} == {("val", "test")}
    first = json.loads((official / f"{prefix}validation_head2000.json").read_text())[0]
    assert (own[0].name, own[0].label) == (f"{first['id']}.webm", "Spinning something that quickly stops spinning")


def test_labels_are_the_official_numbers_and_not_alphabetical(tmp_path):
    listing = ssv2.read_annotations(write(tmp_path))
    assert listing.classes == ["Approaching something with your camera", "Closing something", "Bending something"]
    assert [(video.name, video.label, video.splits) for video in listing.videos] == [
        ("1.webm", "Closing something", ("train",)),
        ("2.webm", "Bending something", ("val", "test")),
    ]
    assert listing.notes == {"unlabelled_lists": []}


def test_test_answers_make_a_test_set_of_their_own(tmp_path):
    answers = "7;Closing something\r\n8;Bending [something]\r\n"
    listing = ssv2.read_annotations(write(tmp_path, answers=answers, test=[{"id": "7"}]))
    splits = {video.name: (video.label, *video.splits) for video in listing.videos}
    assert splits["2.webm"] == ("Bending something", "val")
    assert splits["7.webm"] == ("Closing something", "test")
    assert splits["8.webm"] == ("Bending something", "test")
    (tmp_path / "test-answers.csv").unlink()
    assert ssv2.read_annotations(tmp_path).notes == {"unlabelled_lists": ["test.json"]}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"train": [("1", "Throwing [something]")]},
            r"train\.json: entry 1: 'Throwing \[something\]' is not a template",
        ),
        ({"train": [("1", CLOSE), ("1", BEND)]}, r"train\.json: entry 2: '1\.webm' is listed twice"),
        ({"validation": [("1", CLOSE)]}, r"validation\.json: entry 1: '1\.webm' is listed twice"),
        ({"train": [("../x", CLOSE)]}, r"train\.json: entry 1: the name '\.\./x' is refused"),
        ({"train": [("a\nb", CLOSE)]}, r"entry 1: the name 'a\\nb' is refused"),
        ({"train": [(None, CLOSE)]}, r"entry 1: the name None is refused"),
        ({"train": [("1", None)]}, r"entry 1: None is not a template"),
        (
            {"labels": {"Closing something": "0", "Bending something": "2"}},
            r"labels\.json: 2 classes, but none has .* 1",
        ),
        ({"labels": {"a/b": "0"}}, r"labels\.json: number 0: the name 'a/b' is refused"),
        ({"labels": []}, r"labels\.json: expected an object"),
        ({"answers": "7;Closing something;x\n"}, r"test-answers\.csv:1: expected 'id;label'"),
        ({"answers": "7;Closing something\n8;Throwing something\n"}, r"test-answers\.csv:2: 'Throwing something'"),
        ({"answers": "../7;Closing something\n"}, r"test-answers\.csv:1: the name '\.\./7' is refused"),
    ],
)
def test_contradictions_name_file_and_entry(tmp_path, files, message):
    with pytest.raises(PrepareError, match=message):
        ssv2.read_annotations(write(tmp_path, **files))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n{"id": "1",\n', r"train\.json:\d: not JSON \(.*\); is the file complete\?"),
        ('{"id": "1"}', r"train\.json: expected a list of objects with id, template"),
        ('[{"id": "1", "template": "x"}, 5]', r"train\.json: entry 1: 'x'"),
        ('[{"id": "1"}]', r"train\.json: entry 1: expected an object with id, template"),
        ("[" * 100_000, r"train\.json cannot be read"),
        ("\0", r"train\.json:1: not JSON"),
    ],
)
def test_broken_json_is_named_with_the_line(tmp_path, text, message):
    write(tmp_path)
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(PrepareError, match=message):
        ssv2.read_annotations(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PrepareError, match=r"labels\.json cannot be read"):
        ssv2.read_annotations(tmp_path)
    write(tmp_path)
    (tmp_path / "train.json").unlink()
    with pytest.raises(PrepareError, match=r"train\.json cannot be read"):
        ssv2.read_annotations(tmp_path)


def test_the_script_on_mp4_files(tmp_path, raw, run_script):
    raw("20bn-something-something-v2/1.mp4", "20bn-something-something-v2/2.mp4")
    write(tmp_path / "labels", train=[("1", CLOSE), ("3", BEND)])
    printed = run_script(ssv2, "--annotations", tmp_path / "labels").stdout
    assert "2 of 3 listed videos (1 train, 1 val, 1 test) of 3 classes" in printed
    assert "missing: 1\n  3.webm" in printed
    (train,), (test,) = load_split(tmp_path / "out", "train"), load_split(tmp_path / "out", "test")
    assert (train.video_id, train.label, train.num_frames) == ("videos/Closing_something/1.mp4", 1, 6)
    assert (test.video_id, test.label) == ("videos/Bending_something/2.mp4", 2)
    run_script(ssv2, "--annotations", tmp_path / "labels", "--only-present-classes")
    assert (tmp_path / "out/classes.txt").read_text() == "Closing something\nBending something\n"


def test_the_script_on_original_webm_files(shared_data, tmp_path, run_script):
    """VP9, of which decord decodes no frame."""
    names = {"class005_1": CLOSE, "class005_2": CLOSE}
    (tmp_path / "raw").mkdir()
    for name in names:
        (tmp_path / "raw" / f"{name}.webm").symlink_to(shared_data / f"samples/ssv2/{name}.webm")
    write(tmp_path / "labels", train=[("class005_1", CLOSE)], validation=[("class005_2", CLOSE)])
    run_script(ssv2, "--annotations", tmp_path / "labels", "--short-side", "64")
    (train,), (val,) = load_split(tmp_path / "out", "train"), load_split(tmp_path / "out", "val")
    assert (train.num_frames, val.num_frames) == (53, 47)  # as the manifest of the shared files has them
    assert train.random_access


def test_errors_end_the_script_in_one_line(tmp_path, raw, run_script):
    raw("1.mp4")
    write(tmp_path / "labels", train=[("../x", CLOSE)])
    result = run_script(ssv2, "--annotations", tmp_path / "labels", check=False)
    assert result.returncode == 1
    assert "the name '../x' is refused" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
