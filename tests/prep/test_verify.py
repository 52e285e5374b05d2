"""verify names every file of a prepared folder that has changed."""

import os
import re
import shutil
from dataclasses import replace
from fcntl import LOCK_EX, flock

import numpy as np
import pytest

from tests.commands import call
from videofib.commands.prep import main
from videofib.data.errors import ManifestError
from videofib.data.lists.manifest import read_manifest, write_manifest
from videofib.prep.encode import write_video
from videofib.prep.items import Item
from videofib.prep.prepare import prepare
from videofib.prep.transcode import Encoding
from videofib.prep.verify import verify

A, B, C = "videos/sit/a.mp4", "videos/sit/b.mp4", "videos/sit/c.mp4"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two good videos, a for training and b for val and test, and c that is corrupt."""
    root = tmp_path_factory.mktemp("verify")
    for number, name in enumerate("ab"):
        write_video(root / f"raw/{name}.mp4", [np.full((32, 32, 3), 90 * number + i, np.uint8) for i in range(4)], 25)
    (root / "raw/c.mp4").write_text("no video")
    splits = {"a": ("train",), "b": ("val", "test"), "c": ("train",)}
    items = [Item(f"{name}.mp4", 0, lists, root / f"raw/{name}.mp4") for name, lists in splits.items()]
    prepare(items, ["sit"], root / "out", videos=root / "raw", encoding=Encoding(), jobs=1)
    return root / "out"


@pytest.fixture
def out(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "out")


def change_manifest(out, **change):
    rows = read_manifest(out / "manifest.parquet")
    write_manifest(out / "manifest.parquet", [replace(rows[0], **change), *rows[1:]])


def flip_a_bit(out):
    with (out / B).open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        last = stream.read(1)[0]
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([last ^ 1]))


def add(name, text):
    return lambda out: (out / name).open("a").write(text)


def test_an_untouched_folder_has_no_problem(out):
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert verify(out, 1) == ([], 2)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda out: (out / A).unlink(), f"{A}: missing"),
        (add(A, "x"), rf"{A}: \d+ bytes, \d+ in the manifest"),
        (flip_a_bit, rf"{B}: sha256 \w+\.\.\., \w+\.\.\. in the manifest"),
        (lambda out: shutil.copy(out / A, out / "videos/new.mp4"), "videos/new.mp4: is there, but not in the manifest"),
        (lambda out: shutil.copy(out / A, out / C), f"{C}: is there, but corrupt in the manifest"),
        (add("videos/.0f.partial", "x"), r"videos/\.0f\.partial: left by a writer that was killed"),
        (add("train.csv", f"{A} 0\n"), f"{A}: twice in train.csv, on lines 1 and 2"),
        (add("train.csv", "videos/sit/z.mp4 0\n"), "videos/sit/z.mp4: in train.csv, but not in the manifest"),
        (add("train.csv", f"{C} 0\n"), f"{C}: in train.csv, but corrupt in the manifest"),
        (add("train.csv", f"{B} 0\n"), rf"{B}: in train.csv, but the manifest has it in val\+test"),
        (add("train.csv", "z.mp4 dog\n"), "train.csv: .*train.csv:2: label 'dog' is not a class index"),
        (lambda out: (out / "val.csv").write_text(f"{B} 1\n"), f"{B}: label 1 in val.csv, 0 in the manifest"),
        (lambda out: (out / "test.csv").unlink(), "test.csv: no list file at"),
        (lambda out: (out / "classes.txt").write_text(""), "classes.txt: names no classes"),
        (lambda out: (out / "classes.txt").unlink(), "classes.txt: cannot be read"),
        (add("classes.txt", "stand\n"), r"classes.txt: 2 names, but 1 classes in report.json"),
        (lambda out: (out / "report.json").unlink(), r"report.json: cannot be read \(No such file"),
        (lambda out: (out / "report.json").write_text("{"), r"report.json: not JSON"),
        (lambda out: (out / "report.json").write_text("[1]"), r"report.json: it does not have the number of classes"),
        (lambda out: change_manifest(out, path="../a.mp4"), r"\.\./a.mp4: this name .* leads out of the folder"),
        (lambda out: change_manifest(out, path="/etc/passwd"), "/etc/passwd: this name .* leads out of the folder"),
        (lambda out: change_manifest(out, split="../x"), r"\.\./x.csv: the manifest names a list out of the folder"),
    ],
)
def test_each_kind_of_damage_is_named_with_the_file(out, damage, problem):
    damage(out)
    problems, _ = verify(out, 1)
    assert re.search(problem, "\n".join(problems))


def test_without_a_manifest_and_while_it_is_written_verify_refuses(out):
    with (out / ".lock").open("w") as lock:
        flock(lock, LOCK_EX)
        with pytest.raises(ManifestError, match="a preparation is writing to"):
            verify(out, 1)
    (out / "manifest.parquet").unlink()
    with pytest.raises(ManifestError, match="no manifest at"):
        verify(out, 1)


def test_the_command_names_every_problem_and_ends_with_1(out):
    words = ["verify", out, "--jobs", "2"]
    calm = call(main, words)
    assert (calm.returncode, calm.stdout) == (0, f"{out}: 2 videos read, no problems\n")
    (out / A).unlink()
    flip_a_bit(out)
    result = call(main, words)
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [A, B, str(out)]
    assert lines[2].endswith("2 videos read, 2 problems")
    result = call(main, ["verify", out / "nowhere"])
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "no manifest at" in result.stderr
