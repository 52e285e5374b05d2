"""Which checkpoints are kept, which is the best, and what a resumed run knows of them."""

import json
import logging
import math

import pytest
import torch
from torch import nn

from videofib.checkpoint.best import RECORD
from videofib.checkpoint.file import CheckpointError, ModelDescription, Position, TrainingState, load_checkpoint
from videofib.checkpoint.manager import CheckpointManager, best_checkpoint, find_checkpoints, latest_checkpoint


def make_manager(folder, metric="top1_acc", **options):
    model = nn.Linear(2, 1)
    return CheckpointManager(
        folder, TrainingState(model, torch.optim.SGD(model.parameters())), metric=metric, **options
    )


def touch(folder, *positions):
    for epoch, step in positions:
        within = f"_step_{step:06d}" if step else ""
        (folder / f"checkpoint_epoch_{epoch:05d}{within}.pyth").touch()


def left(folder):
    return sorted(path.stem.removeprefix("checkpoint_epoch_") for path in folder.glob("*.pyth"))


def train_epochs(manager, outcomes, metric="top1_acc", first=1, save=True):
    """Save and validate an epoch for each outcome."""
    for epoch, figure in enumerate(outcomes, start=first):
        if save:
            manager.save(Position(epoch))
        manager.validated(epoch, {metric: figure})


@pytest.fixture
def heard(caplog, monkeypatch):
    """The log's text, wherever an earlier test has sent it."""
    monkeypatch.setattr(logging.getLogger("videofib"), "propagate", True)
    return caplog


def test_all_stay_or_the_newest_and_the_best(tmp_path):
    others = [(1, 0), (9, 0), (10, 0), (100000, 0), (100000, 5)]
    for keep, expected in [
        (0, ["00001", "00002", "00009", "00010", "100000", "100000_step_000005", "100001"]),
        (2, ["00002", "100000", "100000_step_000005", "100001"]),
    ]:
        manager = make_manager(tmp_path / str(keep), keep=keep)
        train_epochs(manager, [50.0], first=2)
        touch(tmp_path / str(keep), *others)
        manager.save(Position(100001))
        assert left(tmp_path / str(keep)) == expected


def test_checkpoints_within_an_epoch_are_kept_while_among_the_newest_two(tmp_path):
    manager = make_manager(tmp_path)
    for epoch, step in [(0, 5), (0, 10), (1, 0), (1, 5), (1, 10), (1, 15), (2, 0)]:
        manager.save(Position(epoch, step, [{"meter": {"loss": 0.5}}]))
        newest, content = latest_checkpoint(tmp_path)
        assert (content["epoch"], content["step"]) == (epoch, step)
    assert left(tmp_path) == ["00001", "00001_step_000015", "00002"]
    assert load_checkpoint(newest)["states"] == [{"meter": {"loss": 0.5}}]


def test_the_newest_epoch_is_the_latest_whatever_the_file_times_say(tmp_path):
    manager = make_manager(tmp_path)
    for epoch in (2, 100000, 99999):
        manager.save(Position(epoch))
    names = [path.name for path in find_checkpoints(tmp_path)]
    assert names == [f"checkpoint_epoch_{epoch}.pyth" for epoch in ("00002", "99999", "100000")]
    assert latest_checkpoint(tmp_path)[1]["epoch"] == 100000
    assert latest_checkpoint(tmp_path / "none") is None


def test_a_damaged_newest_file_is_reported_and_the_one_before_it_used(tmp_path, heard):
    manager = make_manager(tmp_path)
    manager.save(Position(1))
    newest = manager.save(Position(2))
    newest.write_bytes(newest.read_bytes()[:-300])
    resumed = make_manager(tmp_path).resume()
    assert resumed.position == Position(1, states=[])
    assert resumed.path.name == "checkpoint_epoch_00001.pyth"
    assert "checkpoint_epoch_00002.pyth is damaged" in heard.text

    resumed.path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        make_manager(tmp_path).resume()


