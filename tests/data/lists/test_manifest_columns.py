"""Manifests are read and checked a column at a time, with the messages of a loop over rows, and only a part is kept."""

import random
import subprocess
import sys
from dataclasses import replace

import pytest

from videofib.data.errors import ManifestError
from videofib.data.lists.manifest import ManifestRow, read_manifest, write_list, write_manifest

GOOD = ManifestRow("", 0, "train", 20, 25.0, 0.8, 72, 64, "h264", 0, True, 1234, "0f" * 32, dhash="0f" * 8)
WRONG = {
    "status": "fine",
    "label": -1,
    "fps": float("nan"),
    "size": 2**63 - 1,
    "rotation": 45,
    "sha256": "0F" * 32,
    "dhash": "0f",
}
COUNTS = {name: WRONG[name] for name in ("label", "fps", "size")}


def problem(row):
    """What a reader of one row after another says of the row, by the columns in which it is wrong."""
    wrong = {name for name, value in WRONG.items() if getattr(row, name) == value or (name == "fps" and row.fps != 25)}
    if "status" in wrong:
        return "has status 'fine'; it must be one of ('ok', 'damaged', 'missing', 'corrupt')"
    if counts := {name: value for name, value in COUNTS.items() if name in wrong}:
        return f"has {counts}; expected finite numbers from 0 on"
    if "rotation" in wrong:
        return "has rotation 45; expected 0, 90, 180 or 270"
    for name, digits in (("sha256", 64), ("dhash", 16)):
        if name in wrong:
            return f"has {name} {WRONG[name]!r}; expected {digits} hexadecimal digits"
    return ""


def expected(rows):
    """The message about the first row that is wrong, or has the path of an earlier one."""
    paths = set()
    for number, row in enumerate(rows, start=1):
        if found := problem(row) or ("occurs twice" if row.path in paths else ""):
            return f"row {number}: {row.path!r} {found}"
        paths.add(row.path)
    return ""


@pytest.mark.parametrize("seed", range(40))
def test_the_first_wrong_row_is_named_as_by_a_loop_over_rows(seed, tmp_path):
    rng = random.Random(seed)
    rows = [replace(GOOD, path=f"{number}.mp4") for number in range(12)]
    for row in rng.sample(range(12), rng.randint(0, 3)):
        names = rng.sample(sorted(WRONG), rng.randint(1, 3))
        rows[row] = replace(rows[row], **{name: WRONG[name] for name in names})
    if rng.random() < 0.5:
        one, other = rng.sample(range(12), 2)
        rows[one] = replace(rows[one], path=rows[other].path)
    file = tmp_path / "manifest.parquet"
    if message := expected(rows):
        with pytest.raises(ManifestError) as refused:
            write_manifest(file, rows)
        assert str(refused.value) == f"{file}: {message}"
        assert not file.exists()
    else:
        write_manifest(file, rows)
        assert read_manifest(file) == rows


def test_a_list_takes_no_memory_for_the_columns_that_it_does_not_need(tmp_path):
    count, length = 20_000, 500
    long = dict.fromkeys(("split", "codec", "reason", "source"), "x" * length)
    rows = [replace(GOOD, path=f"{number}.mp4", **long) for number in range(count)]
    write_manifest(tmp_path / "manifest.parquet", rows)
    write_list(tmp_path / "train.csv", [(row.path, 0) for row in rows])
    script = f"""
import pyarrow
from videofib.data.lists.manifest import read_list
records = read_list({str(tmp_path / "train.csv")!r})
assert records[7].num_frames == 20
print(pyarrow.default_memory_pool().max_memory(), pyarrow.total_allocated_bytes())
"""
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    highest, kept = map(int, result.stdout.split())
    assert count * length < highest < 3 * count * length  # of all four at once: more than 4
    assert kept == 0
