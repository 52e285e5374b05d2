"""HowTo100M's table, written here as its readme describes it."""

import pytest

from videofib.data.lists.splits import load_split
from videofib.prep.items import PrepareError
from videofib.prep.sets import howto100m

HEADER = "video_id,category_1,category_2,rank,task_id\n"


def write(folder, rows, header=HEADER):
    (folder / "h.csv").write_text(header + "\n".join(rows), encoding="utf-8")
    return folder / "h.csv"


def test_classes_are_categories_and_rows_without_one_are_named(tmp_path):
    rows = [
        "-abc,Food and Entertaining,Recipes,3,108",
        "x_1,Pets/Animals,,1,7",
        "nocat,nan,nan,2,9",
        "-abc,Health,,5,1",
    ]
    file = write(tmp_path, rows)
    listing = howto100m.read_annotations(file)
    assert listing.classes == ["Food and Entertaining", "Pets-Animals"]
    assert [(video.name, video.label, video.splits) for video in listing.videos] == [
        ("-abc.mp4", "Food and Entertaining", ("train",)),
        ("x_1.mp4", "Pets-Animals", ("train",)),
    ]
    assert listing.notes == {"without_category_1": ["nocat.mp4"], "listed_twice": ["-abc.mp4"]}
    second = howto100m.read_annotations(file, category=2)
    assert (second.classes, second.notes["without_category_2"]) == (["Recipes"], ["x_1.mp4", "nocat.mp4"])


def test_entire_tasks_are_held_out(tmp_path):
    rows = [f"v{i},Food,Recipes,1,{i % 200}" for i in range(2000)]
    listing = howto100m.read_annotations(write(tmp_path, rows), val_fraction=0.2)
    sides = {}
    for row, video in zip(rows, listing.videos, strict=True):
        sides.setdefault(row.rpartition(",")[2], set()).add(video.splits)
    assert {len(splits) for splits in sides.values()} == {1}
    assert 25 <= sum(splits == {("val", "test")} for splits in sides.values()) <= 55  # of 200


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("video_id,category_1\n", [], "the header lacks category_2, rank, task_id"),
        (HEADER, [], "lists no video with a category_1"),
        (HEADER, ["a,Food,Recipes,1,1", "b,Food"], r"h\.csv:3: expected video_id"),
        (HEADER, ["a,Food,Recipes,1,1,extra"], r"h\.csv:2: expected video_id"),
        (HEADER, ["../a,Food,Recipes,1,1"], r"h\.csv:2: the name '\.\./a' is refused"),
        (HEADER, ["a,..,Recipes,1,1"], r"h\.csv:2: the name '\.\.' is refused"),
    ],
)
def test_bad_files_are_named_with_the_line(tmp_path, header, rows, message):
    with pytest.raises(PrepareError, match=message):
        howto100m.read_annotations(write(tmp_path, rows, header))


def test_a_missing_file_and_an_impossible_fraction_are_refused(tmp_path):
    with pytest.raises(PrepareError, match=r"nowhere\.csv cannot be read"):
        howto100m.read_annotations(tmp_path / "nowhere.csv")
    with pytest.raises(PrepareError, match="--val-fraction is 1"):
        howto100m.read_annotations(write(tmp_path, []), val_fraction=1)


def test_the_command(tmp_path, raw, run_script):
    raw("deep/-abc.mp4", "x_1.mp4")
    file = write(tmp_path, ["-abc,Food and Entertaining,Recipes,3,108", "x_1,Health,Eyes,1,7", "gone,Health,Eyes,2,7"])
    printed = run_script(howto100m, "--annotations", file).stdout
    assert "2 of 3 listed videos (2 train, 0 val, 0 test) of 2 classes" in printed
    assert "missing: 1\n  gone.mp4" in printed
    assert [(record.video_id, record.label) for record in load_split(tmp_path / "out", "train")] == [
        ("videos/Food_and_Entertaining/-abc.mp4", 0),
        ("videos/Health/x_1.mp4", 1),
    ]