def test_an_epoch_without_a_figure_is_remembered_and_is_never_the_best(tmp_path, heard):
    """Such as one of a list without labels, or of a model that has diverged."""
    manager = make_manager(tmp_path)
    train_epochs(manager, [None, math.inf])
    train_epochs(manager, [math.nan], first=3, save=False)
    assert left(tmp_path) == ["00001", "00002"]
    later = make_manager(tmp_path)
    later.resume()
    assert not later.awaits_validation(2)
    assert "damaged" not in heard.text
    with pytest.raises(CheckpointError, match="names no best checkpoint"):
        best_checkpoint(tmp_path)
    train_epochs(later, [-5.0], first=3, save=False)  # any figure is better
    assert best_checkpoint(tmp_path).name == "checkpoint_epoch_00003.pyth"


def test_a_record_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / RECORD).mkdir()
    with pytest.raises(CheckpointError, match=rf"^cannot write {tmp_path}/best\.json: .*Is a directory"):
        make_manager(tmp_path).validated(1, {"top1_acc": 5.0})


def test_a_run_without_checkpoints_has_nothing_to_resume_and_clears_what_a_killed_one_was_writing(tmp_path):
    (tmp_path / ".0123.partial").touch()
    assert make_manager(tmp_path).resume() is None
    assert list(tmp_path.iterdir()) == []


def test_the_best_is_the_first_of_the_highest_and_is_never_removed(tmp_path):
    manager = make_manager(tmp_path, keep=2)
    for epoch, figure in enumerate([50.0, 70.0, 60.0, 70.0, math.nan, None, 69.9], start=1):
        train_epochs(manager, [figure], first=epoch)
        assert best_checkpoint(tmp_path).name == f"checkpoint_epoch_{min(epoch, 2):05d}.pyth"
    assert left(tmp_path) == ["00002", "00006", "00007"]
    assert json.loads((tmp_path / RECORD).read_text())["epochs"][4]["figure"] is None


def test_the_best_is_saved_for_that_alone_and_removed_when_there_is_a_better_one(tmp_path):
    manager = make_manager(tmp_path, metric="mAP")
    train_epochs(manager, [10.0], "mAP", save=False)
    assert left(tmp_path) == ["00001"]
    train_epochs(manager, [20.0], "mAP", first=2)  # saved in any case
    assert left(tmp_path) == ["00002"]
    train_epochs(manager, [30.0], "mAP", first=3, save=False)
    train_epochs(manager, [25.0], "mAP", first=4)
    assert left(tmp_path) == ["00002", "00003", "00004"]
    later = make_manager(tmp_path, metric="mAP")  # knows that the third was kept as the best alone
    later.resume()
    train_epochs(later, [40.0], "mAP", first=5)
    assert left(tmp_path) == ["00002", "00004", "00005"]


