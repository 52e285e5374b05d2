"""Commands whose output cannot be written: one line that names what and why, and nothing that looks complete."""

import resource
import shutil
from contextlib import contextmanager

import pytest

from tests.commands import call
from videofib.cli import main

CHECKPOINT = "checkpoints/checkpoint_epoch_00002.pyth"


def commands(experiment, trained, out):
    """The command line of each command that writes to a place of the user's choice, by name."""
    cfg = ["--cfg", experiment / "config.yaml"]
    scores = trained / "test_scores.parquet"
    return {
        "browse": ["browse", *cfg, "--num", 1, "--out", out],
        "compare": ["compare", trained, trained, "--out", out / "page.html"],
        "ensemble": ["ensemble", scores, scores, "--out", out],
        "hf": [
            "convert",
            *cfg,
            "--weights",
            trained / CHECKPOINT,
            "--to",
            "huggingface",
            "--remote-code",
            "--out",
            out,
        ],
        "submit": ["submit", "--cluster", "local", "--gpus", 1, *cfg, "OUTPUT_DIR", out],
    }


@contextmanager
def largest_file(size):
    """What a full disk does, and works wherever a test may run: files cannot grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def said_in_one_line(result):
    assert result.returncode
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize("name", ["browse", "compare", "ensemble", "hf", "submit"])
def test_an_output_below_a_file_is_named(experiment, trained, tmp_path, name):
    (tmp_path / "file").write_text("mine")
    result = call(main, commands(experiment, trained, tmp_path / "file")[name])
    assert f"{tmp_path / 'file'}" in said_in_one_line(result)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["browse", "compare", "ensemble", "hf"])
def test_on_a_full_disk_nothing_half_written_stays(experiment, trained, tmp_path, name):
    command = commands(experiment, trained, tmp_path / "out")[name]
    with largest_file(100):
        result = call(main, command)
    said = said_in_one_line(result)
    assert "File too large" in said
    assert str(tmp_path / "out") in said
    assert not [file for file in (tmp_path / "out").rglob("*") if file.is_file()]


def test_a_report_on_a_full_disk_leaves_the_old_one(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / "report.html").write_text("old")
    with largest_file(100):
        result = call(main, ["report", folder, "--videos", 0])
    assert said_in_one_line(result) == f"error: {folder / 'report.html'}: File too large"
    assert (folder / "report.html").read_text() == "old"
