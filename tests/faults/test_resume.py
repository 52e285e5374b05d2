"""A run that is killed within an epoch resumes with the very next sample; see ``resume.py`` for the long drill."""

import pytest

from tests.data.lists.test_shards import files, shards  # noqa: F401, fixtures
from tests.faults.resume import drill


@pytest.mark.slow
def test_two_processes_with_two_workers_each(shards, tmp_path):  # noqa: F811
    found = drill(shards, tmp_path / "out", processes=2, workers=2, kills=1, seed=4)
    assert len(found["kills"]) == 1
    assert found["batches_read"] > found["batches"] == 6
    assert found["same_samples"]
    assert found["same_when_repeated"]
    assert found["same_weights"]
