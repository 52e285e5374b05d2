"""Something-Something v2 -> checked, resized, seekable videos and list files.

    python data_prep/ssv2.py --videos 20bn-something-something-v2 --annotations labels --out data/ssv2

The annotations are the official labels.json, train.json and validation.json (also under their older names,
something-something-v2-train.json and so on). A class is a template without its brackets; its label is the number that
labels.json gives it. Videos are <id>.webm (any video extension). The test set is listed in test-answers.csv, `id;label`
a line; without that file test.csv is val.csv, as is usual. Labels distinguish left and right: train with
DATA.RANDOM_FLIP False.

Source: Goyal et al., arXiv 1706.04261, for the data set; the files are those of its second version, 20BN's (now
Qualcomm's). Only the layout of test-answers.csv follows code that reads it: the file itself was not available.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from videofib.prep.annotations import plain_name, read_entries, read_json, read_lines
from videofib.prep.command import Listed, Listing, add_annotations, add_unique, make_parser, run_listed
from videofib.prep.items import PrepareError

_PREFIXES = ("", "something-something-v2-")


def read_annotations(folder: Path) -> Listing:
    """The videos of all labelled splits, and the classes in the order of their official numbers.

    A list of test videos without answers is reported in the notes.

    Raises:
        PrepareError: a missing file, an unknown template, a video listed twice; names file and entry or line.
    """
    classes = _read_classes(_file(folder, "labels.json"))
    known = set(classes)
    answers, unlabelled = _file(folder, "test-answers.csv"), _file(folder, "test.json")
    videos: dict[str, Listed] = {}

    def add(name: object, template: object, splits: tuple[str, ...], where: str) -> None:
        label = str(template).replace("[", "").replace("]", "")
        if label not in known:
            raise PrepareError(f"{where}: {template!r} is not a template of labels.json; use files of the same release")
        add_unique(videos, Listed(f"{plain_name(name, where)}.webm", label, splits), where)

    for part, splits in (("train", ("train",)), ("validation", ("val",) if answers.is_file() else ("val", "test"))):
        for where, (name, template) in read_entries(_file(folder, f"{part}.json"), ("id", "template")):
            add(name, template, splits, where)
    for number, line in read_lines(answers) if answers.is_file() else []:
        row = next(csv.reader([line], delimiter=";"))
        if len(row) != 2:
            raise PrepareError(f"{answers}:{number}: expected 'id;label', got {line!r}")
        name, template = row
        add(name, template, ("test",), f"{answers}:{number}")
    without = [unlabelled.name] if unlabelled.is_file() and not answers.is_file() else []
    return Listing(list(videos.values()), classes, {"unlabelled_lists": without})


def _file(folder: Path, name: str) -> Path:
    """The file of that name or, if it exists only under that, of the older name."""
    files = [folder / f"{prefix}{name}" for prefix in _PREFIXES]
    return next((file for file in files if file.is_file()), files[0])


def _read_classes(file: Path) -> list[str]:
    """The classes in the order of their numbers, which must be 0, 1, 2, ..."""
    numbers = read_json(file)
    if not isinstance(numbers, dict) or not numbers:
        raise PrepareError(f'{file}: expected an object of templates and their numbers, {{"Closing something": "5"}}')
    by_number = {str(number): plain_name(name, f"{file}: number {number}") for name, number in numbers.items()}
    missing = [number for number in range(len(numbers)) if str(number) not in by_number]
    if missing:
        raise PrepareError(
            f"{file}: {len(numbers)} classes, but none has the number {missing[0]}; is the file complete?"
        )
    return [by_number[str(number)] for number in range(len(numbers))]


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = make_parser("Prepare Something-Something v2.", prog)
    add_annotations(parser, "folder of labels.json, train.json, validation.json and, optionally, test-answers.csv")
    args = parser.parse_args(arguments)
    run_listed(parser, args, lambda: read_annotations(args.annotations))
