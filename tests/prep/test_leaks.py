"""Leaks between splits, by names and by pictures."""

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.commands import call
from videofib.commands.prep import main
from videofib.data.lists.manifest import ManifestRow, write_manifest
from videofib.prep.leaks import find_leaks, near_pairs
from videofib.prep.sets import hmdb51, ucf101


def rows_of(listing):
    return [
        ManifestRow(f"videos/{v.label}/{Path(v.name).stem}.mp4", 0, "+".join(v.splits), size=1, source=v.name)
        for v in listing.videos
    ]


@pytest.mark.parametrize("split", [1, 2, 3])
def test_the_official_splits_of_ucf101_keep_every_group_on_one_side(shared_data, split):
    rows = rows_of(ucf101.read_annotations(shared_data / "annotations/ucf101/ucfTrainTestlist", split))
    assert find_leaks(rows)["leaks_by_name"] == []
    moved = next(i for i, row in enumerate(rows) if row.split == "train" and "v_YoYo_g25_c01" in row.path)
    rows[moved] = replace(rows[moved], split="val+test")
    (line,) = find_leaks(rows)["leaks_by_name"]
    assert line.startswith("v_YoYo_g25 (within a class): ")
    assert line.endswith("1 held out, as videos/YoYo/v_YoYo_g25_c01.mp4")


@pytest.mark.parametrize(("split", "recordings"), [(1, 133), (2, 149), (3, 144)])
def test_the_official_splits_of_hmdb51_do_not(shared_data, split, recordings):
    """Films of which clips of one class are for training and of another for testing."""
    rows = rows_of(hmdb51.read_annotations(shared_data / "annotations/hmdb51/testTrainMulti_7030_splits", split))
    report = find_leaks(rows)
    assert report["leaks"]["recordings_on_both_sides"] == len(report["leaks_by_name"]) == recordings
    assert all("(in different classes)" in line for line in report["leaks_by_name"])
    if split == 1:
        assert report["leaks_by_name"][0] == (
            "50_FIRST_DATES (in different classes): "
            "20 for training, as videos/dive/50_FIRST_DATES_dive_f_cm_np1_ri_bad_32.mp4; "
            "2 held out, as videos/drink/50_FIRST_DATES_drink_u_nm_np1_fr_goo_29.mp4"
        )


def row(name, split, dhash="", size=1, source=""):
    return ManifestRow(f"videos/c/{name}.mp4", 0, split, size=size, source=source, dhash=dhash)


def test_pictures_are_compared_across_the_sides_of_each_split_alone():
    near, far = "00000000000000ff", "ffff000000000000"
    rows = [
        row("a", "train", near),
        row("b", "train", near),  # on the same side as a
        row("c", "val+test", "00000000000000f0"),
        row("d", "test", far),
        row("e", "train", ""),  # of one colour
        row("f", "test", "", size=0),
    ]
    assert find_leaks(rows, near=4)["leaks_by_picture"] == [
        "train videos/c/a.mp4 ~ val+test videos/c/c.mp4: 4 bits of 64",
        "train videos/c/b.mp4 ~ val+test videos/c/c.mp4: 4 bits of 64",
    ]
    assert find_leaks(rows, near=3)["leaks"]["near_pairs"] == 0
    rows = [row("a", "split1/train+split2/test", near), row("b", "split1/train+split2/train", near)]
    assert find_leaks(rows)["leaks_by_picture"] == [
        "split2/train videos/c/b.mp4 ~ split1/train+split2/test videos/c/a.mp4: 0 bits of 64"
    ]


def test_pairs_are_those_of_a_plain_loop_and_the_nearest_are_named(monkeypatch):
    monkeypatch.setattr("videofib.prep.leaks._BLOCK", 1000)  # several blocks
    rng = np.random.default_rng(0)
    train = [rng.bytes(8).hex() for _ in range(300)]
    held_out = [rng.bytes(8).hex() for _ in range(80)]
    for j in range(0, 80, 5):  # plant near ones
        held_out[j] = f"{int(train[3 * j], 16) ^ (1 << j % 64) ^ (1 << (j + 7) % 64):016x}"
    distances = {
        (i, j): (int(a, 16) ^ int(b, 16)).bit_count() for i, a in enumerate(train) for j, b in enumerate(held_out)
    }
    for near in (0, 2, 20):
        expected = {(i, j, distance) for (i, j), distance in distances.items() if distance <= near}
        total, named = near_pairs(train, held_out, near, 10_000)
        assert (total, set(named)) == (len(expected), expected)
    total, named = near_pairs(train, held_out, 20, 20)
    assert total > 20
    assert [distance for *_, distance in named] == sorted(distances.values())[:20]
    assert near_pairs([], held_out, 20, 5) == near_pairs(train, [], 20, 5) == (0, [])


def test_a_copy_in_the_other_split_is_in_the_report_and_printed_by_the_command(shared_data, tmp_path):
    source = shared_data / "ucf101_5/Lunges"
    for part, name in (("train", "v_Lunges_g01_c01"), ("train", "v_Lunges_g08_c01"), ("val", "v_Lunges_g02_c01")):
        (tmp_path / f"raw/{part}/Lunges").mkdir(parents=True, exist_ok=True)
        shutil.copy(source / f"{name}.avi", tmp_path / f"raw/{part}/Lunges/{name}.avi")
    shutil.copy(source / "v_Lunges_g08_c01.avi", tmp_path / "raw/val/Lunges/renamed.avi")
    shutil.copy(source / "v_Lunges_g01_c02.avi", tmp_path / "raw/val/Lunges/v_Lunges_g01_c02.avi")
    options = ["--videos", tmp_path / "raw", "--out", tmp_path / "out", "--short-side", "96"]
    prepared = call(main, ["folder", *options])
    report = json.loads((tmp_path / "out/report.json").read_text())
    copy = "train videos/Lunges/v_Lunges_g08_c01.mp4 ~ val+test videos/Lunges/renamed.mp4: 0 bits of 64"
    assert copy in report["leaks_by_picture"]
    (group,) = report["leaks_by_name"]
    assert group.startswith("v_Lunges_g01 (within a class): 1 for training")
    assert f"  {copy}" in prepared.stdout
    printed = call(main, ["leaks", tmp_path / "out", "--near", "0"])
    assert (printed.returncode, printed.stdout.splitlines()[:2]) == (0, [group, copy])
    assert printed.stdout.endswith("1 pairs of middle frames that differ in at most 0 of 64 bits\n")
    wrong = call(main, ["leaks", tmp_path])
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)


def test_output_that_head_cuts_short_ends_without_an_error(tmp_path):
    rows = [row(f"{number}", "train" if number % 2 else "test", "00000000000000ff") for number in range(60)]
    write_manifest(tmp_path / "manifest.parquet", rows)
    command = f"{sys.executable} -m videofib.cli prep leaks {shlex.quote(str(tmp_path))} | head -1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.stdout.startswith("train videos/c/")
    assert result.stderr == ""
