"""``videofib predict``: the answers for all the ways in which people name videos, and what it says of broken ones."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.experiment import CLASSES, newest
from videofib.commands.predict import main
from videofib.metrics.scores import SCORES_NAME, read_scores


@pytest.fixture
def predicted(trained, tmp_path, capsys):
    """``predicted(*words)``: (video, its most probable class, error) of each line that the command writes."""

    def run(*words):
        out = tmp_path / "out.jsonl"
        main([*map(str, words), "--model", str(trained), "--out", str(out)])
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        return [
            (line["video"], line["predictions"][0]["class"] if line["predictions"] else None, line["error"])
            for line in lines
        ]

    return run


def test_files_and_folders_in_the_order_named(predicted, experiment, tmp_path):
    for name in ("b/c d.mp4", "b/e/f.MP4", "._b.mp4", "__MACOSX/x.mp4", "b/notes.txt"):
        (tmp_path / "v" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(experiment / "test 1.mp4", tmp_path / "v" / name)
    found = predicted(experiment / "test 2.mp4", tmp_path / "v", experiment / "test 0.mp4")
    assert found == [
        (str(experiment / "test 2.mp4"), "blue", None),
        (str(tmp_path / "v/b/c d.mp4"), "green", None),
        (str(tmp_path / "v/b/e/f.MP4"), "green", None),
        (str(experiment / "test 0.mp4"), "red", None),
    ]


def test_a_list_is_relative_to_its_folder(predicted, experiment, tmp_path):
    (tmp_path / "v").mkdir()
    shutil.copy(experiment / "test 1.mp4", tmp_path / "v" / "a b.mp4")
    (tmp_path / "list.txt").write_text(f"v/a b.mp4\r\n\n{experiment / 'test 0.mp4'}\n")
    assert [row[1] for row in predicted("--list", tmp_path / "list.txt")] == ["green", "red"]


def test_one_broken_video_is_one_line(trained, experiment, capsys):
    videos = [experiment / "test 0.mp4", experiment / "broken.mp4", "no\x1b[2J.mp4", experiment / "test 1.mp4"]
    main([*map(str, videos), "--model", str(trained), "--top", "1"])
    shown = capsys.readouterr()
    assert [line.strip().split("  ")[-1] for line in shown.out.splitlines() if " %  " in line] == ["red", "green"]
    assert len([line for line in shown.out.splitlines() if "error:" in line]) == 2
    assert "\x1b" not in shown.out + shown.err
    assert shown.err == "2 of 4 videos could not be read\n"
    with pytest.raises(SystemExit) as stopped:
        main([str(experiment / "broken.mp4"), "--model", str(trained)])
    assert stopped.value.code == 1


def test_csv_has_the_scores_of_the_test(trained, tmp_path):
    scores = read_scores(trained / SCORES_NAME)
    (tmp_path / "list").write_text("\n".join(scores.paths))
    out = tmp_path / "out.csv"
    main(["--list", str(tmp_path / "list"), "--model", str(trained), "--top", "3", "--out", str(out)])
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 5 + 1
    for row in rows:
        position = scores.paths.index(row["video"])
        if row["error"]:
            assert scores.ids[position] in scores.failures
        else:
            expected = scores.scores[position][CLASSES.index(row["class"])].item()
            assert float(row["probability"]) == pytest.approx(expected, abs=1e-6)


def test_standard_input(trained, experiment):
    command = [sys.executable, "-m", "videofib", "predict", "-", "--model", str(trained), "--top", "1"]
    with (experiment / "test 2.mp4").open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "standard input" in done.stdout
    assert done.stdout.split()[-1] == "blue"


def test_a_url(predicted, experiment):
    address = experiment.as_uri()
    found = predicted(f"{address}/test 1.mp4", f"{address}/absent.mp4")
    assert found[0] == (f"{address}/test 1.mp4", "green", None)
    assert found[1][1] is None
    assert "cannot be fetched" in found[1][2]


def test_weights_alone_with_a_config_and_names(trained, experiment, tmp_path, capsys):
    words = [experiment / "test 1.mp4", "--model", newest(trained), "--cfg", experiment / "config.yaml"]
    main([*map(str, words), "--opts", "TEST.NUM_ENSEMBLE_VIEWS", "1"])
    assert "green" in capsys.readouterr().out
    (tmp_path / "names").write_text("one\ntwo\nthree\n")
    main([*map(str, words), "--classes", str(tmp_path / "names")])
    assert "two" in capsys.readouterr().out


def test_names_that_are_not_utf8(predicted, experiment, tmp_path):
    name = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.mp4")
    shutil.copy(experiment / "test 1.mp4", name)
    ((video, label, error),) = predicted(tmp_path)
    assert (label, error) == ("green", None)
    assert video.endswith("caf\\udce9.mp4") or video.endswith("caf\\xe9.mp4")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.mp4", "--model", "absent"], "error: no model at absent; name a checkpoint"),
        (["{empty}", "--model", "{run}"], "no videos in this folder"),
        (["--list", "{empty}/none", "--model", "{run}"], "none: No such file"),
        (["--list", "{labelled}", "--model", "{run}"], "seem to be paths with labels, such as"),
        (["a.mp4", "--model", "{run}", "--out", "{labelled}/x.csv"], "error: "),
        (["a.mp4", "--model", "{run}", "--views", "2", "2"], r"views must be \(temporal clips"),
        (["a.mp4", "--model", "{run}", "--opts", "NO.KEY", "1"], "unknown key NO.KEY"),
        (["a.mp4", "--model", "{run}", "--device", "tpu"], "error: "),
    ],
)
def test_mistakes_are_one_line(words, message, trained, experiment, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.csv").write_text(f"{experiment / 'test 0.mp4'} 0\n")
    known = {"empty": tmp_path / "empty", "run": trained, "labelled": tmp_path / "list.csv"}
    with pytest.raises(SystemExit, match=message) as stopped:
        main([word.format(**known) for word in words])
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize(
    "words", [[], ["a.mp4", "--top", "0"], ["a.mp4", "--out", "x.txt"], ["a", "--workers", "-1"], ["a", "--opts", "X"]]
)
def test_options_that_cannot_be(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*words[:1], "--model", "m", *words[1:]])
    assert stopped.value.code == 2


@pytest.mark.slow
def test_hostile_and_good_files(predicted, shared_data):
    """Of the real and the hostile files each is answered, or named with a reason."""
    hostile = sorted(file for file in (shared_data / "hostile").rglob("*") if file.is_file())
    good = sorted((shared_data / "ucf101_5").rglob("*.avi"))[:20]
    assert len(good) == 20
    found = predicted(*good, *hostile)
    assert [row[0] for row in found] == [str(file) for file in [*good, *hostile]]
    assert all(label or error for _, label, error in found)
    assert all(label for _, label, _ in found[: len(good)])
