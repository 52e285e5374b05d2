"""Runs that were tested otherwise than the first are named, with what differs."""

import json

import pytest
import torch

from videofib.commands.compare import main as compare
from videofib.metrics.scores import Scores, write_scores
from videofib.metrics.tasks import MULTI_LABEL, SINGLE_LABEL
from videofib.report.comparison import Comparison

VIDEOS = {"run 1.mp4": 0, "run 2.mp4": 0, "jump.mp4": 1, "swim.mp4": 2}
NAMES = ["run", "jump", "swim"]


def run_on(folder, videos=VIDEOS, names=NAMES, *, several=False, unreadable="wrong", **changes):
    """The folder of a test whose model is right about every video."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = torch.tensor(list(videos.values()))
    hot = torch.eye(len(names or NAMES))[labels]
    made = Scores(
        ids=list(videos),
        paths=list(videos),
        labels=hot if several else labels,
        scores=hot.clone(),
        view_correct=torch.ones(len(videos)),
        failures={},
        num_views=6,
        num_crops=3,
        class_names=names,
        kind="sigmoid" if several else "softmax",
    )
    for name, value in changes.items():
        setattr(made, name, value)
    made.scores[[name in made.failures for name in made.ids]] = torch.nan
    task = MULTI_LABEL if several else SINGLE_LABEL
    (folder / "test_results.json").write_text(json.dumps(task.summarize(made, unreadable=unreadable, details=True)))
    write_scores(folder / "test_scores.parquet", made)
    return folder


@pytest.fixture
def first(tmp_path):
    return run_on(tmp_path / "a")


def test_runs_tested_alike_get_no_warning(first, tmp_path):
    again = run_on(tmp_path / "b", dict(reversed(VIDEOS.items())))  # listed in another order
    found = Comparison([first, again])
    assert found.warnings == []
    assert "alarm" not in found.as_page().split("<body>")[1]
    assert "warning" not in found.as_text()
    assert "No run has a config." in found.as_page()


@pytest.mark.parametrize(
    ("changes", "warnings"),
    [
        (
            {"videos": {**VIDEOS, "dive.mp4": 2}},
            [
                "other test videos: 1 in b alone, such as dive.mp4; 4 in both",
                "other numbers of videos counted: 4 in a, 5 in b",
            ],
        ),
        (
            {"videos": {name.replace("swim", "row"): label for name, label in VIDEOS.items()}},
            ["other test videos: 1 in a alone, such as swim.mp4; 1 in b alone, such as row.mp4; 3 in both"],
        ),
        ({"num_views": 3}, ["other views: 2 clips × 3 crops in a, 1 clip × 3 crops in b"]),
        ({"num_crops": 1}, ["other views: 2 clips × 3 crops in a, 6 clips × 1 crop in b"]),
        (
            {"view_starts": "published"},
            ["other views: 2 clips × 3 crops in a, 2 clips × 3 crops, TEST.VIEW_STARTS published in b"],
        ),
        (
            {
                "videos": {"run 1.mp4": 1, "run 2.mp4": 1, "jump.mp4": 0, "swim.mp4": 2},
                "names": ["jump", "run", "swim"],
            },
            ["the classes have another order: class 0 is run in a, jump in b"],
        ),
        (
            {"videos": {**VIDEOS, "jump.mp4": 0}, "names": None},
            ["other classes of 1 of the 4 videos in both: jump.mp4 is of class 1 in a, 0 in b"],
        ),
        (
            {"videos": {**VIDEOS, "jump.mp4": 0}},
            ["other classes of 1 of the 4 videos in both: jump.mp4 is of class jump in a, run in b"],
        ),
        (
            {"names": ["run", "hop", "swim"]},
            [
                "the classes have other names: class 1 is jump in a, hop in b",
                "other classes of 1 of the 4 videos in both: jump.mp4 is of class jump in a, hop in b",
            ],
        ),
        ({"names": [*NAMES, "dive"]}, ["other numbers of classes: 3 in a, 4 in b"]),
        (
            {"failures": {"jump.mp4": "damaged"}, "unreadable": "exclude"},
            [
                "other numbers of videos counted: 4 in a, 3 in b",
                "1 video could not be read in b alone, such as jump.mp4",
            ],
        ),
        ({"several": True}, ["another task: a is measured by accuracy, b by mean average precision"]),
    ],
)
def test_whatever_differs_is_named_on_the_page_and_the_console(first, tmp_path, capsys, changes, warnings):
    other = run_on(tmp_path / "b", **changes)
    compare([str(first), str(other), "--out", str(tmp_path / "compared.html")])
    printed, _ = capsys.readouterr()
    assert printed.splitlines()[: len(warnings) + 1] == [*(f"warning: {sentence}" for sentence in warnings), ""]
    page = (tmp_path / "compared.html").read_text()
    assert [page.index(f"<li>{sentence}</li>") < page.index("Figures of the runs") for sentence in warnings]


def test_files_that_cannot_be_read_are_named_on_the_page_and_the_console(first, tmp_path):
    damaged = run_on(tmp_path / "b")
    (damaged / "stats.jsonl").write_text(json.dumps({"_type": "val_epoch", "epoch": 1, "top1_acc": 50.0}) + "\n")
    (damaged / "test_results.json").write_text("{")
    (damaged / "test_scores.parquet").write_bytes(b"damaged")
    found = Comparison([first, damaged])
    warnings = [line for line in found.as_text().splitlines() if line.startswith("warning: could not be read")]
    for reason in ("b: test_results.json: it is not JSON (Expecting", "test_scores.parquet is damaged"):
        assert any(reason in line for line in warnings)
        assert reason in found.as_page()


def test_lists_are_compared_where_the_scores_of_a_run_are_gone(first, tmp_path):
    same, other = run_on(tmp_path / "same"), run_on(tmp_path / "b", {**VIDEOS, "jump.mp4": 2})
    earlier = run_on(tmp_path / "earlier")
    results = json.loads((earlier / "test_results.json").read_text())
    (earlier / "test_results.json").write_text(json.dumps({"top1_acc": 100.0, "num_videos": 4, "num_views": 6}))
    for folder in (same, other, earlier):
        (folder / "test_scores.parquet").unlink()
    found = Comparison([first, same, other, earlier]).warnings
    assert found == [
        f"other test videos or classes: videos_sha256 {results['videos_sha256'][:12]}… of a, "
        f"{json.loads((other / 'test_results.json').read_text())['videos_sha256'][:12]}… of b",
        "whether a and earlier were tested on the same videos is unknown: no scores of earlier",
        "other views: 2 clips × 3 crops in a, 6 views in earlier",
    ]
