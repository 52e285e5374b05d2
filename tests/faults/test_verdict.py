"""A drill that finds a difference fails, as a command and as a test."""

import pytest

from tests.faults.verdict import failed, report

FOUND = {"same_weights": False, "damages": {"reported": 3}}


def test_what_does_not_hold_is_named_with_its_value():
    wrong = failed(FOUND, true=("same_weights",), equal={"damages.reported": 4})
    assert wrong == ["same_weights is False", "damages.reported is 3, not 4"]
    assert not failed(FOUND, true=("damages.reported",), equal={"same_weights": False})


def test_the_command_ends_with_an_error_that_says_what_failed(capsys):
    with pytest.raises(SystemExit, match="the drill failed: same_weights is False"):
        report(FOUND, ["same_weights is False"])
    assert '"reported": 3' in capsys.readouterr().out
    report(FOUND, [])
