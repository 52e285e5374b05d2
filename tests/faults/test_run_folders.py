"""A small part of the drill of damaged and hostile run folders; see ``run_folders.py`` for all of it."""

from functools import partial
from pathlib import Path

import pytest

from tests.faults.run_folders import CHANGES, FILES, drill, flipped, wrong
from videofib.report import comparison

ENDS_IN_TIME = [f"{name} is {kind}" for name in FILES for kind in ("a pipe", "a folder", "a link out")]
TYPES = ["test_results.json: skipped [1]", "test_results.json: per_class_acc {'red': 1000000000.0}"]
BOUNDS = ["stats.jsonl: nested", "stats.jsonl: loss 1e400", "config.yaml: a bomb", "environment.json: git"]
SCORES = ["test_scores.parquet: inf", "test_scores.parquet: num_classes", "test_scores.parquet: class names"]


@pytest.mark.parametrize("names", [ENDS_IN_TIME[::5], TYPES + BOUNDS, SCORES])
def test_each_ends_in_time_with_a_page_or_a_line(trained, tmp_path, names):
    found = drill(trained, tmp_path, {name: CHANGES[name] for name in names})
    assert found["folders"] == len(names)
    assert not [line for line in wrong(found) if not line.startswith("refused")]


@pytest.mark.slow
def test_all_changes_and_some_flips(trained, tmp_path):
    damages = {f"random {name} {n}": partial(flipped, name, n) for name in FILES for n in range(4)}
    assert not wrong(drill(trained, tmp_path, {**CHANGES, **damages}))


def test_the_drill_sees_what_it_looks_for(trained, tmp_path, monkeypatch):
    nothing = drill(trained, tmp_path, {"stats.jsonl: nothing is changed": lambda folder: None})
    assert any(line.startswith("silent is 1") for line in wrong(nothing))
    monkeypatch.setattr("videofib.report.page.read_run", lambda folder: [][0])
    broken = drill(trained, tmp_path, {"stats.jsonl: nothing is changed": lambda folder: None})
    assert any(line.startswith("traceback is 1") for line in wrong(broken))


def test_a_folder_that_breaks_a_comparison_of_several_is_the_one_named(trained, tmp_path, monkeypatch):
    def read(folder):
        if Path(folder).name == "changed 1":
            raise KeyError("top1_acc")
        return read_run(folder)

    read_run = comparison.read_run
    monkeypatch.setattr(comparison, "read_run", read)
    names = ["stats.jsonl: nested", "stats.jsonl: binary", "stats.jsonl: half a line"]
    found = drill(trained, tmp_path, {name: CHANGES[name] for name in names})
    assert (found["page"], found["traceback"]) == (5, 1)
    assert found["examples"] == ["stats.jsonl: binary: KeyError: 'top1_acc'"]
