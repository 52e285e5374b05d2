"""The file of scores: scores survive writing and reading, and a foreign or damaged file is reported in one line."""

import json
import math
import os
import random
from dataclasses import replace

import pyarrow
import pytest
import torch
from pyarrow import parquet

import videofib.metrics.scores
import videofib.metrics.table
from videofib.metrics.scores import Scores, ScoresError, read_scores, write_scores

AWKWARD = ["a b/c,d.mp4", os.fsdecode(b"caf\xe9.mp4"), "back\\slash.mp4", "<b>.mp4"]


def made(**changes):
    values = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [torch.nan] * 3, [0.0, 0.0, 1.0]])
    scores = Scores(
        ids=AWKWARD,
        paths=["/data/" + name for name in AWKWARD],
        labels=torch.tensor([0, 1, 2, 2]),
        scores=values,
        view_correct=torch.tensor([1.0, 0.5, 0.0, 0.25]),
        failures={AWKWARD[2]: "no video stream \udfff"},
        num_views=6,
        num_crops=3,
        class_names=["run", "jümp", "swim"],
        view_starts="published",
        precision="bf16",
    )
    return replace(scores, **changes)


@pytest.mark.parametrize("several", [False, True])
def test_scores_survive_writing_and_reading(tmp_path, several):
    scores = made()
    if several:
        multi_hot = torch.tensor([[1.0, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
        scores = replace(scores, labels=multi_hot, kind="sigmoid", view_correct=torch.full((4,), torch.nan))
    file = tmp_path / os.fsdecode(b"caf\xe9") / "s.parquet"
    write_scores(file, scores)
    found = read_scores(file)
    for name in (
        "ids",
        "paths",
        "num_views",
        "num_crops",
        "kind",
        "ensemble",
        "class_names",
        "view_starts",
        "precision",
    ):
        assert getattr(found, name) == getattr(scores, name)
    assert found.failures == {AWKWARD[2]: "no video stream \\udfff"}
    torch.testing.assert_close(found.scores, scores.scores, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(found.labels, scores.labels)
    expected = scores.view_correct.clone()
    expected[2] = torch.nan
    torch.testing.assert_close(found.view_correct, expected, equal_nan=True)


def test_columns_and_metadata_are_as_documented(tmp_path):
    write_scores(tmp_path / "s.parquet", made())
    table = parquet.read_table(tmp_path / "s.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        "video_id": "string",
        "path": "string",
        "label": "int32",
        "scores": "list<element: float>",
        "view_correct": "float",
        "failure": "string",
    }
    assert table["scores"].is_null().to_pylist() == [False, False, True, False]
    about = json.loads(table.schema.metadata[b"videofib"])
    assert about.pop("version")
    assert len(about.pop("sha256")) == 64
    assert about == {
        "num_views": 6,
        "num_temporal_views": 2,
        "num_spatial_crops": 3,
        "num_classes": 3,
        "class_names": ["run", "jümp", "swim"],
        "scores": "softmax",
        "ensemble": "sum",
        "view_starts": "published",
        "precision": "bf16",
    }


def test_a_split_without_a_readable_video_survives_writing_and_reading(tmp_path):
    nothing = made(scores=torch.full((4, 3), torch.nan), failures=dict.fromkeys(AWKWARD, "gone"))
    write_scores(tmp_path / "s.parquet", nothing)
    assert read_scores(tmp_path / "s.parquet").scores.isnan().all()


@pytest.mark.parametrize("labels", [torch.full((4,), -1), torch.zeros(4, 3)], ids=["single", "several"])
def test_a_split_without_labels_survives_writing_and_reading(tmp_path, labels):
    write_scores(tmp_path / "s.parquet", made(labels=labels))
    found = read_scores(tmp_path / "s.parquet")
    assert torch.equal(found.labels, labels)
    assert found.unlabelled
    labels[1] = 0 if labels.ndim == 1 else torch.tensor([1.0, 0, 0])
    assert not made(labels=labels).unlabelled


def changed_metadata(file, **changes):
    table = parquet.read_table(file)
    about = {**json.loads(table.schema.metadata[b"videofib"]), **changes}
    parquet.write_table(table.replace_schema_metadata({b"videofib": json.dumps(about)}), file)


def scores_with(value):
    return pyarrow.array([[0.5, 0.25, 0.25], [0.1, 0.8, value], None, [0, 0, 1]], pyarrow.list_(pyarrow.float32()))


def changed_column(file, name, values):
    table = parquet.read_table(file)
    parquet.write_table(table.set_column(table.column_names.index(name), name, values), file)


def test_no_flipped_bit_is_read_as_other_scores(tmp_path):
    file = tmp_path / "s.parquet"
    write_scores(file, made())
    intact, expected = file.read_bytes(), read_scores(file)
    rng, refused = random.Random(0), 0
    footer = len(intact) - 8 - int.from_bytes(intact[-8:-4], "little")  # which has no checksum of its own
    for number in range(2000):
        byte = rng.randrange(footer if number % 2 else 0, len(intact))
        file.write_bytes(intact[:byte] + bytes([intact[byte] ^ 1 << rng.randrange(8)]) + intact[byte + 1 :])
        try:
            found = read_scores(file)
        except ScoresError:
            refused += 1
            continue
        assert found.ids == expected.ids
        assert torch.equal(found.labels, expected.labels)
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(found.view_correct, expected.view_correct, rtol=0, atol=0, equal_nan=True)
        assert found.failures == expected.failures
        for name in ("paths", "num_views", "num_crops", "kind", "ensemble", "class_names", "view_starts", "precision"):
            assert getattr(found, name) == getattr(expected, name)
    assert refused > 1000


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "no file of scores at"),
        (lambda file: file.write_bytes(b"PAR1 no"), "is damaged or not a Parquet file"),
        (lambda file: file.write_bytes(file.read_bytes()[:-40]), "is damaged or not a Parquet file"),
        (lambda file: parquet.write_table(pyarrow.table({"a": [1]}), file), "videofib did not write it"),
        (
            lambda file: changed_metadata(file, num_classes=4, class_names=None),
            "rows of 3 values",
        ),
        (lambda file: changed_metadata(file, num_classes="3"), "has num_classes '3'"),
        (lambda file: changed_metadata(file, scores="odds"), "scores of kind 'odds'"),
        (lambda file: changed_metadata(file, ensemble="min"), "has an ensemble 'min'"),
        (lambda file: changed_metadata(file, num_views=0), "has num_views 0"),
        (lambda file: changed_metadata(file, num_classes=0, class_names=None), "has num_classes 0"),
        (lambda file: changed_metadata(file, num_classes=10**15), "has num_classes 1000000000000000"),
        (lambda file: changed_metadata(file, num_classes=10**6 + 1), "has num_classes 1000001"),
        (
            lambda file: changed_metadata(file, num_classes=10**6, class_names=None),
            "has rows of 3 values, where 1000000",
        ),
        (lambda file: changed_metadata(file, num_views=10**6 + 1), "has num_views 1000001"),
        (lambda file: changed_metadata(file, num_views=10**6), "its contents are not those that were written"),
        (lambda file: changed_metadata(file, class_names=["a", "b", ["c"]]), "does not name 3 classes"),
        (lambda file: changed_metadata(file, num_views=7), "its contents are not those that were written"),
        (
            lambda file: changed_column(file, "view_correct", pyarrow.array([0, 0, 0, 7], pyarrow.float32())),
            "has view_correct from 0 to 7",
        ),
        (
            lambda file: changed_column(file, "scores", scores_with(math.inf)),
            "has scores that are not finite",
        ),
        (lambda file: changed_column(file, "scores", scores_with(3.0)), "softmax scores from 0 to 3"),
        (lambda file: changed_column(file, "scores", scores_with(-0.5)), "softmax scores from -0.5 to 1"),
        (lambda file: changed_metadata(file, class_names=["a"]), "does not name 3 classes"),
        (lambda file: changed_metadata(file, class_names=["a", "b", "a"]), "does not name 3 classes"),
        (
            lambda file: changed_column(file, "label", pyarrow.array([0, 1, 2, 9], pyarrow.int32())),
            "labels from 0 to 9",
        ),
        (
            lambda file: changed_column(file, "label", pyarrow.array([0, -1, 2, 2], pyarrow.int32())),
            "labels from -1 to 2",
        ),
        (
            lambda file: changed_column(file, "label", pyarrow.array([0, None, 2, 2], pyarrow.int32())),
            r"an empty \(null\) label",
        ),
        (lambda file: changed_column(file, "path", [["a", "b", None, "c"]]), r"an empty \(null\) path"),
        (lambda file: changed_column(file, "video_id", [["a", None, "b", "c"]]), r"an empty \(null\) video_id"),
        (lambda file: changed_column(file, "label", [["0", "1", "2", "2"]]), "column label of string"),
        (lambda file: changed_column(file, "video_id", [["a", "b", "a", "c"]]), "lists a video twice"),
        (
            lambda file: changed_column(file, "failure", pyarrow.array([None] * 4, pyarrow.string())),
            "neither scores nor",
        ),
        (lambda file: parquet.write_table(parquet.read_table(file).drop(["path"]), file), "lacks 'path'"),
    ],
)
def test_a_foreign_or_damaged_file_is_reported_in_one_line(tmp_path, damage, message):
    file = tmp_path / "s.parquet"
    write_scores(file, made())
    damage(file)
    with pytest.raises(ScoresError, match=message) as caught:
        read_scores(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"num_views": 9},
        {"num_spatial_crops": 2},
        {"scores": "sigmoid"},
        {"ensemble": "max"},
        {"view_starts": "spread"},
        {"precision": "fp16"},
        {"class_names": None},
        {"class_names": ["run", "swim", "jümp"]},
    ],
    ids=str,
)
def test_other_metadata_than_was_written_is_noticed(tmp_path, change):
    file = tmp_path / "s.parquet"
    write_scores(file, made())
    changed_metadata(file, **change)
    with pytest.raises(ScoresError, match="its contents are not those that were written"):
        read_scores(file)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("name", ["ids", "paths", "labels", "scores", "view_correct", "failures"])
