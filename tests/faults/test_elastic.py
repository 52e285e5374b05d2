"""torchrun restarts a group when one of its processes is killed; see ``elastic.py`` for the long drill."""

from pathlib import Path

import pytest

from tests.faults.elastic import drill, wrong


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc, which only Linux has")
def test_a_killed_worker_is_restarted_and_the_weights_are_those_of_an_undisturbed_run(experiment, tmp_path):
    sharded = ["TRAIN.STRATEGY", "fsdp", "TRAIN.SHARDED_CHECKPOINTS", "True", "TIMESFORMER.DROP_PATH_RATE", "0.3"]
    more = ["SOLVER.MAX_EPOCH", "6", "TRAIN.EVAL_PERIOD", "100"]  # 18 steps
    config = experiment / "config.yaml"
    found = drill(config, tmp_path, processes=2, kills=1, most_steps=8, overrides=sharded + more)
    assert found["steps"][0] == 18
    assert len(found["killed_after_steps"]) == 1
    assert found["last"] == "checkpoint_epoch_00006.dcp"
    assert not wrong(found)
