"""Which checkpoints stay, and which of them is the best."""

import json
import math

import pytest

from videofib.checkpoint.file import CheckpointError
from videofib.checkpoint.retention import RECORD, BestKeeper, best_checkpoint, remove_old


def touch(folder, *positions):
    for epoch, step in positions:
        within = f"_step_{step:06d}" if step else ""
        (folder / f"checkpoint_epoch_{epoch:05d}{within}.pyth").touch()


def left(folder):
    return sorted(path.stem.removeprefix("checkpoint_epoch_") for path in folder.glob("*.pyth"))


def test_the_newest_stay_and_the_best(tmp_path):
    touch(tmp_path, (1, 0), (2, 0), (9, 0), (10, 0), (10, 5), (100000, 0), (100000, 5))
    remove_old(tmp_path, 0)
    assert len(left(tmp_path)) == 7
    remove_old(tmp_path, 2, spare=2)
    assert left(tmp_path) == ["00002", "00010", "00010_step_000005", "100000", "100000_step_000005"]


def test_the_best_is_the_first_of_the_highest_and_is_never_removed(tmp_path):
    keeper = BestKeeper(tmp_path, "top1_acc", keep=2)
    figures = [50.0, 70.0, 60.0, 70.0, math.nan, None, 69.9]
    for epoch, figure in enumerate(figures, start=1):
        touch(tmp_path, (epoch, 0))
        keeper.remove_old()
        assert keeper.improves({"top1_acc": figure}) == (epoch <= 2)
        keeper.note(epoch, {"top1_acc": figure})
    assert left(tmp_path) == ["00002", "00006", "00007"]
    assert best_checkpoint(tmp_path).name == "checkpoint_epoch_00002.pyth"
    assert json.loads((tmp_path / RECORD).read_text())["epochs"][4]["figure"] is None


def test_a_checkpoint_that_was_only_the_best_goes_with_its_crown(tmp_path):
    keeper = BestKeeper(tmp_path, "mAP")
    for epoch, figure in [(1, 10.0), (2, 20.0), (3, 30.0), (4, 25.0)]:
        touch(tmp_path, (epoch, 0))
        keeper.note(epoch, {"mAP": figure}, only_as_best=epoch in (1, 3))
    assert left(tmp_path) == ["00002", "00003", "00004"]
    later = BestKeeper(tmp_path, "mAP", epoch=4)
    touch(tmp_path, (5, 0))
    later.note(5, {"mAP": 40.0})
    assert left(tmp_path) == ["00002", "00004", "00005"]


def test_a_run_that_goes_on_remembers_and_one_that_goes_back_forgets(tmp_path):
    keeper = BestKeeper(tmp_path, "top1_acc")
    for epoch, figure in [(1, 60.0), (2, 50.0), (3, 80.0), (4, 70.0)]:
        touch(tmp_path, (epoch, 0))
        keeper.note(epoch, {"top1_acc": figure})
    same = BestKeeper(tmp_path, "top1_acc", epoch=4)
    assert same.has_seen(4)
    assert not same.has_seen(5)
    assert not same.improves({"top1_acc": 80.0})
    back = BestKeeper(tmp_path, "top1_acc", epoch=2)
    assert not back.has_seen(3)
    assert back.improves({"top1_acc": 61.0})
    assert not back.improves({"top1_acc": 60.0})
    (tmp_path / "checkpoint_epoch_00001.pyth").unlink()  # by its owner, say
    assert back.improves({"top1_acc": 51.0})
    back.note(2, {"top1_acc": 50.0})
    assert best_checkpoint(tmp_path).name == "checkpoint_epoch_00002.pyth"


@pytest.mark.parametrize("text", ["", "[]", '{"metric": "top1_acc"}', '{"epochs": [{"epoch": "x"}]}', "[" * 10**5])
def test_a_damaged_record_is_told_of_and_begun_anew(tmp_path, text, caplog):
    (tmp_path / RECORD).write_text(text)
    touch(tmp_path, (1, 0))
    keeper = BestKeeper(tmp_path, "top1_acc", epoch=1)
    assert "best.json is damaged" in caplog.text
    assert not keeper.has_seen(1)
    with pytest.raises(CheckpointError, match=r"best\.json is damaged .*; name a checkpoint file instead of best"):
        best_checkpoint(tmp_path)


def test_figures_of_another_metric_are_not_compared(tmp_path, caplog):
    touch(tmp_path, (1, 0))
    BestKeeper(tmp_path, "top1_acc").note(1, {"top1_acc": 90.0})
    assert BestKeeper(tmp_path, "mean_class_acc", epoch=1).improves({"mean_class_acc": 5.0})
    assert "was chosen by top1_acc and is now by mean_class_acc" in caplog.text


@pytest.mark.parametrize("name", ["../outside.pyth", "checkpoint_epoch_00001.pyth", None, ["x"]])
def test_the_best_is_a_checkpoint_of_the_folder(tmp_path, name):
    (tmp_path / "outside.pyth").touch()
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    with pytest.raises(CheckpointError, match=r"no .*best\.json, which validation writes"):
        best_checkpoint(folder)
    (folder / RECORD).write_text(json.dumps({"best": name}))
    touch(folder, (2, 0))
    with pytest.raises(CheckpointError, match="is no checkpoint there"):
        best_checkpoint(folder)
