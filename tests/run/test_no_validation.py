"""A run without validation: because nobody wants it, or because the data has no val split."""

import re
import shutil

import pytest
import torch

from tests.experiment import newest, results, run, stats, weights
from videofib.config import ConfigError, load_config
from videofib.report.comparison import Comparison


@pytest.fixture(scope="module")
def no_list(experiment, tmp_path_factory):
    """The experiment without its val list."""
    folder = shutil.copytree(experiment, tmp_path_factory.mktemp("data") / "no_list")
    (folder / "val.csv").unlink()
    return folder


def off(kind, no_list):
    return ["DATA.PATH_TO_DATA_DIR", no_list] if kind == "no list" else ["TRAIN.EVAL_PERIOD", 0]


@pytest.mark.parametrize("kind", ["no list", "period 0"])
def test_it_trains_to_the_same_weights_tests_reports_and_resumes(experiment, trained, no_list, tmp_path, kind):
    out = run(experiment, tmp_path / "out", *off(kind, no_list))
    log = (out / "log.txt").read_text()
    why = f"{no_list} has no val split" if kind == "no list" else "TRAIN.EVAL_PERIOD is 0"
    assert log.count(f"no validation, since {why}: no figures of it, and no best checkpoint, only the newest") == 1
    assert "12 train and 0 val videos" in log
    assert stats(out, "val_epoch") == []
    assert not (out / "checkpoints" / "best.json").exists()
    assert torch.equal(weights(out), weights(trained))
    assert results(out)["top1_acc"] == results(trained)["top1_acc"]
    page = (out / "report.html").read_text()
    (learning,) = re.findall(r'<section aria-labelledby="learning".*?</section>', page, re.DOTALL)
    assert "Loss" in learning
    assert "validation" not in learning

    newest(out).unlink()  # as a run that was killed in its second epoch
    run(experiment, out, *off(kind, no_list), stages=["train"])
    assert torch.equal(weights(out), weights(trained))
    run(experiment, out, *off(kind, no_list), stages=["train"])
    assert "all 2 epochs are done" in (out / "log.txt").read_text()

    shutil.copytree(trained, tmp_path / "validated")
    rows = {name: cells for name, *cells in Comparison([tmp_path / "validated", out]).figures()}
    assert rows["Epochs"] == ["2", "2"]


def test_what_needs_validation_is_refused_before_training(experiment, no_list, tmp_path, capfd):
    def refused(*options):
        with pytest.raises(SystemExit):
            run(experiment, tmp_path / "out", *options)
        captured = capfd.readouterr()
        assert not (tmp_path / "out" / "checkpoints").exists()
        (line,) = [line for line in (captured.out + captured.err).splitlines() if "error: " in line]
        return line.partition("error: ")[2]

    best = ["TEST.CHECKPOINT_FILE_PATH", "best"]
    assert refused(*off("period 0", no_list), *best).startswith(
        "TEST.CHECKPOINT_FILE_PATH best needs a best checkpoint"
    )
    assert refused(*off("no list", no_list), *best).startswith("TEST.CHECKPOINT_FILE_PATH best needs a best checkpoint")
    for key, value, instead in (("CHECKPOINT.METRIC", "top5_acc", "auto"), ("TRAIN.PATIENCE", 3, 0)):
        assert refused(*off("no list", no_list), key, value) == (
            f"{key} {value} needs validation, and {no_list} has no val split; add val.csv or a folder val, or set "
            f"{key} {instead} to train without it"
        )
        with pytest.raises(ConfigError, match=rf"{key} {value} has no effect: it is only read with"):
            load_config(None, ["TRAIN.EVAL_PERIOD", 0, key, value])


def test_a_val_list_that_is_there_and_wrong_is_still_refused(experiment, no_list, tmp_path, capfd):
    data = shutil.copytree(no_list, tmp_path / "data")
    (data / "val.csv").write_text("val 0.mp4 7\n")
    with pytest.raises(SystemExit):
        run(experiment, tmp_path / "out", "DATA.PATH_TO_DATA_DIR", data)
    assert "the val split has label 7" in "".join(capfd.readouterr())
    (data / "val.csv").write_text("")
    with pytest.raises(SystemExit):
        run(experiment, tmp_path / "out", "DATA.PATH_TO_DATA_DIR", data)
    assert "val.csv lists no videos" in "".join(capfd.readouterr())


def test_without_a_val_list_classes_that_the_training_list_lacks_are_named(experiment, no_list, tmp_path):
    data = shutil.copytree(no_list, tmp_path / "data")
    (data / "classes.txt").unlink()
    words = ["DATA.PATH_TO_DATA_DIR", data, "MODEL.NUM_CLASSES", 4, "SOLVER.MAX_EPOCH", 1]
    run(experiment, tmp_path / "out", *words, stages=["train"])
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "MODEL.NUM_CLASSES is 4, but the train list has videos of 3 classes, labels 0 to 2: none of label 3" in log
