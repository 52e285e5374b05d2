"""Full disks, damaged checkpoints, a breaking video, NaN: training survives; ``checkpoints.py`` is the long drill."""

import pytest
import torch

from tests.data.lists.test_shards import files  # noqa: F401, a fixture
from tests.faults.checkpoints import drill, wrong


@pytest.fixture(autouse=True)
def _threads_stay_the_same():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_faults_while_training_cost_a_step_or_a_restart_and_no_more(files, tmp_path):  # noqa: F811
    found = drill(files, tmp_path, workers=0, times=4, seed=1)
    assert not wrong(found)
    assert found["full_disks"]["times"] == 4
    assert found["damages"]["skipped"] >= 3
    stopped = "the gradient was not finite in 3 step(s) in a row, up to epoch 2, step 3 of 3"
    assert found["bad_gradients"]["stopped"] == stopped
    assert found["bad_gradients"]["kept"] == "checkpoint_epoch_00001.pyth"
