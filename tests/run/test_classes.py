"""The classes of a run are those of its checkpoint, whatever order, part or layout a data set has them in."""

import re
import shutil

import pytest
import torch
import yaml

from tests.experiment import CLASSES, newest, results, run, stats
from videofib.checkpoint.file import load_checkpoint
from videofib.commands.browse import main as browse
from videofib.metrics.scores import read_scores

OTHER_ORDER = ["blue", "red", "green"]


def with_classes(experiment, folder, names, label_of=None):
    """The lists of the experiment where ``names[i]`` is class i; returns the settings that a run on them takes.

    Args:
        label_of: colour -> text of its label; by default its position in ``names``.
    """
    folder.mkdir()
    label_of = label_of or {name: str(label) for label, name in enumerate(names)}
    for split in ("train", "val", "test"):
        rows = [line.rpartition(" ") for line in (experiment / f"{split}.csv").read_text().splitlines()]
        lines = [f"{path} {label_of[CLASSES[int(label)]]}\n" for path, _, label in rows]
        (folder / f"{split}.csv").write_text("".join(lines))
    if names:
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    return ["DATA.PATH_TO_DATA_DIR", folder, "DATA.PATH_PREFIX", experiment]


def in_folders(experiment, folder, colours, split="test"):
    """The readable test videos of some colours, in one folder each; returns the settings."""
    for number in range(5):
        colour = CLASSES[number % 3]
        if colour in colours:
            (folder / split / colour).mkdir(parents=True, exist_ok=True)
            shutil.copy(experiment / f"test {number}.mp4", folder / split / colour / f"{number}.mp4")
    return ["DATA.PATH_TO_DATA_DIR", folder]


def evaluate(experiment, trained, out, *settings, epoch=2):
    run(experiment, out, *settings, "TEST.CHECKPOINT_FILE_PATH", newest(trained, epoch), stages=["test"])


