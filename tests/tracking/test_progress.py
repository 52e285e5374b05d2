"""Progress where the output is no terminal."""

import logging
import time

import pytest

from videofib.tracking import progress
from videofib.tracking.progress import with_progress


@pytest.fixture(autouse=True)
def _listen(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("videofib"), "propagate", True)  # an earlier test may have turned it off
    monkeypatch.setattr(progress, "PERIOD", 0.05)
    caplog.set_level("INFO", logger="videofib")


def test_lines_come_after_a_while_and_do_not_count_the_first_batch(caplog):
    for number in with_progress(range(101), "test", 101):
        time.sleep(1.0 if number == 0 else 0.06 if number in (1, 2) else 0)
    lines = list(dict.fromkeys(caplog.messages))
    assert lines[0] == "test: 1 of 101 batches"
    assert lines[1].startswith("test: 2 of 101 batches, 0:00:0")  # else at least 50 s
    assert lines[1].endswith(" left")


def test_quick_loops_and_other_processes_log_nothing(caplog):
    assert list(with_progress(range(3), "test", 3)) == [0, 1, 2]
    hidden = with_progress((time.sleep(0.06) for _ in range(3)), "test", 3, shown=False)
    assert len(list(hidden)) == 3
    assert not caplog.messages
