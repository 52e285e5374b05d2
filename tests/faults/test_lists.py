"""Hostile lists cost a line each; see ``lists.py`` for the long drill."""

import pytest

from tests.faults import lists
from tests.faults.lists import CHANGES, drill, wrong
from videofib.data.errors import ManifestError


@pytest.mark.slow
def test_hostile_lists_are_refused_in_one_line_or_read(tmp_path):
    found = drill(tmp_path, 20)
    assert found["refused"] + found["read"] == len(CHANGES) + 6 * 20
    assert not wrong(found), found["examples"]


def test_the_drill_sees_what_it_looks_for(tmp_path, monkeypatch):
    monkeypatch.setattr(lists, "CHANGES", {"classes.txt: nothing": lambda folder: None})
    assert drill(tmp_path, 0)["examples"] == ["classes.txt: nothing: not refused"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ManifestError("classes.txt: a\nb"), "not one line"),
        (ManifestError("other.txt"), "does not name the file"),
        (ManifestError("classes.txt: cannot allocate"), "wants memory"),
        (IndexError("x"), "IndexError: x"),
    ],
)
def test_the_drill_sees_errors_that_are_not_one_line(tmp_path, monkeypatch, error, said):
    monkeypatch.setattr(lists, "CHANGES", {"classes.txt: empty": CHANGES["classes.txt: empty"]})
    real = lists.read_class_names

    def read_class_names(file):
        if file.read_bytes():
            return real(file)
        raise error

    monkeypatch.setattr(lists, "read_class_names", read_class_names)
    assert said in drill(tmp_path, 0)["examples"][0]
