"""Where each listed video goes: a name that is safe, and that no other video has."""

import os
from pathlib import Path

import pytest

from videofib.prep.items import Item, PrepareError, output_paths, stem


@pytest.mark.parametrize("label", ["..", "a/b", "/etc", "", "."])
def test_classes_that_lead_out_are_refused(label):
    with pytest.raises(PrepareError, match=r"refused|have no name"):
        output_paths([Item("x.mp4", 0, ("train",), None)], [label])


def test_outputs_never_collide_and_names_stay_listable():
    names = ["c/a.avi", "c/a.mp4", "c/b.mp4", "d/b.avi", "d/b.avi", "c/line\nbreak.avi", "c/" + "ü" * 126 + ".ts"]
    items = [Item(name, 0, ("train",), None) for name in names]
    paths = output_paths(items, ["my class"])
    assert paths[:5] == [f"videos/my_class/{stem}.mp4" for stem in ("a.avi", "a.mp4", "b.mp4", "b.avi", "b.avi-2")]
    assert paths[5] == "videos/my_class/line_break.mp4"
    assert len(os.fsencode(Path(paths[6]).name)) <= 255
    assert len(set(paths)) == len(paths)


def test_copies_keep_their_extensions_without_colliding():
    items = [Item(name, 0, ("train",), Path(name)) for name in ("c/a.avi", "c/a.MOV", "d/a.avi", "c/b.sh")]
    paths = output_paths(items, ["k"], keep_suffix=True)
    assert paths == ["videos/k/a.avi.avi", "videos/k/a.MOV", "videos/k/a.avi-2.avi", "videos/k/b.mp4"]


@pytest.mark.parametrize(
    "path", ["a.mp4", "a/b.c.mp4", "a.b/c", "v_x_g01_c02.avi", ".hidden", "a/.hidden.mp4", "a/...b", "ü/é ï.mp4", "a b"]
)
def test_the_stem_of_a_path_is_that_of_pathlib(path):
    assert stem(path) == Path(path).stem


def test_a_name_that_ends_with_a_dot_keeps_it():
    assert stem("a/b.") == "b."  # as Path before Python 3.14, so that outputs keep their names


@pytest.mark.parametrize("mark", ["\n", "\x7f", "\x85", "\u2028", "\u2029"])
def test_no_name_ends_a_line_of_a_list(mark):
    assert output_paths([Item(f"a{mark}b.avi", 0, (), None)], ["k"]) == ["videos/k/a_b.mp4"]


@pytest.mark.parametrize("character", ["a", "é", "ケ", "😀", "\udce9"])
def test_names_of_any_length_fit_into_a_folder(character):
    for length in (50, 60, 61, 100, 240, 250, 5000):
        (path,) = output_paths([Item(character * length, 0, (), None)], ["k"])
        assert len(os.fsencode(path)) <= len("videos/k/") + 255
        assert (path == f"videos/k/{character * length}.mp4") == (len(os.fsencode(character)) * length <= 240)
