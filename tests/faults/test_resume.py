"""A run that is killed within an epoch resumes with the very next sample; see ``resume.py`` for the long drill."""

import pytest

from tests.data.lists.test_shards import files, shards  # noqa: F401, fixtures
from tests.faults.resume import drill, wrong


@pytest.mark.slow
def test_two_processes_with_two_workers_each(shards, tmp_path):  # noqa: F811
    found = drill(shards, tmp_path / "out", processes=2, workers=2, kills=3, seed=4)
    assert [moment for _, _, moment in found["kills"]] == ["batch", "step", "save"]
    assert found["batches_read"] > found["batches"] == 6
    assert not wrong(found)
