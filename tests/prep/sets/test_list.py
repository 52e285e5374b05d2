"""Preparation of one's own lists: rows become files, segments are cut, and what is listed twice stays so."""

import av
import pytest

from tests.clocks import constant, numbers, write
from tests.commands import call
from videofib.commands.prep import main as prep
from videofib.data.lists.manifest import read_manifest
from videofib.data.lists.splits import load_split
from videofib.prep.items import PrepareError
from videofib.prep.sets.list import Lists, read_lists


@pytest.fixture
def root(tmp_path):
    """Two films and a short clip."""
    for name, count in (("films/a film.mp4", 60), ("films/b.avi", 50), ("c, d.mp4", 20)):
        write(tmp_path / "raw" / name, constant(count), bframes=0 if name.endswith("avi") else 2)
    return tmp_path / "raw"


def shown(path):
    with av.open(str(path)) as container:
        return [numbers(frame.to_ndarray(format="rgb24")[None])[0] for frame in container.decode(video=0)]


def lists(folder, separator=" ", segments="", classes=None, **texts):
    files = {}
    for split, text in texts.items():
        files[split] = folder / f"{split}.csv"
        files[split].write_text(text)
    return Lists(files, classes, separator, segments)


def run(folder, *options):
    return call(prep, ["list", "--videos", folder / "raw", "--out", folder / "out", "--jobs", 1, *options])


def test_segments_become_files_of_their_frames(root, tmp_path):
    lists(
        tmp_path,
        train="label,path,start,end\nrun,films/a film.mp4,0.4,1.2\nwalk,films/a film.mp4,1.2,2.4\n"
        "run,films/a film.mp4,0.4,1.2\nwalk,films/b.avi,0,0.8\n",
        val='path,label\n"c, d.mp4",run\n',
    )
    options = ["--train", tmp_path / "train.csv", "--val", tmp_path / "val.csv", "--short-side", 0]
    done = run(tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 listed videos" in done.stdout
    out = tmp_path / "out"
    assert (out / "classes.txt").read_text() == "run\nwalk\n"
    expected = {
        "videos/run/a film_t0.4-1.2.mp4": range(10, 30),
        "videos/walk/a film_t1.2-2.4.mp4": range(30, 60),
        "videos/walk/b_t0-0.8.mp4": range(20),
        "videos/run/c, d.mp4": range(20),
    }
    for name, wanted in expected.items():
        assert shown(out / name) == list(wanted), name
    names = list(expected)
    assert (out / "train.csv").read_text().splitlines() == [
        f"{names[0]} 0", f"{names[0]} 0", f"{names[1]} 1", f"{names[2]} 1"
    ]  # fmt: skip
    assert (out / "val.csv").read_text() == (out / "test.csv").read_text() == f"{names[3]} 0\n"
    assert len(load_split(out, "train", repeats=True)) == 4
    manifest = {row.path: row for row in read_manifest(out / "manifest.parquet")}
    assert manifest[names[0]].source == "films/a film.mp4#t=0.4,1.2"
    assert (manifest[names[0]].num_frames, manifest[names[0]].fps) == (20, 25)
    assert manifest[names[0]].split == "train+train"
    assert call(prep, ["verify", out]).returncode == 0
    (out / "train.csv").write_text((train := (out / "train.csv").read_text()) + f"{names[0]} 0\n")
    assert f"{names[0]}: twice in train.csv, on lines 1 and 5" in call(prep, ["verify", out]).stdout
    (out / "train.csv").write_text(train)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    again = run(tmp_path, *options)
    assert again.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")} == before
    (tmp_path / "train.csv").write_text("label,path,start,end\nrun,films/a film.mp4,0.4,1.6\n")
    assert run(tmp_path, *options).returncode == 0
    assert shown(out / "videos/run/a film_t0.4-1.6.mp4") == list(range(10, 40))
    assert not (out / names[0]).exists()


def test_parts_of_one_film_in_training_and_test_are_a_leak(root, tmp_path):
    lists(
        tmp_path,
        train="path,start,end,label\nfilms/a film.mp4,0,1,0\nfilms/b.avi,0,1,0\n",
        val="path,start,end,label\nfilms/a film.mp4,1,2,1\n",
        test="path,start,end,label\nfilms/b.avi,,,0\n",
    )
    done = run(
        tmp_path, *(word for name in ("train", "val", "test") for word in (f"--{name}", tmp_path / f"{name}.csv"))
    )
    assert done.returncode == 0, done.stderr
    leaks = call(prep, ["leaks", tmp_path / "out"]).stdout
    assert "films/a film.mp4 (in different classes): 1 for training, as videos/class_0/a film_t0-1.mp4; 1 held" in leaks
    assert "films/b.avi (within a class): 1 for training, as videos/class_0/b_t0-1.mp4; 1 held out, as" in leaks
    assert "2 recordings on both sides" in leaks


def test_a_variable_rate_becomes_even_within_the_segment(root, tmp_path):
    times = [*constant(30), *constant(10, 1.2, fps=5)]
    write(root / "variable.mp4", times, keyint=250)
    lists(tmp_path, train="variable.mp4 20 35 0\n")
    done = run(tmp_path, "--train", tmp_path / "train.csv", "--segments", "frames", "--short-side", 0)
    assert done.returncode == 0, done.stderr
    found = shown(tmp_path / "out/videos/class 0/variable_f20-35.mp4".replace("class 0", "class_0"))
    assert found == sorted(found)
    assert [found[0], found[-1]] == [pytest.approx(21, abs=1), 34]  # each output frame is the one in its middle
    assert len(found) == pytest.approx(15, abs=1)


def test_rows_outside_of_their_films_and_missing_films_are_reported(root, tmp_path):
    lists(tmp_path, train="films/a film.mp4 0 9 0\nfilms/a film.mp4 0 1 0\ngone.mp4 0 1 1\n")
    done = run(tmp_path, "--train", tmp_path / "train.csv", "--segments", "seconds")
    assert done.returncode == 0
    assert "1 of 3 listed videos" in done.stdout
    assert "train.csv:1 is not within the video, which has 2.4 seconds" in done.stdout
    assert "missing: 1" in done.stdout


def test_labels_of_several_lists_agree_and_splits_are_merged(root, tmp_path):
    found, classes, _ = read_lists(
        root, lists(tmp_path, train="films/b.avi 1\nc, d.mp4 0\n", val="c, d.mp4 0\n", test="c, d.mp4 0\n")
    )
    assert [(item.name, item.label, item.splits) for item in found] == [
        ("films/b.avi", 1, ("train",)),
        ("c, d.mp4", 0, ("train", "val", "test")),
    ]
    assert classes == ["class 0", "class 1"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"train": "films/b.avi 1\n", "val": "films/b.avi 0\n"},
            "films/b.avi in .*val.csv is 'class 0', and in .*train",
        ),
        (
            {"train": "films/b.avi run\n", "val": "c, d.mp4 0\n"},
            r"val.csv has numbers of classes and .*train.csv names",
        ),
        (
            {"train": "films/b.avi 0\n", "val": "c, d.mp4 run\n"},
            r"val.csv has names of classes and .*train.csv numbers",
        ),
        ({"train": "films/b.avi run\n", "val": "c, d.mp4 rnu\n"}, r"val.csv:1: the class 'rnu' .* nearest is 'run'"),
        ({"train": "../x.mp4 0\n"}, r"\.\./x.mp4 in .*train.csv is not below --videos"),
        ({"train": "/etc/x.mp4 0\n"}, r"/etc/x.mp4 in .*train.csv is not below --videos"),
        ({"train": "b.mp4 2 1 0\n", "segments": "frames"}, r"train.csv:1: start 2 is not before end 1"),
        ({"train": "b.mp4 0\nb.mp4 1\n"}, "already listed on line 1 with label 0, here with 1"),
        ({"train": "b.mp4 0\n", "val": "c.mp4 0\nc.mp4 0\n"}, "val.csv:2: 'c.mp4' is already listed on line 1"),
    ],
)
def test_lists_that_contradict_each_other_or_lead_away_are_refused(options, said, root, tmp_path):
    with pytest.raises(PrepareError, match=said):
        read_lists(root, lists(tmp_path, **options))


