"""No name reaches a terminal, a log or a page raw; see ``hostile_names.py``."""

import pytest

from tests.faults.hostile_names import drill, wrong


@pytest.mark.slow
def test_every_command_is_harmless_on_hostile_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not wrong(drill(tmp_path))
