"""What a meter counts outlives the process, as far as the checkpoint has it."""

import math
import time

import pytest
import torch

from videofib.engine.meter import Meter


def meter(step=0):
    return Meter(4, step, 1, 0, torch.device("cpu"))


def test_the_speed_of_a_resumed_epoch_is_that_of_all_its_clips_over_all_its_seconds():
    before = meter()
    list(before.timed(time.sleep(0.1) for _ in range(2)))
    for _ in range(2):
        before.add(torch.tensor(1.0), None, [], 4)
    after = meter(step=2)
    after.restore(before.state())
    after.add(torch.tensor(1.0), None, [], 4)
    found = after.epoch_figures()
    assert found["clips_per_second"] * found["seconds"] == pytest.approx(12)
    assert 0.2 < found["data_wait"] * found["seconds"] < 0.3


def test_a_checkpoint_without_clips_and_waits_leaves_the_speed_unknown():
    before = meter().state()
    del before["clips"], before["waited"]  # as earlier versions wrote it
    after = meter()
    after.restore(before)
    after.add(torch.tensor(1.0), None, [], 4)
    found = after.epoch_figures()
    assert math.isnan(found["clips_per_second"])
    assert math.isnan(found["data_wait"])
    assert found["loss"] == 1.0


def test_the_first_remaining_time_does_not_count_what_the_first_batch_waited_for():
    found = Meter(101, 0, 1, 0, torch.device("cpu"))
    time.sleep(1.0)  # as a compiler takes
    found.add(torch.tensor(1.0), None, [], 4)
    assert found.recent_figures()["eta"] is None
    found.add(torch.tensor(1.0), None, [], 4)
    assert found.recent_figures()["eta"] <= "0:00:30"  # else at least 49 s


def test_parts_of_the_loss_outlive_the_process_and_a_part_that_is_new_starts_from_nothing():
    def with_parts(*names, step=0):
        return Meter(4, step, 1, 0, torch.device("cpu"), parts=names)

    before = with_parts("teacher_loss", "balance")
    before.add(torch.tensor(1.0), None, [], 4, {"teacher_loss": torch.tensor(2.0), "balance": torch.tensor(5.0)})
    before.add(torch.tensor(1.0), None, [], 4, {"teacher_loss": torch.tensor(math.nan)})
    after = with_parts("teacher_loss", "new", step=2)
    after.restore(before.state())
    after.add(torch.tensor(1.0), None, [], 4, {"teacher_loss": torch.tensor(4.0)})
    found = after.epoch_figures()
    assert found["teacher_loss"] == 3.0
    assert not found.keys() & {"balance", "new"}


def test_the_teachers_loss_of_an_earlier_versions_checkpoint_counts():
    state = {**meter().state(), "teacher_loss": 6.0, "taught": 3}
    del state["parts"]
    after = Meter(4, 1, 1, 0, torch.device("cpu"), parts=("teacher_loss",))
    after.restore(state)
    assert after.epoch_figures()["teacher_loss"] == 2.0