def test_a_resumed_run_does_not_save_the_epoch_again_that_it_resumed_from(tmp_path):
    manager = make_manager(tmp_path)
    written = manager.save(Position(1))
    later = make_manager(tmp_path)
    later.resume()
    before = written.stat()
    later.validated(1, {"top1_acc": 10.0})
    assert (written.stat().st_ino, written.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not json.loads((tmp_path / RECORD).read_text())["epochs"][0]["only_as_best"]


def test_a_resumed_run_remembers_and_one_resumed_from_an_earlier_epoch_forgets_later_ones(tmp_path):
    manager = make_manager(tmp_path)
    train_epochs(manager, [60.0, 50.0, 80.0, 70.0])
    same = make_manager(tmp_path)
    same.resume()
    assert not same.awaits_validation(4)
    assert same.awaits_validation(5)
    train_epochs(same, [80.0], first=5, save=False)
    assert left(tmp_path) == ["00001", "00002", "00003", "00004"]  # no better than the third

    for epoch in (3, 4):
        (tmp_path / f"checkpoint_epoch_{epoch:05d}.pyth").unlink()
    back = make_manager(tmp_path)
    assert back.resume().position.epoch == 2
    assert back.awaits_validation(3)
    train_epochs(back, [60.0], first=3, save=False)
    assert left(tmp_path) == ["00001", "00002"]
    train_epochs(back, [61.0], first=3, save=False)
    assert left(tmp_path) == ["00001", "00002", "00003"]


def test_an_epoch_whose_checkpoint_is_gone_cannot_be_the_best(tmp_path):
    manager = make_manager(tmp_path)
    train_epochs(manager, [60.0, 50.0])
    (tmp_path / "checkpoint_epoch_00001.pyth").unlink()  # by the user, say
    train_epochs(manager, [51.0], first=3, save=False)
    assert left(tmp_path) == ["00002", "00003"]
    assert best_checkpoint(tmp_path).name == "checkpoint_epoch_00003.pyth"


def test_a_best_that_is_surpassed_goes_at_once(tmp_path):
    manager = make_manager(tmp_path, keep=1)
    train_epochs(manager, [50.0, 40.0])
    assert left(tmp_path) == ["00001", "00002"]
    train_epochs(manager, [60.0], first=3)
    assert left(tmp_path) == ["00003"]


def test_validation_alone_removes_nothing_that_was_there_before(tmp_path):
    names = [(0, 5), (0, 7), (0, 9), (1, 0), (2, 0)]
    touch(tmp_path, *names)
    make_manager(tmp_path, keep=1).validated(1, {"top1_acc": None})
    assert len(left(tmp_path)) == len(names)


def test_a_record_without_checkpoints_is_of_no_epoch(tmp_path):
    train_epochs(make_manager(tmp_path), [60.0])
    (tmp_path / "checkpoint_epoch_00001.pyth").unlink()
    manager = make_manager(tmp_path)
    assert manager.resume() is None
    assert manager.awaits_validation(1)


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        (["a", "b"], ["a", "b"], ""),
        (None, None, ""),
        (None, ["a", "b"], "checkpoint_epoch_00001.pyth does not name its classes"),
        (["a", "b"], None, "the data set does not name its classes"),
    ],
)
def test_classes_that_cannot_be_compared_are_logged(tmp_path, heard, theirs, ours, said):
    make_manager(tmp_path, description=ModelDescription(classes=theirs)).save(Position(1))
    manager = make_manager(tmp_path, description=ModelDescription(classes=ours))
    manager.resume()
    assert said in heard.text
    assert ("not name its classes" in heard.text) == bool(said)
    assert manager.description.classes == (theirs or ours)


def test_a_run_does_not_resume_with_other_classes(tmp_path):
    make_manager(tmp_path, description=ModelDescription(classes=["a", "b"])).save(Position(1))
    for other, message in ((["a", "c"], "class 1 is 'b' there, 'c' here"), (["a"], "2 classes there")):
        with pytest.raises(CheckpointError, match=message):
            make_manager(tmp_path, description=ModelDescription(classes=other)).resume()


def test_without_a_metric_there_is_no_best(tmp_path):
    manager = make_manager(tmp_path, metric=None)
    train_epochs(manager, [60.0])
    assert not manager.awaits_validation(1)
    assert not (tmp_path / RECORD).exists()


def test_figures_of_another_metric_are_not_compared(tmp_path, heard):
    train_epochs(make_manager(tmp_path), [90.0])
    manager = make_manager(tmp_path, metric="mean_class_acc")
    manager.resume()
    train_epochs(manager, [5.0], "mean_class_acc", first=2, save=False)
    assert best_checkpoint(tmp_path).name == "checkpoint_epoch_00002.pyth"
    assert "was chosen by top1_acc and is now chosen by mean_class_acc" in heard.text


@pytest.mark.parametrize("name", ["../outside.pyth", "checkpoint_epoch_00001.pyth", "\x1b[2J", "x" * 9999])
def test_the_best_is_a_checkpoint_of_the_folder(tmp_path, name):
    (tmp_path / "outside.pyth").touch()
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    with pytest.raises(CheckpointError, match=r"no .*best\.json, which validation writes"):
        best_checkpoint(folder)
    (folder / RECORD).write_text(json.dumps({"best": name, "metric": "top1_acc", "epochs": []}))
    touch(folder, (2, 0))
    with pytest.raises(CheckpointError, match="is not a checkpoint in that folder") as caught:
        best_checkpoint(folder)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_without_a_finite_figure_no_checkpoint_is_the_best(tmp_path):
    train_epochs(make_manager(tmp_path), [math.nan])
    with pytest.raises(CheckpointError, match=r"best\.json names no best checkpoint; name a checkpoint file"):
        best_checkpoint(tmp_path)
