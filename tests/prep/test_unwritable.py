"""Folders that cannot be written: one line that names what and why, nothing lost, and the same command resumes."""

import shutil

import numpy as np
import pytest

from tests.commands import call
from videofib.cli import main
from videofib.prep.encode import write_video


@pytest.fixture
def raw(tmp_path):
    for name in ("a/one.mp4", "b/two.mp4"):
        write_video(tmp_path / "raw" / name, np.zeros((4, 32, 32, 3), np.uint8), 25)
    return tmp_path / "raw"


def prep(raw, out):
    return call(main, ["prep", "folder", "--videos", raw, "--out", out, "--jobs", 1])


def said_in_one_line(result):
    assert result.returncode
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(("out", "reason"), [("file", "File exists"), ("file/below/it", "Not a directory")])
def test_an_output_folder_that_cannot_be_made_is_named(raw, tmp_path, out, reason):
    (tmp_path / "file").write_text("mine")
    said = said_in_one_line(prep(raw, tmp_path / out))
    assert said == f"videofib prep folder: --out {tmp_path / out} cannot be made a folder ({reason}); choose another"
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["folder", "motion"])
def test_an_empty_output_folder_is_not_taken_for_this_one(raw, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    videos = ["--videos", raw] if name == "folder" else []
    said = said_in_one_line(call(main, ["prep", name, *videos, "--out", ""]))
    assert said.endswith("argument --out: is empty; name a folder")


@pytest.mark.parametrize(
    "name", ["journal.jsonl", "train.csv", "classes.txt", "manifest.parquet", "report.json", ".lock"]
)
def test_a_file_that_cannot_be_written_is_named_and_the_same_command_resumes(raw, tmp_path, name):
    out = tmp_path / "out"
    (out / name).mkdir(parents=True)
    said = said_in_one_line(prep(raw, out))
    assert said.startswith(f"videofib prep folder: {out / name}: Is a directory; what is done is kept")
    assert not list(out.glob(".*.partial"))
    shutil.rmtree(out / name)
    assert prep(raw, out).returncode == 0
    assert (out / name).is_file()


def test_a_motion_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    said = said_in_one_line(call(main, ["prep", "motion", "--out", tmp_path / "file"]))
    assert said == f"videofib prep motion: {tmp_path / 'file'}: File exists"
