"""A test on a list without labels: predictions in place of accuracies, in every file that a test writes."""

import csv
import json
import shutil

import pytest
import torch

from tests.experiment import newest, results, run
from videofib.commands.ensemble import main as ensemble
from videofib.metrics.scores import read_scores
from videofib.report.comparison import Comparison
from videofib.run.load import load

VIDEOS = [*(f"test {i}.mp4" for i in range(5)), "broken.mp4"]
ACCURACIES = ("top1", "top5", "mAP", "class_acc", "per_class", "accuracy", "most_confused", "Top-1", "Top-5")


@pytest.fixture(scope="module")
def unlabelled(experiment, trained, tmp_path_factory):
    """The folder of a test of the trained model on the test videos without their labels."""
    folder = tmp_path_factory.mktemp("unlabelled")
    (folder / "classes.txt").write_text("green\nblue\nred\n")
    (folder / "test.csv").write_text("\ufeff" + "\r\n".join(VIDEOS) + "\r\n\r\n")
    return evaluated(experiment, trained, folder, folder / "run")


def evaluated(experiment, trained, data, out, *overrides):
    where = ["DATA.PATH_TO_DATA_DIR", data, "DATA.PATH_PREFIX", experiment]
    return run(
        experiment, out, *where, "TEST.CHECKPOINT_FILE_PATH", newest(trained), "TEST.RESUME", "True", *overrides,
        stages=["test"],
    )  # fmt: skip


def test_the_scores_are_those_of_a_test_with_labels(trained, unlabelled):
    with_labels, without = (read_scores(folder / "test_scores.parquet") for folder in (trained, unlabelled))
    assert without.ids == with_labels.ids == VIDEOS
    assert without.labels.tolist() == [-1] * 6
    assert without.unlabelled
    assert not with_labels.unlabelled
    torch.testing.assert_close(without.scores, with_labels.scores, rtol=0, atol=1e-6, equal_nan=True)
    with (unlabelled / "test_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["class"], row["predicted_1"]) for row in rows[:3]] == [
        *(("", "", name) for name in ("red", "green", "blue"))
    ]
    assert rows[5]["error"]


def test_nothing_is_measured(unlabelled):
    found = results(unlabelled)
    assert (found["labels"], found["num_videos"], found["num_views"]) == ("none", 6, 6)
    assert [entry["video"] for entry in found["skipped"]] == ["broken.mp4"]
    for name in ("test_results.json", "stats.jsonl", "log.txt"):
        text = (unlabelled / name).read_text()
        assert not [word for word in ACCURACIES if word in text], name
    log = (unlabelled / "log.txt").read_text()
    assert "test: no labels, predictions of 6 videos, 6 views each" in log
    assert "1 unreadable video was given no prediction: broken.mp4" in log


def test_the_report_says_that_there_are_no_labels(unlabelled):
    page = (unlabelled / "report.html").read_text()
    assert "No labels: 6 test videos, 6 views of each" in page
    assert "could not be read: test" not in page.lower()
    assert not [word for word in ("Top-1", "confident mistakes", "Confusion matrix") if word in page]


def test_a_comparison_with_a_measured_test_says_so_in_a_line(trained, unlabelled, tmp_path):
    shutil.copytree(trained, tmp_path / "measured")
    shutil.copytree(unlabelled, tmp_path / "not")
    comparison = Comparison([tmp_path / "measured", tmp_path / "not"])
    assert "no labels: not tested videos without labels, which nothing measures" in comparison.warnings
    assert "Top-1 accuracy, videos" in comparison.as_text()
    assert "Test videos" in Comparison([tmp_path / "not", tmp_path / "not"]).as_text()
    comparison.as_page()


def test_an_ensemble_is_of_tests_without_labels_alone(trained, unlabelled, tmp_path, capsys):
    files = [str(folder / "test_scores.parquet") for folder in (unlabelled, unlabelled, trained)]
    ensemble([*files[:2], "--out", str(tmp_path)])
    assert "ensemble: no labels (6 videos)" in capsys.readouterr().out
    assert json.loads((tmp_path / "test_results.json").read_text())["labels"] == "none"
    assert read_scores(tmp_path / "test_scores.parquet").unlabelled
    for pair, without, others in ((files[1:], 1, 2), (files[:0:-1], 2, 1)):
        with pytest.raises(SystemExit) as stopped:
            ensemble(pair)
        message = f"run {without} was tested on a list without labels, run {others} on one with labels"
        assert message in str(stopped.value)


def test_videos_that_may_have_several_classes(experiment, trained, unlabelled, tmp_path):
    out = evaluated(experiment, trained, unlabelled.parent, tmp_path, "MODEL.LOSS_FUNC", "bce_logit")
    assert results(out)["labels"] == "none"
    found = read_scores(out / "test_scores.parquet")
    assert found.kind == "sigmoid"
    assert found.unlabelled
    assert found.labels.shape == (6, 3)


def test_a_model_says_nothing_of_its_accuracy(trained, unlabelled, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    note = results(unlabelled) | {"checkpoint": newest(tmp_path / "run").name}
    (tmp_path / "run" / "test_results.json").write_text(json.dumps(note))
    assert load(tmp_path / "run").results == {}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["test 0.mp4 0", "test 1.mp4", "test 2.mp4 2"], "test.csv:2: 'test 1.mp4' has no label, but line 1 has one"),
        (["test 0.mp4", "", "test 1.mp4 red"], "test.csv:1: 'test 0.mp4' has no label, but line 3 has one"),
        (["test 0.mp4", "test 1.mp4", "test 0.mp4"], "test.csv:3: 'test 0.mp4' is already listed on line 1"),
        (["test 0.mp4 0", "test 1.mp4 blue"], "test.csv:2: label 'blue' is not a class index"),
    ],
)
def test_lists_that_are_neither(experiment, trained, tmp_path, capsys, lines, message):
    (tmp_path / "test.csv").write_text("\n".join(lines))
    with pytest.raises(SystemExit):
        evaluated(experiment, trained, tmp_path, tmp_path / "run")
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("split", ["train", "val"])
def test_training_needs_labels(experiment, tmp_path, capsys, split):
    for file in experiment.iterdir():
        (tmp_path / file.name).symlink_to(file)
    lines = (experiment / f"{split}.csv").read_text().splitlines()
    (tmp_path / f"{split}.csv").unlink()
    (tmp_path / f"{split}.csv").write_text("\n".join(line.rpartition(" ")[0] for line in lines))
    with pytest.raises(SystemExit):
        run(experiment, tmp_path / "run", "DATA.PATH_TO_DATA_DIR", tmp_path, stages=["train"])
    assert f"{split}.csv:1: label '0.mp4' is not a class index" in capsys.readouterr().err
