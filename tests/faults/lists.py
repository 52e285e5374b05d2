"""The drill of lists that are damaged or come from a stranger.

    python -m tests.faults.lists --damages 500

changes manifests, list files, lists of paths, ``classes.txt``, indexes of shards and journals: a table of values that
were never written (NaN, negative counts, numbers of 5,000 digits, deep nesting), then random damage to the bytes of
each. Each is read as runs and preparations do. A reader must come to an end in time and in little memory, with the
content or with one line that names the file; a journal gives its good entries and one line.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow
from pyarrow import parquet

from tests.faults.limits import HungError, limited, wants_memory
from tests.faults.verdict import failed, run_with_damages
from videofib.data.errors import ManifestError
from videofib.data.lists.classes_file import read_class_names
from videofib.data.lists.found import read_paths
from videofib.data.lists.manifest import ManifestRow, read_list, read_manifest, write_list, write_manifest
from videofib.data.lists.parquet import write_columns
from videofib.data.lists.record import VideoRecord
from videofib.data.lists.shard_index import COLUMNS, LABELS, read_shards
from videofib.data.source import ByteRange
from videofib.prep.journal import Journal
from videofib.prep.transcode import Transcoded

SECONDS, MEMORY = 20, 512 << 20
MANIFEST, LIST, PATHS, CLASSES, SHARDS, JOURNAL = (
    *("manifest.parquet", "train.csv", "paths.txt", "classes.txt", "shards/train.parquet", "journal.jsonl"),
)
FACTS = Transcoded(20, 25.0, 0.8, 72, 64, "h264", 0, False, False, True, 1234, "0f" * 32, "0f" * 8, "", 0)
DIGITS = "9" * 5000
DEEP = "[" * 100_000 + "]" * 100_000
Change = Callable[[Path], object]


def write(folder: Path) -> None:
    """One file of each kind."""
    rows = [ManifestRow(f"videos/v {i}.mp4", i % 3, "train", 10 + i, 25.0, 0.4, sha256="0f" * 32) for i in range(40)]
    write_manifest(folder / MANIFEST, rows)
    write_list(folder / LIST, [(row.path, row.label) for row in rows])
    (folder / PATHS).write_text("".join(f"{row.path}\n" for row in rows))
    (folder / CLASSES).write_text("".join(f"class {i}\n" for i in range(40)))
    (folder / "shards").mkdir()
    index = {
        **{"shard": ["train-000000.tar"] * 40, "start": [512 + 4096 * i for i in range(40)], "size": [1000] * 40},
        **{"label": [row.label for row in rows], "video_id": [row.path for row in rows]},
        **{"num_frames": [row.num_frames for row in rows], "fps": [25.0] * 40},
        **{"random_access": [True] * 40, "variable_rate": [False] * 40, "labels": [str(row.label) for row in rows]},
    }
    write_columns(folder / SHARDS, index, COLUMNS | LABELS)
    with Journal(folder / JOURNAL, [row.path for row in rows]) as journal:
        for number, row in enumerate(rows):
            journal.add(row.path, {"size": number}, FACTS if number % 4 else "cannot be read")


def read(folder: Path, name: str) -> object:
    """The content of a file, read as runs and preparations read it, to the last row."""
    paths = [f"videos/v {i}.mp4" for i in range(40)]
    if name == JOURNAL:
        journal = Journal(folder / name, paths)
        return [journal.problem, *(journal.find(path, {"size": number}) for number, path in enumerate(paths))]
    if name == MANIFEST:
        read_list(folder / LIST)  # which takes facts from it
    readers: dict[str, Callable[[], object]] = {
        MANIFEST: lambda: read_manifest(folder / name),
        LIST: lambda: [list(read_list(folder / name, multi_label=several)) for several in (False, True)],
        PATHS: lambda: read_paths(folder / name),
        CLASSES: lambda: read_class_names(folder / name),
        SHARDS: lambda: [replace(record, path=_range(record)) for record in read_shards(folder / "shards", "train")],
    }
    return readers[name]()


def _range(record: VideoRecord) -> ByteRange:
    """Where a video is, without the folder, which is another in each try."""
    return replace(record.path, path=Path(record.path.path).name)


def column(name: str, column_name: str, value: object, kind: pyarrow.DataType | None = None) -> Change:
    """The third row of a Parquet file gets another value; ``kind``: the column gets another type."""

    def change(folder: Path) -> None:
        table = parquet.read_table(folder / name)
        values = table[column_name].to_pylist()
        values[2] = value
        position = table.column_names.index(column_name)
        table = table.set_column(position, column_name, pyarrow.array(values, kind or table[column_name].type))
        parquet.write_table(table, folder / name)

    return change


def content(name: str, new: str | bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(new.encode() if isinstance(new, str) else new)


def entry(text: str) -> Change:
    """A journal of one entry whose checksum is right, whatever it says."""
    data = text.encode()
    return content(JOURNAL, b'{"crc32": "%08x", %s\n' % (zlib.crc32(data), data[1:]))


def facts(**changes: object) -> Change:
    return entry(json.dumps({"path": "videos/v 1.mp4", "fingerprint": {}, "facts": {**vars(FACTS), **changes}}))


def huge_table(folder: Path) -> None:
    """Some kilobytes that hold 60 million rows: one value, repeated."""
    rows = pyarrow.array([0], pyarrow.int64()).take(pyarrow.array([0] * 1_000_000))
    with parquet.ParquetWriter(folder / MANIFEST, pyarrow.schema([("label", pyarrow.int64())])) as writer:
        for _ in range(60):
            writer.write_table(pyarrow.table({"label": rows}), row_group_size=1_000_000)


CHANGES: dict[str, Change] = {
    **{
        f"{name}: {column_name} {value}": column(name, column_name, value)
        for name, columns in ((MANIFEST, ("fps", "duration")), (SHARDS, ("fps",)))
        for column_name in columns
        for value in (math.nan, math.inf, -math.inf, -1.0, 1e300)
    },
    **{
        f"{name}: {column_name} {value}": column(name, column_name, value)
        for name, columns in (
            (MANIFEST, ("label", "num_frames", "width", "size", "clock_jumps")),
            (SHARDS, ("label", "num_frames", "start")),
        )
        for column_name in columns
        for value in (-1, 2**62, -(2**63))
    },
    **{f"{SHARDS}: size {value}": column(SHARDS, "size", value) for value in (0, -1, 2**63 - 1, 10**9)},
    **{f"{SHARDS}: labels {v[:9]!r}": column(SHARDS, "labels", v) for v in ("x", "1,1", "-1", DIGITS, "\x1b[2J")},
    **{
        f"{SHARDS}: shard {v[:9]!r}": column(SHARDS, "shard", v)
        for v in ("../a.tar", "/a.tar", "a", "\x1b[2J", "\0.tar")
    },
    f"{SHARDS}: twice": column(SHARDS, "video_id", "videos/v 0.mp4"),
    f"{SHARDS}: null": column(SHARDS, "video_id", None),
    f"{MANIFEST}: rotation": column(MANIFEST, "rotation", 45),
    f"{MANIFEST}: status": column(MANIFEST, "status", "\x1b[2J"),
    f"{MANIFEST}: sha256": column(MANIFEST, "sha256", "\x1b[2J"),
    f"{MANIFEST}: twice": column(MANIFEST, "path", "videos/v 0.mp4"),
    f"{MANIFEST}: null": column(MANIFEST, "path", None),
    f"{MANIFEST}: bytes": column(MANIFEST, "path", b"\xff", pyarrow.binary()),
    f"{MANIFEST}: 60 million rows": huge_table,
    **{f"{name}: empty": content(name, b"") for name in (MANIFEST, LIST, PATHS, CLASSES, SHARDS)},
    **{f"{name}: zeros": content(name, bytes(4096)) for name in (MANIFEST, LIST, PATHS, CLASSES, SHARDS)},
    f"{LIST}: 5,000 digits": content(LIST, f"a.mp4 {DIGITS}\n"),
    f"{LIST}: other digits": content(LIST, "a.mp4 \u0663\u00b2\n"),
    f"{LIST}: negative": content(LIST, "a.mp4 -1\n"),
    f"{LIST}: NaN": content(LIST, "a.mp4 nan\n"),
    f"{LIST}: a long line": content(LIST, "a" * 10_000_000 + " 0\n"),
    f"{LIST}: nested": content(LIST, DEEP),
    f"{LIST}: an escape": content(LIST, "\x1b[2J.mp4 \x1b[2J\n"),
    f"{LIST}: blank": content(LIST, "\n" * 1_000_000),
    f"{CLASSES}: twice": content(CLASSES, "a\nb\na\n"),
    f"{CLASSES}: a blank line": content(CLASSES, "a\n\nb\n"),
    f"{CLASSES}: line ends": content(CLASSES, "a\u2028b\nc\n"),
    f"{CLASSES}: blank": content(CLASSES, " \n" * 1_000_000),
    **{f"{JOURNAL}: {text[:20]}": entry(f'{{"path": {text}}}') for text in ("1", DIGITS, DEEP, '"../a"', '"/etc/a"')},
    **{
        f"{JOURNAL}: {name} {str(value)[:9]}": facts(**{name: value})
        for name in ("num_frames", "fps", "size", "codec")
        for value in (math.nan, -1, 10**30, 10**400, None, [], True)
    },
    f"{JOURNAL}: a long line": content(JOURNAL, b"x" * 10_000_000),
    f"{JOURNAL}: an array": entry("[1]"),
    f"{JOURNAL}: noise": content(JOURNAL, random.Random(0).randbytes(100_000)),
}


def damaged(name: str, seed: int, folder: Path) -> None:
    """Cut a file off, flip a few bits, or put other bytes in."""
    rng = random.Random(f"{name} {seed}")
    found = bytearray((folder / name).read_bytes())
    at = rng.randrange(len(found))
    if seed % 3 == 0:
        del found[at:]
    elif seed % 3 == 1:
        for _ in range(rng.randrange(1, 4)):
            found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    else:
        found[at:at] = rng.choice([b"\xff\xfe", b"\0", b"\x1b[2J", DIGITS.encode(), b"\r", rng.randbytes(20)])
    (folder / name).write_bytes(found)


def drill(work: Path, count: int) -> dict:
    """Read all of the table, and so many damages of each file; returns what was found."""
    intact, folder = work / "intact", work / "changed"
    intact.mkdir()
    write(intact)
    names = (MANIFEST, LIST, PATHS, CLASSES, SHARDS, JOURNAL)
    expected = {name: read(intact, name) for name in names}
    damages = {f"{name}: damage {n}": partial(damaged, name, n) for name in names for n in range(count)}
    outcomes = {"refused": 0, "read": 0}
    problems: list[str] = []
    for title, change in {**CHANGES, **damages}.items():
        name = title.partition(":")[0]
        shutil.copytree(intact, folder)
        change(folder)
        problem, refused = _outcome(folder, name, expected[name], must_refuse=title in CHANGES)
        outcomes["refused" if refused else "read"] += 1
        problems += [f"{title}: {problem}"] if problem else []
        shutil.rmtree(folder)
    return {**outcomes, "problems": len(problems), "examples": problems[:20]}


def _outcome(folder: Path, name: str, expected: object, *, must_refuse: bool) -> tuple[str, bool]:
    """What is wrong with how a file is read, "" if nothing, and whether it was refused."""
    try:
        with limited(SECONDS, MEMORY):
            found = read(folder, name)
    except ManifestError as error:
        return _line(str(error), folder / name), True
    except (Exception, HungError) as error:  # what the drill looks for
        return f"{type(error).__name__}: {error}"[:300], True
    if name == JOURNAL:
        problem, *entries = found
        wrong = [entry for entry, intact in zip(entries, expected[1:], strict=True) if entry not in (intact, None)]
        unused = len((folder / name).read_bytes().splitlines()) - sum(entry is not None for entry in entries)
        if wrong or (unused and not problem):  # a cut between two lines leaves none that cannot be used
            return f"entries are lost or changed without a word: {wrong[:3]}", False
        return (_line(problem, folder / name) if problem else "not refused" * must_refuse), bool(problem)
    if must_refuse:
        return "not refused", False
    if name in (MANIFEST, SHARDS) and found != expected:
        return "other values are read", False
    return "", False


def _line(said: str, file: Path) -> str:
    if not said.isprintable() or len(said) > 2000:
        return f"not one line: {said[:300]!r}"
    if file.name not in said:
        return f"does not name the file: {said[:300]}"
    return f"wants memory: {said[-300:]}" if wants_memory(said) else ""


def wrong(found: dict) -> list[str]:
    """What does not hold of what the drill has found."""
    return failed(found, true=("refused", "read"), equal={"problems": 0})


if __name__ == "__main__":
    run_with_damages(drill, wrong, __doc__, 500, "file")
