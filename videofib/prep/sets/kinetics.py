"""Kinetics-400, -600 or -700 -> checked, resized, seekable videos and list files.

    python data_prep/kinetics.py --videos kinetics400 --annotations annotations --out data/kinetics400

The annotations are the official csv files (label,youtube_id,time_start,time_end,split), one or a folder of them. A
clip is found as <id>_000010_000020.mp4, <id>_10_20.mp4 or <id>.mp4 (any video extension, and what yt-dlp appends), in
a folder of its class (`air drumming` or `air_drumming`), in one of its split, or directly. Without test labels,
test.csv is val.csv.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from videofib.data.lists.classes_file import SPLIT_WORDS
from videofib.prep.annotations import read_table
from videofib.prep.command import Listed, Listing, add_annotations, make_parser, run_listed
from videofib.prep.items import PrepareError

_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")


def read_annotations(source: Path) -> Listing:
    """The clips of all splits, and the classes in alphabetical order.

    Files that list clips without labels, as the official test lists do, are reported in the notes and left out.

    Raises:
        PrepareError: no usable csv file, or an invalid row; names file and line.
    """
    files = sorted(source.glob("*.csv")) if source.is_dir() else [source]
    clips: dict[tuple[str, tuple[str, ...]], str] = {}  # (class, stems of the file) -> split
    unlabelled, twice = [], []
    for file in files:
        columns, rows = read_table(file)
        if "youtube_id" in columns and "label" not in columns:
            unlabelled.append(file.name)
            continue
        if missing := [name for name in _COLUMNS if name not in columns]:
            raise PrepareError(f"{file}: the header {','.join(columns)!r} lacks {', '.join(missing)}")
        for where, row in rows:
            label, stems, split = _read_row(row, where)
            if (label, stems) in clips:
                twice.append(f"{label}/{stems[0]}")
            else:
                clips[label, stems] = split
    if not clips:
        raise PrepareError(f"{source} has no csv file of labelled clips, with the columns {','.join(_COLUMNS)}")
    val_is_test = "test" not in clips.values()
    videos = [
        Listed(
            f"{label}/{stems[0]}.mp4",
            label,
            ("val", "test") if split == "val" and val_is_test else (split,),
            stems=stems,
        )
        for (label, stems), split in clips.items()
    ]
    notes = {"unlabelled_lists": unlabelled, "listed_twice": twice}
    return Listing(videos, sorted({label for label, _ in clips}), notes)


def _read_row(row: dict[str, str], where: str) -> tuple[str, tuple[str, ...], str]:
    """(class, stems of the file with padded times, with times as they are, without times, split)."""
    try:
        label, youtube_id, first, last, split = (row[name].strip() for name in _COLUMNS)
        start, end = int(float(first)), int(float(last))
    except (AttributeError, ValueError, OverflowError) as error:
        raise PrepareError(f"{where}: expected {','.join(_COLUMNS)}, got {list(row.values())}") from error
    if not label or not youtube_id or "/" in youtube_id:
        raise PrepareError(f"{where}: class {label!r} or clip name {youtube_id!r} is refused")
    if split.lower() not in SPLIT_WORDS:
        raise PrepareError(f"{where}: the split {split!r} is none of {', '.join(SPLIT_WORDS)}; rename it in this file")
    stems = (f"{youtube_id}_{start:06d}_{end:06d}", f"{youtube_id}_{start}_{end}", youtube_id)
    return label, stems, SPLIT_WORDS[split.lower()]


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = make_parser("Prepare Kinetics.", prog)
    add_annotations(parser, "official csv file, or a folder of them")
    args = parser.parse_args(arguments)
    run_listed(parser, args, lambda: read_annotations(args.annotations))
