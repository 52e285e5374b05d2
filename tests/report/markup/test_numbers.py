"""Numbers are short, and do not say more than is true."""

import math

import pytest

from videofib.report.markup.numbers import amount, fixed, interval, number, percent, points


@pytest.mark.parametrize(
    ("value", "written"),
    [
        *((0, "0"), (1792, "1,792"), (94.26, "94.26"), (0.00062049, "0.0006205"), (-0.5, "−0.5")),
        *((12345.678, "12,346"), (6.2e-8, "6.2e−08"), (None, "–"), (math.inf, "–"), (math.nan, "–")),
    ],
)
def test_numbers_have_four_digits(value, written):
    assert number(value) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [
        *((94.26, "94.3"), (0, "0.0"), (100, "100.0"), (100 - 1e-13, "100.0"), (-1, "−1.0")),
        *((99.94, "99.9"), (99.96, "99.96"), (99.9999, "99.9999")),  # one of a million videos is wrong
        *((0.04, "0.04"), (0.0025, "0.003"), (-0.04, "−0.04"), (None, "–"), (math.nan, "–")),
    ],
)
def test_only_nothing_is_0_percent_and_only_all_is_100(value, written):
    assert fixed(value) == written
    assert percent(value) == (written if written == "–" else f"{written} %")


def test_differences_have_a_sign_and_intervals_one_unit():
    written = [points(value) for value in (3.12, -3.12, 0, -0.0, 0.004, None)]
    assert written == ["+3.1", "−3.1", "0.0", "0.0", "+0.004", "–"]
    written = [interval(bounds) for bounds in ([-1.0, 2.0], [56.55, 100.0], None)]
    assert written == ["−1.0 to 2.0 %", "56.5 to 100.0 %", "–"]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        *((0, "0"), (950, "950"), (1000, "1 k"), (26_000, "26 k"), (61_970_944, "61.97 M"), (134.57e9, "134.6 G")),
        *((999_960, "1 M"), (999_940, "999.9 k"), (2e16, "20,000 T")),
    ],
)
def test_amounts_have_the_unit_of_their_size(value, written):
    assert amount(value) == written
