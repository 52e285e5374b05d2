"""HMDB51 -> checked, resized, seekable videos and list files.

    python data_prep/hmdb51.py --videos hmdb51 --annotations testTrainMulti_7030_splits --out data/hmdb51 [--split 1]

The annotations are the official 153 files <class>_test_split<k>.txt: behind each name, 1 means training, 2 test and 0
unused in this split. HMDB51 has no validation set: val.csv is test.csv. --split all writes one set of videos, and the
lists of all three splits to OUT/split1, split2 and split3.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from videofib.prep.annotations import read_lines
from videofib.prep.command import (
    Listed,
    Listing,
    add_annotations,
    add_split,
    make_parser,
    read_splits,
    run_listed,
)
from videofib.prep.items import PrepareError

_SPLITS = {"1": ("train",), "2": ("val", "test")}


def read_annotations(folder: Path, split: int) -> Listing:
    """The training and test videos of split 1, 2 or 3, and the classes in alphabetical order.

    Raises:
        PrepareError: no annotation files, or an invalid line; names file and line.
    """
    ending = f"_test_split{split}.txt"
    files = {file.name.removesuffix(ending): file for file in folder.glob(f"*{ending}")}
    if not files:
        raise PrepareError(f"{folder} has no files *{ending}; --annotations is the folder of HMDB51's split files")
    videos = {}
    for class_name, file in sorted(files.items()):
        for number, line in read_lines(file):
            name, _, use = line.rpartition(" ")
            if not name or use not in ("0", "1", "2"):
                raise PrepareError(f"{file}:{number}: expected 'name.avi 0', 1 or 2, got {line!r}")
            name = f"{class_name}/{name.strip()}"
            if name in videos:
                raise PrepareError(f"{file}:{number}: {name!r} is listed twice")
            if use != "0":
                videos[name] = Listed(name, class_name, _SPLITS[use])
    return Listing(list(videos.values()), sorted(files))


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = make_parser("Prepare HMDB51.", prog)
    add_annotations(parser, "folder of <class>_test_split<k>.txt")
    add_split(parser)
    args = parser.parse_args(arguments)
    run_listed(parser, args, lambda: read_splits(read_annotations, args.annotations, args.split))
