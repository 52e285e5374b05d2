"""Messages about lists say what is probably wrong, and guess nothing where they cannot know."""

import pytest

from videofib.data.errors import ManifestError
from videofib.data.lists.manifest import read_list
from videofib.data.lists.mistakes import path_hint

QUOTES = "; quotes are taken for a part of what they enclose: remove them"
MISSING = "; is the label missing, or before the path?"


def seems(found, separator=" "):
    return (
        f"; here {found!r} seems to separate path and label, and DATA.PATH_LABEL_SEPARATOR is {separator!r}; "
        "set it to what separates them in all lists of the run"
    )


def message(tmp_path, text, separator=" ", **options):
    """What the error says after the file and the number of the line."""
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(ManifestError) as error:
        read_list(tmp_path / "l.csv", separator=separator, **options)
    return str(error.value).removeprefix(f"{tmp_path / 'l.csv'}:")


@pytest.mark.parametrize(
    ("line", "separator", "expected"),
    [
        ("a.mp4,0", " ", "1: expected 'path label', got 'a.mp4,0'" + seems(",")),
        ("a b.mp4,0", " ", "1: label 'b.mp4,0' is not a class index (0, 1, 2, ...)" + seems(",")),
        ("a b.mp4;12", " ", "1: label 'b.mp4;12' is not a class index (0, 1, 2, ...)" + seems(";")),
        ("a b.mp4|0", " ", "1: label 'b.mp4|0' is not a class index (0, 1, 2, ...)" + seems("|")),
        ("a b.mp4\t0", " ", r"1: label 'b.mp4\t0' is not a class index (0, 1, 2, ...)" + seems("\t")),
        ("a b.mp4 0", ",", "1: expected 'path,label', got 'a b.mp4 0'" + seems(" ", ",")),
        ("a b.mp4, 0", "\t", r"1: expected 'path\tlabel', got 'a b.mp4, 0'" + seems(",", "\t")),
    ],
)
def test_another_separator_is_named_with_its_key(line, separator, expected, tmp_path):
    assert message(tmp_path, f"{line}\n", separator) == expected
    assert not [character for character in expected if not character.isprintable()]


@pytest.mark.parametrize(
    ("line", "separator", "expected"),
    [
        ('"a b.mp4",0', " ", "1: label 'b.mp4\",0' is not a class index (0, 1, 2, ...)" + seems(",") + QUOTES),
        ("a.mp4 '0'", " ", "1: label \"'0'\" is not a class index (0, 1, 2, ...)" + QUOTES),
    ],
)
def test_quotes_are_to_be_removed(line, separator, expected, tmp_path):
    assert message(tmp_path, f"{line}\n", separator) == expected


@pytest.mark.parametrize("header", ["name\tclass_id", "clip label", "where,label"])
def test_a_header_of_unknown_words_is_taken_for_one(header, tmp_path):
    said = "; is this line a header? call its columns path and label, or remove it"
    assert message(tmp_path, f"{header}\na.mp4 0\n").endswith(said)
    assert "header" not in message(tmp_path, f"a.mp4 0\n{header}\n")


@pytest.mark.parametrize("line", ["a b.mp4", "0 b.mp4", "b.mp4", "0,b.mp4"])
def test_lines_without_a_label_at_their_end(line, tmp_path):
    assert message(tmp_path, f"{line}\n").endswith(MISSING)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.mp4 0\nb.mp4 Basketball", "2: label 'Basketball' is not a class index (0, 1, 2, ...)"),
        ("a.mp4 nan", "1: label 'nan' is not a class index (0, 1, 2, ...)"),
        ("a.mp4 -1", "1: label '-1' is not a class index (0, 1, 2, ...)"),
        ("a.mp4 1.0", "1: label '1.0' is not a class index (0, 1, 2, ...)"),
        ("a.mp4 1.25", "1: label '1.25' is not a class index (0, 1, 2, ...)"),
        ("a.mp4," + "x" * 9000 + ",0", f"1: expected 'path label', got {'a.mp4,' + 'x' * 194!r}... (9008 characters)"),
    ],
)
def test_nothing_is_guessed_about_other_lines(line, said, tmp_path):
    assert message(tmp_path, f"{line}\n") == said


@pytest.mark.parametrize("line", ["a.mp4 0,3", "a.mp4 0;3", "a.mp4 0,1,3"])
def test_several_labels_are_not_taken_for_another_separator(line, tmp_path):
    assert "seems to separate" not in message(tmp_path, f"{line}\n")
    assert "seems to separate" not in message(tmp_path, "a.mp4 3,4,3\n", multi_label=True)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ('"a b.mp4"', QUOTES),
        ("'a b.mp4'", QUOTES),
        ("a b.mp4,", "; it ends with ',': if that separates path and label, set DATA.PATH_LABEL_SEPARATOR to it"),
        ("a.mp4\t", r"; it ends with '\t': if that separates path and label, set DATA.PATH_LABEL_SEPARATOR to it"),
        (r"C:\videos\a.mp4", "; it has backslashes, which separate no folders here: write / instead"),
        ('say "hi".mp4', ""),
        ("/videos/a, b.mp4", ""),
    ],
)
def test_paths_that_may_be_written_for_another_program(path, hint):
    assert path_hint(path) == hint
