"""The ensemble of several runs' score files, against means and accuracies worked out by hand."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from videofib.metrics.scores import Scores, read_scores, write_scores

TOOL = str(Path(__file__).parents[2] / "tools" / "ensemble.py")
IDS = ["a.mp4", "b c.mp4", "d.mp4", "e.mp4"]


def run_of(values, **changes):
    scores = Scores(
        ids=IDS,
        paths=["/data/" + name for name in IDS],
        labels=torch.tensor([0, 1, 0, 1]),
        scores=torch.tensor(values),
        view_correct=torch.tensor([1.0, 0.0, 0.5, 1.0]),
        failures={},
        num_views=2,
    )
    return replace(scores, **changes)


ONE = run_of([[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.25, 0.75]])  # right: a, e
TWO = run_of([[0.25, 0.75], [0.125, 0.875], [0.375, 0.625], [0.0, 1.0]])  # right: b, e


def reordered(scores, order):
    return replace(
        scores,
        ids=[scores.ids[i] for i in order],
        paths=[scores.paths[i] for i in order],
        labels=scores.labels[order],
        scores=scores.scores[order],
        view_correct=scores.view_correct[order],
    )


@pytest.fixture
def ensemble(tmp_path, capsys, monkeypatch):
    """Runs the tool on members; returns its exit code, and what it printed to stdout and stderr."""

    def run(*members, words=()):
        files = []
        for number, scores in enumerate(members):
            files.append(tmp_path / f"run {number}" / "test_scores.parquet")
            write_scores(files[-1], scores)
        monkeypatch.setattr(sys, "argv", [TOOL, *map(str, [*files, *words])])
        code = 0
        try:
            runpy.run_path(TOOL, run_name="__main__")
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return run


def test_the_weighted_mean_of_runs_in_any_order(ensemble, tmp_path):
    words = ["--weights", "1", "3", "--out", tmp_path / "out"]
    done = ensemble(ONE, reordered(TWO, [2, 0, 3, 1]), words=words)
    assert done.code == 0
    found = read_scores(tmp_path / "out" / "test_scores.parquet")
    assert found.ids == IDS
    expected = (ONE.scores + 3 * TWO.scores) / 4
    torch.testing.assert_close(found.scores, expected)
    assert (found.num_views, found.view_correct.tolist()) == (4, [1.0, 0.0, 0.5, 1.0])
    results = json.loads((tmp_path / "out" / "test_results.json").read_text())
    assert results["top1_acc"] == 50.0  # b and e
    assert results["top1_acc_interval"][0] < 50 < results["top1_acc_interval"][1]
    assert results["most_confused"] == [[0, 1, 2]]
    assert [(member["weight"], member["top1_acc"]) for member in results["members"]] == [(1.0, 50.0), (3.0, 50.0)]
    lines = done.out.splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("ensemble: top1_acc 50.00 [")


def test_a_video_that_one_run_could_not_read_has_the_others_scores(ensemble, tmp_path):
    values = ONE.scores.clone()
    values[:2] = torch.nan
    one = replace(ONE, scores=values, failures={"a.mp4": "broken", "b c.mp4": "broken"})
    values = TWO.scores.clone()
    values[1] = torch.nan
    two = replace(TWO, scores=values, failures={"b c.mp4": "gone"})
    done = ensemble(one, two, words=["--out", tmp_path / "out"])
    assert done.code == 0
    found = read_scores(tmp_path / "out" / "test_scores.parquet")
    assert found.failures == {"b c.mp4": "broken"}
    assert found.scores[0].tolist() == [0.25, 0.75]
    torch.testing.assert_close(found.scores[2:], (ONE.scores + TWO.scores)[2:] / 2)


def test_runs_of_several_classes(ensemble):
    several = {"labels": torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 1]]), "kind": "sigmoid"}
    done = ensemble(replace(ONE, **several), replace(TWO, **several))
    assert done.code == 0
    assert "ensemble: mAP " in done.out


@pytest.mark.parametrize("several", [False, True])
def test_a_run_whose_classes_are_in_another_order_is_averaged_by_name(ensemble, tmp_path, several):
    def named(scores, names, order):
        labels = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 1]])[:, order] if several else scores.labels
        labels = labels if several else torch.tensor(order)[labels]  # two classes: the permutation is its own inverse
        kind = "sigmoid" if several else "softmax"
        return replace(scores, labels=labels, scores=scores.scores[:, order], class_names=names, kind=kind)

    ours, theirs = named(ONE, ["run", "jump"], [0, 1]), named(TWO, ["jump", "run"], [1, 0])
    done = ensemble(ours, theirs, words=["--out", tmp_path / "out"])
    assert done.code == 0
    found = read_scores(tmp_path / "out" / "test_scores.parquet")
    assert found.class_names == ["run", "jump"]
    torch.testing.assert_close(found.scores, (ONE.scores + TWO.scores) / 2)
    assert torch.equal(found.labels, ours.labels)
    assert json.loads((tmp_path / "out" / "test_results.json").read_text())["class_names"] == ["run", "jump"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (reordered(TWO, [0, 1, 2]), "run 2 lacks 1 videos that run 1 has, such as 'e.mp4'"),
        (replace(TWO, ids=["x.mp4", *IDS[1:]]), "run 2 lacks 1 videos that run 1 has, such as 'a.mp4'"),
        (replace(TWO, kind="logit"), "run 2 has logit scores, run 1 has softmax scores"),
        (replace(TWO, scores=torch.ones(4, 3)), "run 2 has 3 classes, run 1 has 2"),
        (replace(TWO, class_names=["run", "sit"]), "class 1 is 'sit' in run 2, 'jump' in run 1"),
        (replace(TWO, labels=torch.tensor([0, 1, 1, 1])), "run 2 has other labels than run 1"),
    ],
)
def test_runs_that_do_not_fit_are_one_line(ensemble, other, message):
    done = ensemble(replace(ONE, class_names=["run", "jump"]), other)
    assert done.code.startswith("error: ")
    assert message in done.code
    assert "\n" not in done.code


def test_wrong_options_are_refused(ensemble, tmp_path):
    for words, message in [
        (["--weights", "1"], "a weight above 0 for each"),
        (["--weights", "1", "-1"], "a weight above 0 for each"),
        (["--out", tmp_path / "run 1"], "holds one of the runs"),
    ]:
        done = ensemble(ONE, TWO, words=words)
        assert done.code == 2
        assert message in done.err
