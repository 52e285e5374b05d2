"""The csv file of predictions: what a spreadsheet shows of each video, and that it runs nothing."""

import csv
import os

import pytest
import torch

from tests.metrics.test_scores import AWKWARD, made
from videofib.metrics.predictions import write_predictions


def rows_of(folder, scores):
    write_predictions(folder / "p.csv", scores)
    assert [file.name for file in folder.iterdir()] == ["p.csv"]
    with (folder / "p.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_row_has_the_true_class_and_the_most_probable_ones(tmp_path):
    rows = rows_of(tmp_path, made())
    assert list(rows[0]) == [
        *("video", "label", "class", "predicted_1", "probability_1", "predicted_2", "probability_2"),
        *("predicted_3", "probability_3", "error"),
    ]
    assert [row["video"] for row in rows] == [
        *("/data/a b/c,d.mp4", r"/data/caf\xe9.mp4", r"/data/back\\slash.mp4", "/data/<b>.mp4")
    ]
    assert [(row["label"], row["class"], row["predicted_1"], row["probability_1"]) for row in rows] == [
        *(("0", "run", "run", "0.5"), ("1", "jümp", "jümp", "0.8"), ("2", "swim", "", ""), ("2", "swim", "swim", "1"))
    ]
    assert [row["error"] for row in rows] == ["", "", r"no video stream \udfff", ""]


def test_there_are_five_predictions_at_most(tmp_path):
    scores = made(scores=torch.eye(7)[:4], class_names=None)
    row = rows_of(tmp_path, scores)[3]
    assert "predicted_5" in row
    assert "predicted_6" not in row
    assert (row["label"], row["class"], row["predicted_1"]) == ("2", "", "3")


def test_a_video_may_have_several_classes_or_none_that_are_known(tmp_path):
    several = made(labels=torch.tensor([[1.0, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 0]]), kind="sigmoid")
    assert [(row["label"], row["class"]) for row in rows_of(tmp_path, several)] == [
        *(("0 2", "run | swim"), ("1", "jümp"), ("2", "swim"), ("", ""))
    ]
    unknown = made(labels=torch.full((4,), -1))
    assert {(row["label"], row["class"]) for row in rows_of(tmp_path, unknown)} == {("", "")}


@pytest.mark.parametrize("several", [False, True])
def test_logits_become_probabilities(tmp_path, several):
    logits = torch.tensor([[2.0, -1.0, 0.5]] * 4)
    labels = torch.zeros(4, 3) if several else torch.zeros(4, dtype=torch.int64)
    row = rows_of(tmp_path, made(scores=logits, kind="logit", labels=labels))[0]
    expected = logits[0].sigmoid() if several else logits[0].softmax(dim=0)
    assert float(row["probability_2"]) == pytest.approx(expected[2].item(), abs=1e-6)


def test_no_text_is_a_formula(tmp_path):
    paths = ['=HYPERLINK("http://x","y").mp4', "+1.mp4", "-1.mp4", "\t@SUM(A1).mp4"]
    names = ["@run", 'jump "high", far\nor not', "=swim"]
    scores = made(paths=paths, class_names=names, failures={AWKWARD[2]: "=cmd"})
    rows = rows_of(tmp_path, scores)
    assert [row["video"] for row in rows] == [f"'{path}" for path in paths]
    assert [row["class"] for row in rows] == ["'@run", names[1], "'=swim", "'=swim"]
    assert rows[2]["error"] == "'=cmd"


def test_a_file_that_cannot_be_written_is_not_left_in_part(tmp_path):
    (tmp_path / "p.csv").write_text("earlier")
    with pytest.raises(UnicodeEncodeError):
        write_predictions(tmp_path / "p.csv", made(paths=["a", "b", "\ud800", os.fsdecode(b"\xe9")]))
    assert (tmp_path / "p.csv").read_text() == "earlier"
    assert [file.name for file in tmp_path.iterdir()] == ["p.csv"]
