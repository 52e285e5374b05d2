"""Several runs side by side, as a table and as a page."""

import json
from dataclasses import replace

import pytest
import torch

from tests.report.browser import CHROMIUM, Browser
from tests.report.test_page import CLASSES, SMALL, WIDEST, Page, scores, stats
from videofib.commands.compare import main as compare
from videofib.config import load_config
from videofib.metrics.scores import read_scores, write_scores
from videofib.report.comparison import Comparison
from videofib.report.read import ReportError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two runs of the same name, of which the second learns at another rate and knows walking better."""
    root, folders = tmp_path_factory.mktemp("runs"), []
    for name, rate, walk in (("a", 0.1, 50.0), ("b", 0.2, 75.0)):
        folder = root / name / "run"
        folder.mkdir(parents=True)
        folders.append(folder)
        stats(folder)
        scores(folder, ["gone.mp4"] * 12, CLASSES)
        (folder / "config.yaml").write_text(load_config(None, ["SOLVER.BASE_LR", str(rate), *SMALL]).dump())
        by_class = dict(zip(CLASSES, [10.0, walk, None, 20.0], strict=True))
        results = {
            "top1_acc": walk,
            "top1_acc_interval": [walk - 9, walk + 9],
            "num_videos": 12,
            "per_class_acc": by_class,
            "per_class_videos": dict.fromkeys(CLASSES, 3),
        }
        (folder / "test_results.json").write_text(json.dumps(results))
    return folders


def test_only_differences_are_listed(folders):
    found = Comparison(folders)
    assert found.settings() == [["SOLVER.BASE_LR", "0.1", "0.2"]]
    assert found.classes() == [["walk", "3", "50.0 %", "75.0 %", "+25.0"]]
    assert found.class_columns() == ["class", "videos", "a/run", "b/run", "b/run − a/run, points"]
    # Wilson's intervals of 6 and 9 of 12
    assert found.figures()[0] == ["Top-1 accuracy, videos", "50.0 % (25.4 to 74.6 %)", "75.0 % (46.8 to 91.1 %)"]
    # twelve videos, of which both get the same ones right: 100 z² / (12 + z²) = 24.2
    assert found.pairs() == [["a/run, b/run", "12", "0", "0", "0.0", "−24.2 to +24.2", "1"]]


def test_every_difference_is_that_run_minus_the_first(folders):
    forwards, backwards = Comparison(folders), Comparison(folders[::-1])
    assert backwards.classes() == [["walk", "3", "75.0 %", "50.0 %", "−25.0"]]
    several = Comparison([*folders, folders[0]])
    assert several.classes() == [["walk", "3", "50.0 %", "75.0 %", "50.0 %", "+25.0", "0.0"]]
    assert several.class_columns()[-2:] == ["b/run (2) − a/run (1), points", "a/run (3) − a/run (1), points"]
    assert forwards.as_text().splitlines()[-1].split() == ["walk", "3", "50.0", "%", "75.0", "%", "+25.0"]


def test_runs_on_other_labels_are_not_compared_video_by_video(folders, tmp_path):
    """Classes in another order are the same classes; other labels under the same names are not."""
    other_order, other_labels = [2, 0, 3, 1], torch.tensor([1, 0, 2, 3] * 3)
    for name, names, labels in (
        ("order", [CLASSES[k] for k in other_order], torch.tensor(other_order).argsort()[torch.arange(12) % 4]),
        ("labels", CLASSES, other_labels),
    ):
        (tmp_path / name).mkdir()
        stats(tmp_path / name)
        scores(tmp_path / name, ["gone.mp4"] * 12, names, labels=labels)
        (tmp_path / name / "test_results.json").write_text(json.dumps({"num_videos": 12}))
    found = Comparison([folders[0], tmp_path / "order", tmp_path / "labels"])
    assert [row[0] for row in found.pairs()] == ["run, order"]
    assert found.unpaired() == [
        "run and labels are not compared video by video: 6 of the videos in both have other classes"
    ]
    warnings = [sentence for sentence in found.warnings if "other classes of" in sentence]
    assert len(warnings) == 1
    assert warnings[0].startswith("other classes of 6 of the 12 videos in both: ")
    assert warnings[0].endswith("in run, walk in labels")
    assert "warning: other classes of 6 of the 12 videos in both: " in found.as_text()
    found.write(tmp_path / "compared.html")
    assert "other classes of 6 of the 12 videos in both: " in Page(tmp_path / "compared.html").text


def test_runs_without_videos_in_common_are_not_paired_and_that_is_said(folders, tmp_path):
    """Nor are those whose videos may have several classes."""
    other, several = tmp_path / "other", tmp_path / "several"
    for folder in (other, several):
        folder.mkdir()
        stats(folder)
        scores(
            folder, ["gone.mp4"] * 12, CLASSES, labels=torch.eye(4)[torch.arange(12) % 4] if folder is several else None
        )
    file = other / "test_scores.parquet"
    known = read_scores(file)
    ids = [f"other {i}.mp4" for i in range(12)]
    write_scores(file, replace(known, ids=ids, failures={ids[-1]: "gone"}))
    assert Comparison([folders[0], other, several]).unpaired() == [
        "run and other are not compared video by video: they have no test videos in common",
        "run and several are not compared video by video: videos may have several classes in several",
    ]


def test_the_tool_prints_tables_and_writes_the_page(folders, tmp_path, capsys):
    compare([*map(str, folders), "--out", str(tmp_path / "compared.html")])
    printed = capsys.readouterr().out
    assert "metric                  a/run" in printed
    assert "SOLVER.BASE_LR  0.1" in printed
    page = Page(tmp_path / "compared.html")
    assert [tag for tag, _ in page.tags].count("figure") == 4
    assert "McNemar" in page.text
    with pytest.raises(SystemExit, match=r"^error: expected two runs or more, got 1"):
        compare([str(folders[0])])


def test_a_run_that_only_trained_beside_one_that_only_tested(folders, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    stats(one)
    (other / "test_results.json").write_text(json.dumps({"mAP": 40.0, "per_class_ap": {"walk": 40.0}}))
    found = Comparison([one, other, folders[0]])
    assert found.pairs() == []
    reasons = [
        "one and other are not compared video by video: no usable test_scores.parquet of one and other",
        "one and run are not compared video by video: no usable test_scores.parquet of one",
    ]
    assert found.unpaired() == reasons
    assert "\n".join(reasons) in found.as_text()
    found.write(tmp_path / "compared.html")
    assert all(reason in Page(tmp_path / "compared.html").text for reason in reasons)
    assert ["Mean average precision", "–", "40.0 %", "–"] in found.figures()
    assert "one" in found.as_page()
    with pytest.raises(ReportError, match="is not the folder of a run"):
        Comparison([one, tmp_path])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_in_a_browser_it_fits_and_asks_for_nothing(folders, tmp_path):
    Comparison([*folders, *folders]).write(tmp_path / "compared.html")
    with Browser(width=390) as browser:
        browser.open(tmp_path / "compared.html")
        assert browser.run(WIDEST) <= 0
        assert browser.problems == []
        assert len(browser.requests) == 1 + sum(url.startswith("data:") for url in browser.requests)