def fails(capsys, experiment, out, *settings, stages):
    """The one line that a run which fails prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run(experiment, out, *settings, stages=stages)
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    return line


def without_names(checkpoint, file):
    """A checkpoint as they were before they named their classes."""
    content = load_checkpoint(checkpoint)
    del content["classes"]
    torch.save(content, file)
    return file


def log(folder):
    return (folder / "log.txt").read_text()


def test_another_order_of_classes_changes_no_figure(experiment, trained, tmp_path):
    evaluate(experiment, trained, tmp_path / "run", *with_classes(experiment, tmp_path / "data", OTHER_ORDER))
    expected, found = results(trained), results(tmp_path / "run")
    for key in ("top1_acc", "per_class_acc", "mean_class_acc", "most_confused", "accuracy_by_views", "class_names"):
        assert found[key] == expected[key], key
    assert found["class_names"] == CLASSES
    ours, theirs = (read_scores(folder / "test_scores.parquet") for folder in (tmp_path / "run", trained))
    assert ours.class_names == CLASSES
    assert torch.equal(ours.labels, theirs.labels)
    assert torch.equal(ours.scores.nan_to_num(), theirs.scores.nan_to_num())
    assert "mapped by name to the model's 3 classes" in log(tmp_path / "run")


@pytest.mark.parametrize("colours", [["green", "blue"], ["blue"]])
def test_folders_of_some_of_the_classes_are_tested_as_these_classes(experiment, trained, tmp_path, colours):
    evaluate(experiment, trained, tmp_path / "run", *in_folders(experiment, tmp_path / "data", colours))
    all_scores = read_scores(trained / "test_scores.parquet")
    expected = dict.fromkeys(CLASSES)
    for colour in colours:
        own = [n for n in range(5) if CLASSES[n % 3] == colour]
        right = [CLASSES[all_scores.scores[n].argmax()] == colour for n in own]
        expected[colour] = 100.0 * sum(right) / len(own)
    assert results(tmp_path / "run")["per_class_acc"] == expected
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(colour in page for colour in colours)


def test_a_model_trained_on_folders_names_their_classes(experiment, tmp_path):
    for split in ("train", "val", "test"):
        in_folders(experiment, tmp_path / "data", CLASSES, split)
    run(experiment, tmp_path / "run", "DATA.PATH_TO_DATA_DIR", tmp_path / "data", "SOLVER.MAX_EPOCH", 1)
    assert load_checkpoint(newest(tmp_path / "run", 1))["classes"] == sorted(CLASSES)
    assert list(results(tmp_path / "run")["per_class_acc"]) == sorted(CLASSES)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "class 0" not in page
    assert all(colour in page for colour in CLASSES)


def test_labels_of_several_classes_are_mapped_too(experiment, tmp_path):
    """The model is trained where green videos are also blue, and tested on the same videos in another order."""
    several = ["MODEL.LOSS_FUNC", "bce_logit", "SOLVER.MAX_EPOCH", 1]
    first = with_classes(experiment, tmp_path / "one", CLASSES, {"red": "0", "green": "1,2", "blue": "2"})
    run(experiment, tmp_path / "run", *first, *several)
    other = with_classes(experiment, tmp_path / "two", OTHER_ORDER, {"red": "1", "green": "2,0", "blue": "0"})
    evaluate(experiment, tmp_path / "run", tmp_path / "again", *other, *several, epoch=1)
    expected, found = (read_scores(tmp_path / name / "test_scores.parquet") for name in ("run", "again"))
    assert torch.equal(found.labels, expected.labels)
    assert results(tmp_path / "again")["per_class_ap"] == results(tmp_path / "run")["per_class_ap"]


def test_classes_that_the_checkpoint_does_not_know_are_refused(experiment, trained, tmp_path, capsys):
    weights = ["TEST.CHECKPOINT_FILE_PATH", newest(trained)]
    data = with_classes(experiment, tmp_path / "data", ["red", "green", "navy"], dict(zip(CLASSES, "012", strict=True)))
    line = fails(capsys, experiment, tmp_path / "run", *data, *weights, stages=["test"])
    assert "'navy' is not among the classes ['red', 'green', 'blue']" in line
    assert str(tmp_path / "data" / "classes.txt") in line
    (tmp_path / "folders" / "test" / "purple").mkdir(parents=True)
    data = in_folders(experiment, tmp_path / "folders", ["green"])
    line = fails(capsys, experiment, tmp_path / "run", *data, *weights, stages=["test"])
    assert "'purple' is not among the classes" in line
    line = fails(capsys, experiment, tmp_path / "run", "MODEL.NUM_CLASSES", 2, *weights, stages=["test"])
    assert "has 3 classes, ['red', 'green', 'blue'], but MODEL.NUM_CLASSES is 2" in line


def test_names_that_only_one_side_has_are_warned_of_once(experiment, trained, tmp_path):
    old = without_names(newest(trained), tmp_path / "old.pyth")
    run(experiment, tmp_path / "run", "TEST.CHECKPOINT_FILE_PATH", old, stages=["test"])
    assert log(tmp_path / "run").count("old.pyth does not name its classes, so they cannot be compared with") == 1
    assert results(tmp_path / "run")["per_class_acc"] == results(trained)["per_class_acc"]
    bare = with_classes(experiment, tmp_path / "data", [], dict(zip(CLASSES, "012", strict=True)))
    evaluate(experiment, trained, tmp_path / "bare", *bare)
    assert log(tmp_path / "bare").count("does not name its classes, so they cannot be compared with") == 1
    assert results(tmp_path / "bare")["per_class_acc"] == results(trained)["per_class_acc"]
    run(experiment, tmp_path / "neither", *bare, "TEST.CHECKPOINT_FILE_PATH", old, stages=["test"])
    assert "does not name its classes" not in log(tmp_path / "neither")


def test_a_run_does_not_resume_on_classes_of_another_order(experiment, trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    data = with_classes(experiment, tmp_path / "data", OTHER_ORDER)
    line = fails(capsys, experiment, tmp_path / "run", *data, "SOLVER.MAX_EPOCH", 3, stages=["train"])
    assert "class 0 is 'red' there, 'blue' here" in line
    assert not newest(tmp_path / "run", 3).exists()
    without_names(newest(trained), newest(tmp_path / "run"))  # nothing to compare with
    run(experiment, tmp_path / "run", *data, "SOLVER.MAX_EPOCH", 3, stages=["train"])
    assert load_checkpoint(newest(tmp_path / "run", 3))["classes"] == OTHER_ORDER
    assert "does not name its classes, so they cannot be compared with those of the data set" in log(tmp_path / "run")


def test_a_run_whose_data_set_loses_its_names_keeps_them(experiment, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    bare = with_classes(experiment, tmp_path / "data", [], dict(zip(CLASSES, "012", strict=True)))
    run(experiment, tmp_path / "run", *bare, "SOLVER.MAX_EPOCH", 3, stages=["train"])
    assert load_checkpoint(newest(tmp_path / "run", 3))["classes"] == CLASSES
    assert log(tmp_path / "run").count("the data set does not name its classes, so they cannot be compared") == 1


def fine_tuned(experiment, out, *settings):
    """The classifier after a step that changes almost nothing."""
    still = ["SOLVER.MAX_EPOCH", 1, "SOLVER.WARMUP_EPOCHS", 0, "SOLVER.BASE_LR", 1e-20, "SOLVER.COSINE_END_LR", 0]
    run(experiment, out, *settings, *still, stages=["train"])
    return load_checkpoint(newest(out, 1))["model_state"]["head.weight"]


def test_fine_tuning_keeps_the_classifier_of_the_same_classes_by_name(experiment, trained, tmp_path):
    trained_head = load_checkpoint(newest(trained))["model_state"]["head.weight"]
    source = ["TRAIN.CHECKPOINT_FILE_PATH", newest(trained)]
    data = with_classes(experiment, tmp_path / "data", OTHER_ORDER)
    head = fine_tuned(experiment, tmp_path / "order", *data, *source)
    assert torch.equal(head, trained_head[[2, 0, 1]])
    named = with_classes(
        experiment, tmp_path / "other", ["one", "two", "three"], dict(zip(CLASSES, "012", strict=True))
    )
    head = fine_tuned(experiment, tmp_path / "names", *named, *source)
    assert not torch.isclose(head, trained_head).any()
    assert "unused: head.weight: 3x24, for other classes: ['one', 'two', 'three'] are not" in log(tmp_path / "names")
    old = without_names(newest(trained), tmp_path / "old.pyth")
    head = fine_tuned(experiment, tmp_path / "unknown", *named, "TRAIN.CHECKPOINT_FILE_PATH", old)
    assert torch.equal(head, trained_head)
    assert "old.pyth does not name its classes, so the classifier" in log(tmp_path / "unknown")
    bare = with_classes(experiment, tmp_path / "bare", [], dict(zip(CLASSES, "012", strict=True)))
    head = fine_tuned(experiment, tmp_path / "unnamed", *bare, *source)
    assert torch.equal(head, trained_head)
    assert "the data set does not name its classes, so the classifier" in log(tmp_path / "unnamed")


def test_a_teacher_answers_in_the_students_order_of_classes(experiment, trained, tmp_path, capsys):
    """A student with the teacher's weights has no divergence from it, also where its classes are in another order."""
    distill = ["DISTILL.CONFIG", trained / "config.yaml", "DISTILL.CHECKPOINT", newest(trained), "DISTILL.ALPHA", 0.5]
    data = with_classes(experiment, tmp_path / "data", OTHER_ORDER)
    fine_tuned(experiment, tmp_path / "run", *distill, *data, "TRAIN.CHECKPOINT_FILE_PATH", newest(trained))
    (epoch,) = stats(tmp_path / "run", "train_epoch")
    assert epoch["teacher_loss"] == pytest.approx(0.0, abs=1e-6)
    named = with_classes(
        experiment, tmp_path / "other", ["one", "two", "three"], dict(zip(CLASSES, "012", strict=True))
    )
    line = fails(capsys, experiment, tmp_path / "again", *distill, *named, stages=["train"])
    assert "head.weight (3x24, for other classes: ['one', 'two', 'three'] are not among" in line


