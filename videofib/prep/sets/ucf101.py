"""UCF101 -> checked, resized, seekable videos and list files.

    python data_prep/ucf101.py --videos UCF-101 --annotations ucfTrainTestlist --out data/ucf101 [--split 1]

The annotations are the official classInd.txt, trainlist0k.txt and testlist0k.txt. UCF101 has no validation set:
val.csv is test.csv. --split 2 and 3 are the other official splits; --split all writes one set of videos, and the lists
of all three to OUT/split1, split2 and split3. The command also prepares other data sets in this layout, such as the one
that motion.py writes.
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
    add_unique,
    make_parser,
    read_splits,
    run_listed,
)
from videofib.prep.items import PrepareError


def read_annotations(folder: Path, split: int) -> Listing:
    """The training and test videos of split 1, 2 or 3, and the classes in official order.

    Raises:
        PrepareError: a missing file, or a line that contradicts classInd.txt; names file and line.
    """
    index: dict[str, str] = {}  # class -> its number, from 1
    for number, line in read_lines(folder / "classInd.txt"):
        label, _, name = line.partition(" ")
        if label != str(len(index) + 1) or not name:
            raise PrepareError(
                f"{folder / 'classInd.txt'}:{number}: expected '{len(index) + 1} ClassName', got {line!r}"
            )
        index[name] = label
    videos: dict[str, Listed] = {}
    for part, splits in (("train", ("train",)), ("test", ("val", "test"))):
        file = folder / f"{part}list{split:02d}.txt"
        for number, line in read_lines(file):
            name, found, label = line.rpartition(" ")
            if not found or not label.isdecimal():  # test lists have no labels
                name, label = line, ""
            class_name = Path(name).parent.name
            if class_name not in index or (label and label != index[class_name]):
                raise PrepareError(f"{file}:{number}: {line!r} does not fit classInd.txt")
            add_unique(videos, Listed(name, class_name, splits), f"{file}:{number}")
    return Listing(list(videos.values()), list(index))


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = make_parser("Prepare UCF101, or a data set in its layout.", prog)
    add_annotations(parser, "folder of classInd.txt, trainlist0k.txt and testlist0k.txt")
    add_split(parser)
    args = parser.parse_args(arguments)
    run_listed(parser, args, lambda: read_splits(read_annotations, args.annotations, args.split))