def test_other_rows_than_were_written_are_noticed(tmp_path, name, several):
    file = tmp_path / "s.parquet"
    scores = made()
    if several:
        scores = replace(scores, labels=torch.tensor([[1.0, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 1]]), kind="sigmoid")
    change = {
        "ids": [AWKWARD[0] + "x", *AWKWARD[1:]],
        "paths": [*scores.paths[:3], "/data/other.mp4"],
        "labels": scores.labels.flip(0),
        "scores": scores.scores.flip(1),
        "view_correct": torch.tensor([1.0, 0.5, 0.0, 0.5]),
        "failures": {AWKWARD[2]: "gone"},
    }[name]
    write_scores(file, scores)
    about = parquet.read_table(file).schema.metadata
    write_scores(file, replace(scores, **{name: change}))
    read_scores(file)
    parquet.write_table(parquet.read_table(file).replace_schema_metadata(about), file)
    with pytest.raises(ScoresError, match="its contents are not those that were written"):
        read_scores(file)


def test_a_file_that_announces_more_values_than_memory_holds_is_refused(tmp_path, monkeypatch):
    """With limits of a dozen: where the real one is not kept, the test would fill the memory."""
    write_scores(tmp_path / "s.parquet", made())
    monkeypatch.setattr(videofib.metrics.scores, "_MOST_VALUES", 12)
    assert len(read_scores(tmp_path / "s.parquet").ids) == 4
    monkeypatch.setattr(videofib.metrics.scores, "_MOST_VALUES", 11)
    with pytest.raises(ScoresError, match="claims to have 4 rows of 3 values"):
        read_scores(tmp_path / "s.parquet")
    monkeypatch.setattr(videofib.metrics.table, "_MOST_ROWS", 4)
    with pytest.raises(ScoresError, match="4 rows of 3 values"):  # four videos are not too many
        read_scores(tmp_path / "s.parquet")
    monkeypatch.setattr(videofib.metrics.table, "_MOST_ROWS", 3)
    with pytest.raises(ScoresError, match=r"claims to have 4 rows$"):
        read_scores(tmp_path / "s.parquet")


@pytest.mark.parametrize(("low", "high"), [(-5e-5, 1.0), (0.0, 1 + 5e-5)])
def test_probabilities_may_leave_0_to_1_by_what_rounding_does(tmp_path, low, high):
    rounded = made(scores=torch.tensor([[low, 0.5, high]] * 4), failures={})
    write_scores(tmp_path / "s.parquet", rounded)
    assert torch.equal(read_scores(tmp_path / "s.parquet").scores, rounded.scores)


def test_many_classes_survive_writing_and_reading(tmp_path):
    many = made(scores=torch.full((4, 700), 1 / 700), failures={}, class_names=None)
    write_scores(tmp_path / "s.parquet", many)
    assert torch.equal(read_scores(tmp_path / "s.parquet").scores, many.scores)
