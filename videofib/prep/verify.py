"""``videofib prep verify DIR``: checks a prepared folder against its manifest.

It reads the manifest, the list files, classes.txt, the number of classes in report.json and every byte of every video,
and changes nothing. Run the preparation's command again to restore files that are missing or altered; other problems
have to be fixed by hand.
"""

from __future__ import annotations

import json
import os
from fcntl import LOCK_NB, LOCK_SH, flock
from pathlib import Path

from videofib.classes import difference
from videofib.data.errors import ManifestError
from videofib.data.lists.classes_file import CLASSES_NAME, read_class_names
from videofib.data.lists.manifest import LISTS, MANIFEST_NAME, ManifestRow, read_manifest
from videofib.data.lists.text_list import list_rows
from videofib.files import sha256
from videofib.prep.engines.parallel import run_parallel
from videofib.prep.items import REPORT_NAME


def verify(folder: str | Path, jobs: int) -> tuple[list[str], int]:
    """Compare the lists and files of a prepared folder with its manifest.

    Args:
        folder: as ``prepare`` wrote it.
        jobs: processes at once.

    Returns:
        Problems, one line each that begins with the file, lists before videos; and the number of videos read.

    Raises:
        ManifestError: no folder or no usable manifest, or a preparation is still writing to it.
        ValueError: ``jobs`` below 1.
    """
    folder = Path(folder)
    _refuse_while_written(folder)
    rows = {row.path: row for row in read_manifest(folder / MANIFEST_NAME)}
    problems = [*_check_classes(folder, rows), *_check_lists(folder, rows), *_check_names(folder, rows)]
    work = [(folder, row) for row in rows.values() if row.size and _stays_below(row.path)]
    found = dict(run_parallel(_check_file, work, jobs))
    problems += [f"{work[i][1].path}: {found[i]}" for i in range(len(work)) if found[i]]
    return problems, len(work)


def _refuse_while_written(folder: Path) -> None:
    if not (folder / ".lock").is_file():
        return
    with (folder / ".lock").open("rb") as lock:
        try:
            flock(lock, LOCK_SH | LOCK_NB)
        except OSError as error:
            raise ManifestError(f"a preparation is writing to {folder}; wait for it and verify then") from error


def _check_classes(folder: Path, rows: dict[str, ManifestRow]) -> list[str]:
    """As many names as the preparation had classes, some of which may have no video, the same beside all lists."""
    lists = {name for row in rows.values() if row.size for name in row.split.split("+") if name in LISTS}
    files = {os.path.join(os.path.dirname(name), CLASSES_NAME) for name in lists}  # noqa: PTH118, PTH120
    try:
        names, count = read_class_names(folder / CLASSES_NAME, name=CLASSES_NAME), _num_classes(folder)
        others = {file: read_class_names(folder / file, name=file) for file in sorted(files - {CLASSES_NAME})}
    except ManifestError as error:
        return [str(error)]
    problems = [f"{CLASSES_NAME}: {len(names)} names, but {count} classes in {REPORT_NAME}"] * (len(names) != count)
    for file, found in others.items():
        if differs := difference(found, names, "there", f"in {CLASSES_NAME}"):
            problems.append(f"{file}: {differs}")
    return problems + [
        f"{row.path}: label {row.label} in the manifest, but classes.txt has only {len(names)} classes"
        for row in rows.values()
        if row.label >= len(names)
    ]


def _num_classes(folder: Path) -> int:
    """How many classes the preparation had."""
    try:
        report = json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError(f"{REPORT_NAME}: cannot be read ({error.strerror}); prepare again to write it") from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{REPORT_NAME}: not JSON ({error}); prepare again to write it") from error
    count = report.get("classes") if isinstance(report, dict) else None
    if not isinstance(count, int):
        raise ManifestError(f"{REPORT_NAME}: it does not have the number of classes; prepare again to write it")
    return count


def _check_lists(folder: Path, rows: dict[str, ManifestRow]) -> list[str]:
    """Every list against the manifest: the same videos with the same labels, each once."""
    expected: dict[str, set[str]] = {}
    for row in rows.values():
        for name in row.split.split("+") if row.size else ():
            expected.setdefault(name, set()).add(row.path)
    present = {name for name in LISTS if (folder / f"{name}.csv").exists()}
    problems = []
    for name in sorted(expected.keys() | present):
        file = f"{name}.csv"
        seen: dict[str, list[int]] = {}  # path -> lines
        if not _stays_below(file):
            problems.append(f"{file}: the manifest names a list out of the folder")
            continue
        try:
            for number, path, label in list_rows(folder / file):
                path = os.path.normpath(os.path.join(os.path.dirname(name), path))  # noqa: PTH118, PTH120
                row = rows.get(path)
                if path in seen and not (row and len(seen[path]) < row.split.split("+").count(name)):
                    problems.append(f"{path}: twice in {file}, on lines {seen[path][0]} and {number}")
                elif row is None:
                    problems.append(f"{path}: in {file}, but not in the manifest")
                elif not row.size:
                    problems.append(f"{path}: in {file}, but {row.status} in the manifest")
                elif path not in expected.get(name, ()):
                    problems.append(f"{path}: in {file}, but the manifest has it in {row.split}")
                elif label != row.label:
                    problems.append(f"{path}: label {label} in {file}, {row.label} in the manifest")
                seen.setdefault(path, []).append(number)
        except ManifestError as error:
            problems.append(f"{file}: {error}")
        problems += [
            f"{path}: not in {file}, where the manifest has it"
            for path in sorted(expected.get(name, set()) - seen.keys())
        ]
    return problems


def _check_names(folder: Path, rows: dict[str, ManifestRow]) -> list[str]:
    """Names that lead out of the folder, unexpected videos, and files left by writers that were killed."""
    problems = [f"{path}: this name in the manifest leads out of the folder" for path in rows if not _stays_below(path)]
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(root, name).relative_to(folder).as_posix()
            row = rows.get(path)
            if name.startswith(".") and name.endswith(".partial"):
                problems.append(f"{path}: left by a writer that was killed; run the preparation again")
            elif row is not None and not row.size:
                problems.append(f"{path}: is there, but {row.status} in the manifest")
            elif row is None and path.startswith("videos/"):
                problems.append(f"{path}: is there, but not in the manifest")
    return problems


def _check_file(work: tuple[Path, ManifestRow]) -> str:
    """The problem with the file of one row, or ""."""
    folder, row = work
    try:
        size = (folder / row.path).stat().st_size
        if size != row.size:
            return f"{size} bytes, {row.size} in the manifest"
        digest = sha256(folder / row.path)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if digest == row.sha256 else f"sha256 {digest[:12]}..., {row.sha256[:12]}... in the manifest"


def _stays_below(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/") and "\0" not in path
