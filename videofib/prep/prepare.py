"""A raw data set -> checked, resized, seekable videos with list files, a manifest and a report.

    out/videos/<class>/<stem>.mp4
    out/train.csv  val.csv  test.csv    `path label` a line; with several official splits they and classes.txt
                                        are in out/split1/, split2/, split3/ and share the videos
    out/classes.txt                     line i names label i
    out/manifest.parquet                every listed video: what was counted and proved, or why it is missing
    out/report.json                     a summary: missing, corrupt and damaged videos by name; possible leaks
    out/journal.jsonl                   what is done, so that a later run does only the rest

A video is added to the journal once its file is complete and on the disk, and lists are written last: killed at any
moment and run again, a preparation ends with the same bytes as if it had not been interrupted. An entry of the journal
that cannot be used is work to do again, and reported in one line.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import partial
from pathlib import Path
from stat import S_ISREG
from typing import Any

from tqdm import tqdm

from videofib.data.errors import DecodeError
from videofib.data.lists.manifest import (
    LISTS,
    MANIFEST_NAME,
    SPLITS,
    ManifestRow,
    write_list,
    write_manifest,
)
from videofib.files import remove_partial, replacing
from videofib.prep.engines.parallel import run_parallel
from videofib.prep.items import REPORT_NAME, Item, PrepareError, output_paths
from videofib.prep.journal import Journal
from videofib.prep.leaks import find_leaks
from videofib.prep.pictures import PictureEncoding, write_picture
from videofib.prep.transcode import PROOF_OF_COPIES, Encoding, Transcoded, transcode

_LOG = logging.getLogger(__name__)


def prepare(
    items: Sequence[Item],
    classes: Sequence[str],
    out: str | Path,
    *,
    videos: str | Path,
    encoding: Encoding | PictureEncoding,
    jobs: int,
    notes: dict[str, list[str]] | None = None,
    engine: Callable[[Callable, Sequence, int], Iterator[tuple[int, Any]]] = run_parallel,
) -> dict:
    """Transcode every item that has a source and write the data set; the top of this file shows its files.

    Args:
        items: all listed videos, in the order of the list files.
        classes: name of label 0, 1, ...
        out: the folder to write.
        videos: the folder of the sources, which ``out`` must not overwrite; sources are recorded relative to it.
        encoding: size and quality, of videos or of pictures.
        jobs: processes at once.
        notes: lists of names to add to the report unchanged.
        engine: runs the work: ``run_parallel``, or ``run_on_ray`` with the same signature.

    Returns:
        The report, as written to report.json.

    Raises:
        PrepareError: nothing to prepare, names that lead out of a folder, ``out`` overlaps ``videos``, another run is
            writing to ``out``, a file cannot be written, or not one video could be read.
    """
    out, videos = Path(out), Path(videos)
    suffix = encoding.suffix if isinstance(encoding, PictureEncoding) else ".mp4"
    paths = output_paths(items, classes, keep_suffix=encoding.codec == "copy", suffix=suffix)
    if not any(item.source for item in items):
        raise PrepareError(f"none of the {len(items)} listed videos is under {videos}; is that the right --videos?")
    target, source = (out / "videos").resolve(), videos.resolve()
    if target == source or target in source.parents or source in target.parents:
        raise PrepareError(f"--out {out} would write into the folder of the sources, {videos}; choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PrepareError(f"--out {out} cannot be made a folder ({error.strerror}); choose another") from error
    with (out / ".lock").open("w") as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except OSError as error:
            raise PrepareError(
                f"another preparation is writing to {out}; wait for it or choose another --out"
            ) from error
        remove_partial(out)
        rows = _transcode_all(items, paths, out, videos, encoding, partial(engine, jobs=jobs))
        remove_partial(out)  # of workers that died in this run
        report = _report(items, rows, classes, encoding, notes or {})
        _write_lists(items, rows, classes, out)
        _write_text(out / REPORT_NAME, json.dumps(report, indent=1) + "\n")
    if not any(row.size for row in rows):
        raise PrepareError(f"not one of {len(items)} videos could be read; {out}/{REPORT_NAME} says why for each")
    return report


def _transcode_all(
    items: Sequence[Item],
    paths: Sequence[str],
    out: Path,
    videos: Path,
    encoding: Encoding | PictureEncoding,
    run: Callable,
) -> list[ManifestRow]:
    """A manifest row for each item, from the journal or from work done now."""
    results: dict[str, Transcoded | str] = {}  # by path: the facts, or why there are none
    journal = Journal(out / "journal.jsonl", order=paths)
    if journal.problem:
        _LOG.warning("%s", journal.problem)
    for path in journal.outdated():
        is_file = os.path.isfile(out / path)  # noqa: PTH113, which also says so of a name that is too long
        if is_file and (out / path).parent.resolve().is_relative_to((out / "videos").resolve()):
            (out / path).unlink()  # of an earlier run with other options; not in the manifest any more
    settings = encoding.as_dict() | ({"proof": PROOF_OF_COPIES} if encoding.codec == "copy" else {})
    with journal:
        work = []
        for item, path in zip(items, paths, strict=True):
            if item.source is None:
                (out / path).unlink(missing_ok=True)  # its source is gone; the lists will not contain it
            elif (known := journal.find(path, _fingerprint(item, videos, settings))) is not None and (
                isinstance(known, str) or _has_size(f"{out}/{path}", known.size)
            ):
                results[path] = known
            else:
                work.append((item, path))
        done = len(results)
        quiet = None if work else True  # None: quiet unless the output is a terminal
        calls = [(item, out / path, encoding) for item, path in work]
        progress = tqdm(run(_work, calls), "videos", done + len(work), initial=done, disable=quiet)
        for index, result in progress:
            item, path = work[index]
            if isinstance(result, OSError):
                raise PrepareError(
                    f"{out / path} cannot be written: {result.strerror or result}; fix this and run again"
                ) from result
            if isinstance(result, Transcoded):
                results[path] = result
            else:
                results[path] = _reason(result, item.source)
            if isinstance(result, Transcoded | DecodeError):  # the next run tries again what crashed
                journal.add(path, _fingerprint(item, videos, settings), results[path])
    return [_row(item, path, videos, results.get(path)) for item, path in zip(items, paths, strict=True)]


def _work(call: tuple[Item, Path, Encoding | PictureEncoding]) -> Transcoded:
    item, target, encoding = call
    if isinstance(encoding, PictureEncoding):
        return write_picture(item.source, target, encoding, item.raw)
    return transcode(item.source, target, encoding, crop=item.crop, segment=item.segment)


def _reason(error: Exception, source: Path) -> str:
    text = str(error) if isinstance(error, DecodeError | RuntimeError) else f"{type(error).__name__}: {error}"
    return text.removeprefix(f"{source}: ")


def _fingerprint(item: Item, videos: Path, settings: dict) -> dict:
    """All that a result depends on."""
    try:
        stat = item.source.stat()
    except OSError:  # a broken link, which decoding will report
        stat = None
    return {
        "source": _relative(item.source, videos),
        "size": stat and stat.st_size,
        "mtime_ns": stat and stat.st_mtime_ns,
        "encoding": settings,
        "crop": item.crop and list(item.crop),
        **({"segment": str(item.segment)} if item.segment else {}),
    }


def _relative(source: Path, videos: Path) -> str:
    folder = str(videos)  # as text, see ``items.stem``
    if str(source) == folder:  # an archive
        return source.name
    return str(source).removeprefix("" if folder == "." else f"{folder.rstrip('/')}/")


def _has_size(path: str, size: int) -> bool:
    try:
        status = os.stat(path)  # noqa: PTH116, as in _relative
    except OSError:
        return False
    return S_ISREG(status.st_mode) and status.st_size == size


def _row(item: Item, path: str, videos: Path, result: Transcoded | str | None) -> ManifestRow:
    split = "+".join(item.splits)
    if item.source is None:
        return ManifestRow(path, item.label, split, status="missing", reason="no source file", source=item.name)
    source = f"{_relative(item.source, videos)}{item.segment or ''}"
    if isinstance(result, str):
        return ManifestRow(path, item.label, split, status="corrupt", reason=result, source=source)
    facts = dict(vars(result))
    reason = facts.pop("damaged")
    status = "damaged" if reason else "ok"
    return ManifestRow(path, item.label, split, **facts, status=status, reason=reason, source=source)


def _report(
    items: Sequence[Item],
    rows: Sequence[ManifestRow],
    classes: Sequence[str],
    encoding: Encoding | PictureEncoding,
    notes: dict,
) -> dict:
    def named(status: str) -> list[str]:
        found = [(item, row) for item, row in zip(items, rows, strict=True) if row.status == status]
        return [item.name if status == "missing" else f"{item.name}: {row.reason}" for item, row in found]

    of_pictures = isinstance(encoding, PictureEncoding)  # in which nobody seeks
    readable = [row for row in rows if row.size]
    lists = Counter(row.split for row in readable)
    return {
        "listed": len(rows),
        "prepared": len(readable),
        **({} if of_pictures else {"random_access_proven": sum(row.random_access for row in readable)}),
        "classes": len(classes),
        "splits": {
            name: sum(count for split, count in lists.items() if name in split.split("+"))
            for name in _list_names(items)
        },
        "encoding": encoding.as_dict(),
        "missing": named("missing"),
        "corrupt": named("corrupt"),
        "damaged": named("damaged"),
        "clock_jumps": [f"{row.path}: {row.clock_jumps}" for row in readable if row.clock_jumps],
        "read_in_order_only": [] if of_pictures else [row.path for row in readable if not row.random_access],
        **find_leaks(rows),
        **notes,
    }


def _list_names(items: Sequence[Item]) -> Sequence[str]:
    """The lists of these items; with a single official split all three, although one of them may be empty."""
    used = {name for item in items for name in item.splits}
    return SPLITS if used <= set(SPLITS) else [name for name in LISTS if name in used]


def _write_lists(items: Sequence[Item], rows: Sequence[ManifestRow], classes: Sequence[str], out: Path) -> None:
    """Write classes.txt, the manifest and the lists; remove lists of other splits that an earlier run has written."""
    write_manifest(out / MANIFEST_NAME, rows)
    _write_classes(out, classes)
    folders = set()
    for name in LISTS:
        file = out / f"{name}.csv"
        up = "../" * name.count("/")
        listed = [
            (up + row.path, row.label)
            for item, row in zip(items, rows, strict=True)
            for _ in range(item.splits.count(name))
            if row.size
        ]
        if listed:
            write_list(file, listed)
            folders.add(file.parent)
        else:
            file.unlink(missing_ok=True)
    for folder in {(out / name).parent for name in LISTS} - {out}:
        if folder in folders:
            _write_classes(folder, classes)
        elif folder.is_dir():
            (folder / "classes.txt").unlink(missing_ok=True)
            with suppress(OSError):  # not empty: it contains other files
                folder.rmdir()


def _write_classes(folder: Path, classes: Sequence[str]) -> None:
    _write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))


def _write_text(file: Path, text: str) -> None:
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
