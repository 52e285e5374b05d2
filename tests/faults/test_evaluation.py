"""A test that is killed goes on where it was, to the same results; see ``evaluation.py`` for the long drill."""

import pytest

from tests.faults.evaluation import drill


@pytest.mark.slow
def test_a_killed_test_goes_on_in_other_processes(experiment, tmp_path):
    found = drill(experiment, tmp_path, classes=3, kills=1, seed=1, longest_delay=0.0)
    assert len(found["kills"]) == 1
    assert found["whole"] == 0
    assert 0 < found["went_on_from"][-1] < found["videos"] == 6
    assert found["same_scores"]
    assert found["same_results"]
    assert not found["parts_left"]