def test_class_names_come_from_a_file_or_from_beside_the_train_list(root, tmp_path):
    (tmp_path / "names.txt").write_text("walk\nrun\n")
    found, classes, _ = read_lists(root, lists(tmp_path, train="films/b.avi run\n", classes=tmp_path / "names.txt"))
    assert ([item.label for item in found], classes) == ([1], ["walk", "run"])
    (tmp_path / "classes.txt").write_text("run\nwalk\n")
    found, classes, _ = read_lists(root, lists(tmp_path, train="films/b.avi 1\n"))
    assert ([item.label for item in found], classes) == ([1], ["run", "walk"])
    with pytest.raises(PrepareError, match=r"classes.txt names 2 classes, and the lists have label 2"):
        read_lists(root, lists(tmp_path, train="films/b.avi 2\n"))


def test_segments_are_not_copied(root, tmp_path):
    lists(tmp_path, train="films/a film.mp4 0 1 0\n")
    done = run(tmp_path, "--train", tmp_path / "train.csv", "--segments", "seconds", "--codec", "copy")
    assert (done.returncode, "--codec copy keeps files as they are, and films/a film_t0-1.mp4" in done.stderr) == (
        1,
        True,
    )


def test_names_of_outputs_never_collide(root, tmp_path):
    write(root / "films/a film_f0-5.mp4", constant(12))
    lists(tmp_path, train="path,start_frame,end_frame,label\nfilms/a film.mp4,0,5,0\nfilms/a film_f0-5.mp4,,,0\n")
    done = run(tmp_path, "--train", tmp_path / "train.csv", "--short-side", 0)
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "out/train.csv").read_text().splitlines()
    assert [len(shown(tmp_path / "out" / line[:-2])) for line in written] == [5, 12]
