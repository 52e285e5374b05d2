"""A test that is killed resumes where it was, with the same results; see ``evaluation.py`` for the long drill."""

import pytest

from tests.faults.evaluation import drill, wrong


@pytest.mark.slow
def test_a_killed_test_resumes_in_other_processes(experiment, tmp_path):
    found = drill(experiment, tmp_path, classes=3, kills=1, seed=1, longest_delay=0.0)
    assert len(found["kills"]) == 1
    assert found["not_killed"] == 0
    assert 0 < found["resumed_from"][-1] < found["videos"] == 6
    assert not wrong(found)
