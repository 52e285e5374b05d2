"""The page of a run: complete with any subset of files, safe with hostile names, and correct in a real browser."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.report.browser import CHROMIUM, Browser
from videofib.commands.report import main as report
from videofib.config import load_config
from videofib.metrics.scores import Scores, write_scores
from videofib.prep.encode import write_video
from videofib.report.figures import cost_rows
from videofib.report.page import write_report
from videofib.report.read import read_run
from videofib.tracking.environment import write_record

HOSTILE = '</script><script>alert(1)</script>"><img src=x onerror=alert(1)>\n\u202e'
CLASSES = [HOSTILE, "walk", "run & jump", "a name that is rather long, as those of Something-Something are"]
SMALL = ["TIMESFORMER.SIZE", "tiny", "TIMESFORMER.DEPTH", "1", "DATA.TEST_CROP_SIZE", "32"]
chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def stats(folder):
    lines = []
    for epoch in (1, 2, 3):
        common = {"epoch": epoch, "epochs": 3, "lr": 0.1 / epoch, "loss": 2 / epoch}
        lines += [{"_type": "train_iter", **common, "step": s, "steps": 8, "grad_norm": 1.5} for s in (2, 4, 6, 8)]
        lines.append(
            {"_type": "train_epoch", **common, "clip_top1_acc": 20.0 * epoch, "seconds": 65.0, "data_wait": 0.1}
        )
        lines.append({"_type": "val_epoch", "epoch": epoch, "top1_acc": 19.0 * epoch})
    (folder / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def scores(folder, paths, names, *, labels=None):
    count, classes = len(paths), len(names)
    rng = torch.Generator().manual_seed(0)
    values = torch.rand(count, classes, generator=rng).mul(4).softmax(1)
    values[-1] = torch.nan
    ids = [f"{HOSTILE} {n}" for n in range(count)]
    labels = torch.arange(count) % classes if labels is None else labels
    kind = "sigmoid" if labels.ndim == 2 else "softmax"
    failures = {ids[-1]: f"cannot be read: {HOSTILE}"}
    found = Scores(ids, paths, labels, values, torch.ones(count), failures, 6, 3, kind, class_names=names)
    write_scores(folder / "test_scores.parquet", found)
    return failures


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Four small videos that become brighter, and names of files that are not videos."""
    folder = tmp_path_factory.mktemp("videos")
    grey = np.linspace(0, 250, 24, dtype=np.uint8)[:, None, None, None]
    paths = []
    for n in range(4):
        paths.append(str(folder / f"{n}.mp4"))
        write_video(paths[-1], np.broadcast_to(grey, (24, 48, 64, 3)).copy(), 25)
    return [*paths, str(folder / "gone.mp4"), "<script>.mp4"] * 2


@pytest.fixture(scope="module")
def folder(videos, tmp_path_factory):
    """The folder of a run that has trained and tested, with hostile names everywhere."""
    folder = tmp_path_factory.mktemp("run")
    stats(folder)
    failures = scores(folder, videos, CLASSES)
    (folder / "config.yaml").write_text(load_config(None, ["DATA.PATH_TO_DATA_DIR", repr(HOSTILE), *SMALL]).dump())
    write_record(folder)
    results = {
        "top1_acc": 25.0,
        "top1_acc_interval": [8.3, 50.0],
        "top5_acc": 91.7,
        "num_videos": 12,
        "num_views": 6,
        "per_class_acc": dict(zip(CLASSES, [0.0, 50.0, None, 33.3], strict=True)),
        "per_class_videos": dict(zip(CLASSES, [4, 4, 0, 3], strict=True)),
        "accuracy_by_views": [[1, 16.7, 91.7], [3, 25.0, 91.7], [6, 25.0, 91.7]],
        "skipped": [{"video": name, "reason": reason} for name, reason in failures.items()],
        "checkpoint": HOSTILE,
    }
    (folder / "test_results.json").write_text(json.dumps(results))
    cost = {"parameters": 215_880, "multiply_adds": 61_970_944}
    write_report(folder, cost=cost, data=[Path(videos[0]).parent])
    return folder


class Page(HTMLParser):
    def __init__(self, file):
        super().__init__()
        self.tags, self.ids, self.text = [], [], ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_data(self, data):
        self.text += data


