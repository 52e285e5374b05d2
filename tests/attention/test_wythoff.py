"""The offsets, against rows computed by hand and against the definition in exact rational arithmetic."""

import pytest

from videofib.attention.wythoff import fibottention_offsets, floor_phi, window, wythoff_row


def test_first_rows_are_those_of_the_wythoff_array():
    # Conway and Sloane's table (OEIS A035513), rows 1 to 8.
    expected = [(1, 2), (4, 7), (6, 10), (9, 15), (12, 20), (14, 23), (17, 28), (19, 31)]
    assert [wythoff_row(i) for i in range(1, 9)] == expected


@pytest.mark.parametrize("n", [0, 1, 2, 12, 987, 10**6, 10**18])
def test_floor_phi_is_exact(n):
    # m = floor(n φ) means m² - mn - n² <= 0 < (m+1)² - (m+1)n - n², since φ is the root of x² - x - 1.
    m = floor_phi(n)
    assert m * m - m * n - n * n <= 0
    assert (m + 1) ** 2 - (m + 1) * n - n * n > 0


def test_published_offsets_of_twelve_heads_on_196_tokens():
    rows = "1 2 3 5 · 4 7 · 6 10 · 9 15 · 12 20 · 14 23 · 17 28 · 19 31 · 22 36 · 25 41 · 27 44 · 30 49"
    expected = [[int(x) for x in row.split()] for row in rows.split("·")]
    assert fibottention_offsets(12, 196) == expected
    assert fibottention_offsets(12, 196, w_min=5, w_max=65) == expected


def test_modified_rows_begin_two_steps_to_the_left():
    rows = fibottention_offsets(3, 60, variant="modified")
    assert rows[0] == [0, 1, 2, 3, 5]
    assert rows[1] == [1, 3, 4, 7, 11]  # window 5 + int(7.5) = 12
    assert rows[2] == [2, 4, 6, 10, 16]


def test_first_entry_stays_even_above_the_window():
    rows = fibottention_offsets(12, 8)  # windows fall from 5 to 2 while a rises to 30
    assert [row[0] for row in rows] == [wythoff_row(i)[0] for i in range(1, 13)]
    assert rows[11] == [30]


def test_the_first_entry_of_a_modified_row_stays_even_above_the_window():
    rows = fibottention_offsets(12, 8, variant="modified")
    assert rows[0] == [0, 1, 2, 3, 5]
    assert rows[11] == [11]


def test_earlier_modified_rows_begin_with_three_entries_whatever_the_window():
    rows = fibottention_offsets(3, 60, variant="modified_early")
    assert rows == [[1, 2, 3, 5], [1, 3, 4, 7, 11], [2, 4, 6, 10, 16]]
    assert fibottention_offsets(12, 8, variant="modified_early")[11] == [11, 19, 30]


def test_windows_grow_linearly_and_truncate():
    # 60/11 * 11 is 59.999... in double precision, so the last window is 64: the released code has it so, too.
    assert [window(i, 12, 5, 65) for i in (1, 2, 3, 11, 12)] == [5, 10, 15, 59, 64]
    assert window(1, 1, 5, 65) == 65
    assert fibottention_offsets(1, 30) == [[1, 2, 3, 5, 8]]  # a single head, w_max 30 // 3
    assert fibottention_offsets(1, 1) == [[1]]


@pytest.mark.parametrize("num_tokens", [196, 1568, 18816])
def test_no_two_heads_share_an_offset(num_tokens):
    offsets = [o for row in fibottention_offsets(12, num_tokens) for o in row]
    assert len(offsets) == len(set(offsets))


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (dict(num_heads=0, num_tokens=8), "num_heads=0"),
        (dict(num_heads=2, num_tokens=0), "num_tokens=0"),
        (dict(num_heads=2, num_tokens=8, w_min=0), "w_min=0"),
        (dict(num_heads=2, num_tokens=8, w_min=6, w_max=5), "w_max=5"),
        (dict(num_heads=2, num_tokens=8, variant="golden"), "'golden'"),
    ],
)
def test_bad_arguments_are_shown(arguments, shown):
    with pytest.raises(ValueError, match=shown):
        fibottention_offsets(**arguments)
