"""The names of classes: which can be used, and where the same classes stand in another order."""

import unicodedata

import pytest

from videofib.classes import ClassesError, check_names, difference, positions

COLOURS = ["red", "green", "blue"]


def test_classes_are_found_by_name_in_any_order_and_number():
    assert positions(["blue", "red", "green"], COLOURS) == [2, 0, 1]
    assert positions(["blue"], COLOURS) == [2]
    assert positions(COLOURS, COLOURS) == [0, 1, 2]


def test_unknown_classes_are_all_named():
    with pytest.raises(ClassesError, match=r"^'cyan' is not among the classes \['red', 'green', 'blue'\]$"):
        positions(["red", "cyan"], COLOURS)
    with pytest.raises(ClassesError, match=r"\['c0', 'c1', 'c2', 'c3'\] and 2 more are not among"):
        positions([f"c{i}" for i in range(6)], COLOURS)
    for count in (5, 9):
        among = rf"among the classes \['c0', 'c1', 'c2', 'c3'\] and {count - 4} more$"
        with pytest.raises(ClassesError, match=f"^'cyan' is not {among}"):
            positions(["cyan"], [f"c{i}" for i in range(count)])
    with pytest.raises(ClassesError, match=r"\['c0', 'c1', 'c2', 'c3'\] are not among"):  # four, and no more
        positions([f"c{i}" for i in range(4)], COLOURS)


def test_names_that_look_the_same_are_the_same():
    composed, decomposed = (unicodedata.normalize(form, "pétanque") for form in ("NFC", "NFD"))  # macOS: the latter
    assert composed != decomposed
    assert positions([f" {decomposed} "], ["golf", composed]) == [1]
    assert difference([composed], [decomposed]) == ""
    with pytest.raises(ClassesError, match="twice, at positions 0 and 1"):
        check_names([composed, decomposed])


def test_the_first_difference_is_named_with_both_names():
    assert difference(["red", "blue"], ["red", "green"]) == "class 1 is 'blue' there, 'green' here"
    assert difference(["red"], ["cyan", "blue"], "in a", "in b") == "1 classes in a ('red'), 2 in b (['cyan', 'blue'])"
    assert difference(COLOURS, ["red"]) == "3 classes there (['red', 'green', 'blue']), 1 here ('red')"


@pytest.mark.parametrize("end", [*"\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029", "\r\n"])
@pytest.mark.parametrize("name", ["sit{}stand", "{}sit", "sit{}"])
def test_a_name_with_a_line_end_is_refused(name, end):
    """It would be two lines of classes.txt, or look like two."""
    with pytest.raises(ClassesError, match=r"^have the name '.*\\.*', at position 1, with a line end in it$"):
        check_names(["run", name.format(end)])


@pytest.mark.parametrize("names", [None, 3, "red", b"red", [], ["red", 3], ["red", "red"], ["red", " "], {"red": 0}])
def test_what_is_not_a_list_of_distinct_names_is_refused(names):
    with pytest.raises(ClassesError):
        check_names(names)
