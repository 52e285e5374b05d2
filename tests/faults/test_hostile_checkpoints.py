"""A run resumes whatever its newest checkpoint holds; see ``hostile_checkpoints.py`` for the long drill."""

import pytest

from tests.faults.hostile_checkpoints import OF_BOTH, OF_FILES, OF_FOLDERS, RECORDS, drill, wrong


@pytest.mark.slow
def test_hostile_checkpoints_cost_one_line_each(tmp_path):
    found = drill(tmp_path, 8)
    assert found["tried"] == 2 * len(OF_BOTH) + len(OF_FILES) + len(OF_FOLDERS) + len(RECORDS) + 4 * 8 + 1
    assert not wrong(found), found["examples"]
