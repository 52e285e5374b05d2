"""What each kind of key reads, and what it says of values that it does not accept."""

import math

import pytest

from videofib.config.declare import MAX_INTEGER, Refused, integer, list_of, number, one_of, switch, text
from videofib.config.yaml_reader import Quoted

COUNT = integer(8, above=0)
SIZE = integer(0, above=0, off="full size")
RATE = number(0.1, least=0, below=1)
ROOM = number(0.5, above=0, most=1)
NAME = text("videofib")
PATH = text("", off="no teacher")
FLAG = switch(True)
ORDER = one_of("dense", "uniform")
CROPS = one_of(1, 3, default=3)
BEST = one_of("auto", "none", off="no best checkpoint")
MEAN = list_of(number(), [0.45] * 3, length=3)
RANGE = list_of(number(above=0, most=1), [], length=2, ascending=True, off="not used")
SPREAD = "a list of 2 entries, each a number above 0 and at most 1, in ascending order, or [] (not used)"
STEPS = list_of(integer(least=0), [0, 11])
PAIRS = list_of(list_of(number(above=0), [1, 1], length=2), [[1, 1]])


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        (COUNT, "12", 12),
        (COUNT, 12, 12),
        (COUNT, "1e1", 10),
        (COUNT, "10.0", 10),
        (COUNT, "1_000", 1000),
        (COUNT, "0x10", 16),
        (COUNT, str(MAX_INTEGER), MAX_INTEGER),
        (SIZE, "0", 0),
        (SIZE, None, 0),
        (SIZE, "~", 0),
        (SIZE, "None", 0),
        (SIZE, "null", 0),
        (RATE, "0", 0.0),
        (RATE, "-0.0", 0.0),
        (RATE, "1e-4", 1e-4),
        (RATE, ".5", 0.5),
        (RATE, Quoted("0.5"), 0.5),
        (ROOM, "1", 1.0),
        (NAME, "2024", "2024"),
        (NAME, "a b", "a b"),
        (NAME, " ", " "),
        (NAME, "true", "true"),
        (NAME, Quoted("None"), "None"),
        (PATH, "", ""),
        (PATH, None, ""),
        (PATH, "None", ""),
        (PATH, Quoted("~"), "~"),
        (FLAG, "true", True),
        (FLAG, "TRUE", True),
        (FLAG, "yes", True),
        (FLAG, "on", True),
        (FLAG, True, True),
        (FLAG, "False", False),
        (FLAG, "fAlSe", False),
        (FLAG, "no", False),
        (FLAG, "off", False),
        (ORDER, "uniform", "uniform"),
        (ORDER, Quoted("uniform"), "uniform"),
        (CROPS, "1", 1),
        (CROPS, "3.0", 3),
        (BEST, "none", "none"),
        (BEST, None, "none"),
        (BEST, "None", "none"),
        (MEAN, "[0.4, 0.5, 1]", [0.4, 0.5, 1.0]),
        (MEAN, ["0.4", "0.5", "1e0"], [0.4, 0.5, 1.0]),
        (MEAN, "(0.4, 0.5, 1)", [0.4, 0.5, 1.0]),
        (MEAN, "0.4,0.5,1", [0.4, 0.5, 1.0]),
        (RANGE, "[]", []),
        (RANGE, [], []),
        (RANGE, None, []),
        (RANGE, "[0.08, 1.0]", [0.08, 1.0]),
        (STEPS, "[3]", [3]),
        (PAIRS, "[[0.5, 1], [1, 1]]", [[0.5, 1.0], [1.0, 1.0]]),
    ],
)
def test_values_are_read_as_they_are_meant(key, written, value):
    read = key.read(written)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("key", "written", "accepted"),
    [
        *((COUNT, written, "an integer above 0") for written in ["0", "-1", "1.5", "many", "", "None", None, "True"]),
        *((COUNT, written, "an integer above 0") for written in [True, [], {}, "[1]", "inf", "nan", "1e400", "010"]),
        *((COUNT, written, "an integer above 0") for written in ["9" * 1000, "1 2", "0b2", "--1", "1__0"]),
        *((COUNT, big, "an integer above 0, and at most 2147483647") for big in ["2147483648", "1e300", "9" * 399]),
        (integer(0, least=0), "-1", "an integer, at least 0"),
        (integer(5), "a", "an integer"),
        (SIZE, "-1", "an integer above 0, or 0 (full size)"),
        *((RATE, written, "a number, at least 0 and below 1") for written in ["1", "-0.1", "a", "", None, "True", "~"]),
        *((RATE, written, "a number, at least 0 and below 1, and finite") for written in ["1e400", "inf", "-inf"]),
        *((RATE, written, "a number, at least 0 and below 1, and finite") for written in ["nan", "9" * 399]),
        (ROOM, "0", "a number above 0 and at most 1"),
        (ROOM, "1.0001", "a number above 0 and at most 1"),
        (number(0.5, above=0, off="none"), "-1", "a number above 0, or 0 (none)"),
        *((NAME, written, "text that is not empty") for written in ["", "None", "~", None, 3, ["a"], {"a": "b"}]),
        (NAME, "a\0b", "text that is not empty, without null characters"),
        (PATH, ["a"], "text, or '' (no teacher)"),
        *((FLAG, written, "True or False") for written in ["1", "0", "t", "", None, "None", [], "[True]"]),
        *((ORDER, written, "one of dense, uniform") for written in ["", "Dense", "sparse", None, ["dense"], "1"]),
        *((CROPS, written, "one of 1, 3") for written in ["2", "", "three", None, True]),
        (BEST, "top1", "one of auto, none (no best checkpoint)"),
        *((MEAN, written, "a list of 3 entries, each a number") for written in ["0.4", "[0.4, 0.5]", "[1, 2, a]", ""]),
        *((MEAN, written, "a list of 3 entries, each a number") for written in [["1", "2", None], "[1, 2, [3]]"]),
        (MEAN, "[1,", "a list of 3 entries, each a number"),
        *((RANGE, written, SPREAD) for written in ["[1, 0.5]", "[0, 1]", "[0.5, 1.5]", "[0.5]", "[a, b]", "0.5"]),
        (STEPS, "[]", "a list of one or more entries, each an integer, at least 0"),
        (STEPS, "[0, 1.5]", "a list of one or more entries, each an integer, at least 0"),
        (STEPS, "[" * 3000, "a list of one or more entries, each an integer, at least 0"),
        (PAIRS, "[[1]]", "a list of one or more entries, each a list of 2 entries, each a number above 0"),
        (PAIRS, "[1, 1]", "a list of one or more entries, each a list of 2 entries, each a number above 0"),
    ],
)  # fmt: skip
def test_other_values_are_refused_with_what_is_accepted(key, written, accepted):
    with pytest.raises(Refused) as refused:
        key.read(written)
    assert str(refused.value) == accepted


def test_every_reading_gives_a_list_of_its_own():
    off = RANGE.read(None)
    off.append(1.0)
    assert RANGE.read(None) == []


def test_a_value_read_is_read_as_itself():
    for key in (COUNT, SIZE, RATE, NAME, PATH, FLAG, ORDER, CROPS, BEST, MEAN, RANGE, STEPS, PAIRS):
        assert key.read(key.default) == key.default


def test_numbers_are_finite_in_python_too():
    for value in (math.inf, -math.inf, math.nan):
        with pytest.raises(Refused, match="and finite"):
            RATE.read(value)