def test_classes_without_a_video_are_warned_of_where_nothing_names_them(experiment, tmp_path):
    bare = with_classes(experiment, tmp_path / "data", [], dict(zip(CLASSES, "012", strict=True)))
    settings = [*bare, "SOLVER.MAX_EPOCH", 1]
    run(experiment, tmp_path / "wide", *settings, "MODEL.NUM_CLASSES", 400, stages=["train"])
    said = (
        "MODEL.NUM_CLASSES is 400, but the train and val lists have videos of 3 classes, labels 0 to 2: none of label 3"
    )
    assert said in log(tmp_path / "wide")
    run(experiment, tmp_path / "right", *settings, stages=["train"])
    assert "MODEL.NUM_CLASSES" not in log(tmp_path / "right")


def test_a_split_in_folders_beside_one_in_a_list_is_warned_of(experiment, tmp_path):
    folders, lists = tmp_path / "folders", tmp_path / "lists"
    bare = with_classes(experiment, lists, [], dict(zip(CLASSES, "012", strict=True)))
    in_folders(experiment, folders, CLASSES, "val")
    in_folders(experiment, folders, CLASSES, "train")
    settings = ["SOLVER.MAX_EPOCH", 1, *bare]
    shutil.copytree(folders / "val", lists / "val")
    (lists / "val.csv").unlink()
    run(experiment, tmp_path / "one", *settings, stages=["train"])
    assert "the val split names its classes by its folders, and the train split does not" in log(tmp_path / "one")
    shutil.copytree(folders / "train", lists / "train")
    (lists / "train.csv").unlink()
    shutil.copy(experiment / "val.csv", lists)
    run(experiment, tmp_path / "other", *settings, stages=["train"])
    assert log(tmp_path / "other").count("the val split in") == 1


def test_folders_of_another_number_of_classes_than_the_model_has_are_refused(experiment, tmp_path, capsys):
    for split in ("train", "val"):
        in_folders(experiment, tmp_path / "data", CLASSES, split)
    data = ["DATA.PATH_TO_DATA_DIR", tmp_path / "data", "MODEL.NUM_CLASSES", 400]
    line = fails(capsys, experiment, tmp_path / "run", *data, stages=["train"])
    assert f"{tmp_path / 'data'} names 3 classes, but MODEL.NUM_CLASSES is 400" in line


@pytest.mark.parametrize("colours", [CLASSES, ["green", "blue"]])
def test_browsing_shows_the_names_of_folders(experiment, tmp_path, colours):
    in_folders(experiment, tmp_path / "data", colours, "test")
    config = yaml.safe_load((experiment / "config.yaml").read_text())
    config["DATA"]["PATH_TO_DATA_DIR"] = str(tmp_path / "data")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    words = ["--cfg", tmp_path / "config.yaml", "--split", "test", "--num", 5, "--out", tmp_path / "page"]
    browse(list(map(str, words)))
    page = (tmp_path / "page" / "index.html").read_text()
    assert re.findall("class [0-9]", page) == []
    assert all(colour in page for colour in colours)