def sections(file):
    return [attributes["aria-labelledby"] for tag, attributes in Page(file).tags if tag == "section"]


def test_hostile_names_are_text(folder):
    page = Page(folder / "report.html")
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") > 20
    assert "\u202e" not in page.text
    sources = [attributes[name] for _, attributes in page.tags for name in ("src", "href") if name in attributes]
    assert {source.split(":")[0] if ":" in source else source[0] for source in sources} == {"data", "#"}
    assert len(page.ids) == len(set(page.ids))
    assert (folder / "report.html").stat().st_size < 300_000


def test_a_complete_run_has_every_section(folder):
    found = sections(folder / "report.html")
    assert found == ["learning", "accuracy", "mistakes", "classes", "unreadable", "cost", "config", "environment"]
    text = Page(folder / "report.html").text
    for words in (
        "8.9 to 53.2 %",  # Wilson's interval of 3 of 12, not the results' own [8.3, 50.0] of an earlier version
        "0.0 to 49.0 %",  # the interval of a class, of whose 4 videos none is right
        "3 min 15 s",
        "215.9 k",
        "61.97 M",
        "Without test videos: run & jump",
        "no such file",
    ):
        assert words in text


def test_only_trained_only_tested_and_no_validation(folder, tmp_path):
    stats(tmp_path)
    lines = (tmp_path / "stats.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "stats.jsonl").write_text("".join(line for line in lines if "val_epoch" not in line))
    assert sections(write_report(tmp_path)) == ["learning", "cost"]
    (tmp_path / "stats.jsonl").unlink()
    (tmp_path / "test_results.json").write_bytes((folder / "test_results.json").read_bytes())
    assert sections(write_report(tmp_path)) == ["accuracy", "classes", "unreadable"]
    (tmp_path / "test_scores.parquet").write_bytes(b"damaged")
    file = write_report(tmp_path)
    assert "Could not be read" in Page(file).text


def test_a_rate_is_a_total_over_a_total(tmp_path):
    # 12 clips in 6 s, of which 3 s were waiting, then 12 in 0.5 s without: the means of the rates are 13 and 25 %
    epochs = [{"seconds": 6.0, "clips_per_second": 2.0, "data_wait": 0.5}]
    epochs += [{"seconds": 0.5, "clips_per_second": 24.0, "data_wait": 0.0}]
    epochs += [{"seconds": 9.0, "clips_per_second": None, "data_wait": None}]  # not known of this one
    lines = [{"_type": "train_epoch", "epoch": n, "epochs": 3, **line} for n, line in enumerate(epochs, 1)]
    (tmp_path / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = dict(cost_rows(read_run(tmp_path), None))
    assert rows["Training speed"] == "3.692 clips per second, over all processes"  # 24 / 6.5
    assert rows["Time spent waiting for data"] == "46.2 %"  # 3 / 6.5
    assert rows["Training time"] == "16 s"


def test_figures_that_are_not_numbers_are_dashes(tmp_path):
    results = {"top1_acc": math.nan, "num_videos": 4, "per_class_acc": {"a": math.nan, "b": 75.0, "c": None}}
    results["per_class_videos"] = {"a": 0, "b": 4, "c": 0}
    (tmp_path / "test_results.json").write_text(json.dumps(results))
    text = Page(write_report(tmp_path)).text
    assert "Without test videos: a, c." in text
    assert "nan" not in text.split("Test videos")[1]
    assert "30.1 to 95.4 %" in text  # Wilson's interval of 3 of 4


def test_videos_with_several_classes(videos, tmp_path):
    labels = torch.eye(4).repeat(3, 1)
    labels[:, 2] = 1
    scores(tmp_path, videos, CLASSES, labels=labels)
    results = {"mAP": 41.0, "num_videos": 12, "num_views": 6, "per_class_ap": dict.fromkeys(CLASSES, 41.0)}
    (tmp_path / "test_results.json").write_text(json.dumps(results))
    file = write_report(tmp_path, videos=3)
    text = Page(file).text
    assert "Mean average precision" in text
    assert "run & jump" in text
    assert "predicted class" not in text
    assert sections(file) == ["accuracy", "mistakes", "classes"]


def test_many_classes_are_a_picture_and_the_best_and_worst(tmp_path):
    names = [f"class of number {n}" for n in range(400)]
    scores(tmp_path, ["gone.mp4"] * 800, names)
    results = {"top1_acc": 1.0, "per_class_acc": {name: n / 4 for n, name in enumerate(names)}}
    (tmp_path / "test_results.json").write_text(json.dumps(results))
    file = write_report(tmp_path, videos=0)
    page = Page(file)
    (picture,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert (picture["width"], picture["height"]) == ("400", "400")
    assert "The 10 classes with the lowest accuracy" in page.text
    assert file.stat().st_size < 400_000


def test_zero_videos_leave_no_pictures(folder, tmp_path):
    for name in ("test_results.json", "test_scores.parquet"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert not [tag for tag, _ in Page(write_report(tmp_path, videos=0)).tags if tag == "img"]


def test_the_command_rewrites_it_and_refuses_other_folders(folder, tmp_path, capsys):
    before = (folder / "report.html").read_text()
    report([str(folder)])
    assert f"wrote {folder / 'report.html'}" in capsys.readouterr().out
    assert "Parameters" in (folder / "report.html").read_text()
    (folder / "report.html").write_text(before)
    with pytest.raises(SystemExit, match=r"^error: .* is not the folder of a run"):
        report([str(tmp_path)])


WIDEST = "Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - innerWidth"
# of every element with text of its own: the contrast of its colour with the first opaque background behind it
CONTRAST = """(() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => { const [r, g, b] = parts(color).map((v) => (v /= 255) <= 0.03928 ? v / 12.92 :
    ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (node) => { for (; node; node = node.parentElement) {
    const color = getComputedStyle(node).backgroundColor;
    if (color.startsWith("rgb") && (parts(color)[3] ?? 1) === 1) return color; } return "rgb(255, 255, 255)"; };
  const worst = [];
  for (const node of document.querySelectorAll("main *")) {
    if (![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())) continue;
    const style = getComputedStyle(node);
    const ink = node instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(ink), light(behind(node))].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) worst.push([node.tagName, node.textContent.slice(0, 30), ratio]);
  }
  return worst;
})()"""


@chromium
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1200, True)])
def test_in_a_browser_it_fits_is_readable_and_loads_nothing_else(folder, width, dark):
    with Browser(width=width, dark=dark) as browser:
        browser.open(folder / "report.html")
        assert browser.run(WIDEST) <= 0
        browser.run("document.querySelectorAll('details').forEach((part) => (part.open = true))")
        assert browser.run(WIDEST) <= 0
        assert browser.run(CONTRAST) == []
        assert browser.run("document.querySelectorAll('tr').length") > 50
        assert browser.problems == []
        assert [url for url in browser.requests if not url.startswith("data:")] == [(folder / "report.html").as_uri()]


@chromium
def test_the_keyboard_plays_and_pauses_frames(folder):
    with Browser(width=390) as browser:
        browser.open(folder / "report.html")
        frame = "document.querySelector('.player input').value"
        moved = f"new Promise((done) => setTimeout(() => done({frame}), 450))"
        assert browser.run(moved) != "0"
        names, focused = [], "document.activeElement.ariaLabel || document.activeElement.textContent"
        while "Pause all" not in names:
            assert len(names) < 60
            browser.press("Tab", 9)
            names.append(browser.run(focused))
            assert browser.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
        browser.press("Enter", 13)
        assert browser.run("document.activeElement.textContent") == "Play all"
        assert browser.run(frame) == browser.run(moved)
        browser.press("Tab", 9)
        assert browser.run(focused) == "Play video 1"
        browser.press(" ", 32)
        assert browser.run(focused) == "Pause video 1"
        assert browser.run("document.querySelector('button.all').textContent") == "Pause all"
        browser.press("Tab", 9)
        browser.press("ArrowRight", 39)
        assert browser.run("document.querySelector('.play').textContent") == "Play"
        assert browser.problems == []


@chromium
def test_nothing_moves_where_reduced_motion_is_preferred(folder):
    with Browser(still=True) as browser:
        browser.open(folder / "report.html")
        frames = "[...document.querySelectorAll('.player input')].map((input) => input.value).join('')"
        assert browser.run(f"new Promise((done) => setTimeout(() => done({frames}), 450))").strip("0") == ""
        assert browser.run("document.querySelector('button.all').textContent") == "Play all"
