"""Your own lists -> checked, resized, seekable videos and list files; rows that are segments are cut.

    python data_prep/list.py --videos ROOT --train train.csv --val val.csv --out data/own

The lists are those that training takes (docs/preparing.md, Lists): `path label` a line, with numbers or names of
classes, a header, quotes, or segments in seconds or frames. Relative paths start at ROOT. Classes are those of
--classes, else of a classes.txt beside the train list, else the names in the train list, sorted; classes that have
numbers alone are called `class 0` and so on. Where there is only one of --val and --test it serves as both. Rows that
the train list repeats stay repeated. For a segment, its film is decoded from the first frame on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from videofib.data.errors import ManifestError
from videofib.data.lists.classes_file import CLASSES_NAME, SPLITS
from videofib.prep.command import make_parser, run
from videofib.prep.items import Item, PrepareError


@dataclass(frozen=True)
class Lists:
    """Lists of splits, and how they are read.

    Attributes:
        files: of train, val and test, those that there are.
        classes: a file of class names, if any.
        separator: between path and label.
        segments: unit of the segments of lines without a header; empty: they have none.
    """

    files: dict[str, Path]
    classes: Path | None = None
    separator: str = " "
    segments: str = ""


def read_lists(root: Path, lists: Lists) -> tuple[list[Item], list[str], dict[str, list[str]]]:
    """Items in the order of the lists, the classes, and no notes.

    Raises:
        PrepareError: a list or its classes cannot be used, a path is not below ``root``, or one row has two labels.
    """
    splits: dict[str, tuple[str, ...]] = {name: (name,) for name in SPLITS}
    if "val" not in lists.files or "test" not in lists.files:
        splits |= {"val": ("val", "test"), "test": ("val", "test")}
    items: dict[tuple[str, str], Item] = {}
    where: dict[tuple[str, str], str] = {}
    try:
        names, rows = _read(root, lists)
        for split, file, (path, segment, label) in rows:
            source, named = root / path, f"{path}{segment or ''} in {file}"
            if ".." in Path(path).parts or not source.is_relative_to(root):
                raise PrepareError(f"{named} is not below --videos {root}")
            key = (str(source), str(segment or ""))
            if key not in items:
                name = _output_name(str(source.relative_to(root)), segment)
                found = source if source.is_file() else None
                items[key], where[key] = Item(name, label, splits[split], found, segment=segment), str(file)
                continue
            item = items[key]
            if item.label != label:
                raise PrepareError(f"{named} is {names[label]!r}, and in {where[key]} {names[item.label]!r}")
            new = [name for name in splits[split] if name == "train" or name not in item.splits]
            items[key] = replace(item, splits=tuple(sorted([*item.splits, *new], key=SPLITS.index)))
    except ManifestError as error:
        raise PrepareError(str(error)) from error
    return list(items.values()), names, {}


def _read(root: Path, lists: Lists) -> tuple[list[str], Iterator[tuple[str, Path, tuple]]]:
    """The classes, and (split, list, (path, segment, label)) of all rows."""
    from videofib.data.lists.classes_file import read_class_names
    from videofib.data.lists.layout import recognised
    from videofib.data.lists.manifest import read_list
    from videofib.data.lists.rows import ClassNames, listed_names

    train = lists.files["train"]
    beside = train.parent / CLASSES_NAME
    origin = lists.classes or (beside if beside.is_file() else None)
    names = read_class_names(origin) if origin else None
    layouts = {
        split: recognised(file, lists.separator, unit=lists.segments, root=root) for split, file in lists.files.items()
    }
    has_names = {split: layout is not None and layout.names for split, layout in layouts.items()}
    if names is None and layouts["train"] is not None and layouts["train"].names:
        names, origin = listed_names(train, layouts["train"]), train
    for split, named in has_names.items():
        if (origin is None and named) or (origin == train and not named):
            has, others = ("names", "numbers") if named else ("numbers", "names")
            raise PrepareError(
                f"{lists.files[split]} has {has} of classes and {train} {others}; name the classes with --classes"
            )
    found = {
        split: read_list(
            file, prefix=root, separator=lists.separator, segments=lists.segments, repeats=split == "train",
            classes=ClassNames(names, str(origin)) if names else None,
        )
        for split, file in lists.files.items()
    }  # fmt: skip
    highest = max(records.highest_label()[0] for records in found.values())
    if names is None:
        names = [f"class {label}" for label in range(highest + 1)]
    elif highest >= len(names):
        raise PrepareError(f"{origin} names {len(names)} classes, and the lists have label {highest}")

    def rows() -> Iterator[tuple[str, Path, tuple]]:
        for split, records in found.items():
            for record in records:
                path = record.video_id.removesuffix(str(record.segment or ""))
                yield split, lists.files[split], (path, record.segment, record.label)

    return names, rows()


def _output_name(path: str, segment) -> str:
    """What the file of a row is called: ``film_t12.5-20.mp4`` of a segment of ``film.mp4``."""
    if segment is None:
        return path
    kind, _, moments = str(segment).removeprefix("#").partition("=")
    base, dot, extension = path.rpartition(".")
    part = f"_{kind[0]}{moments.replace(',', '-')}"
    return f"{base}{part}.{extension}" if dot and "/" not in extension else f"{path}{part}.mp4"


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = make_parser("Prepare videos that lists of your own name, and cut segments.", prog)
    for split in SPLITS:
        parser.add_argument(
            f"--{split}", type=Path, required=split == "train", metavar="FILE", help=f"list of the {split} split"
        )
    parser.add_argument("--classes", type=Path, metavar="FILE", help="names of the classes, one a line")
    parser.add_argument("--separator", default=" ", metavar="TEXT", help="between path and label (default: a space)")
    parser.add_argument(
        "--segments", choices=("seconds", "frames"), default="",
        help="lines are segments, `path start end label`, in this unit; a list with a header says so itself",
    )  # fmt: skip
    args = parser.parse_args(arguments)
    files = {split: file for split in SPLITS if (file := getattr(args, split))}
    if not args.separator:
        parser.error("--separator must not be empty")
    separator = args.separator.replace(r"\t", "\t")
    lists = Lists(files, args.classes, separator, args.segments)

    def items() -> tuple[list[Item], list[str], dict[str, list[str]]]:
        found = read_lists(args.videos, lists)
        if args.codec == "copy" and (cut := [item.name for item in found[0] if item.segment]):
            raise PrepareError(f"--codec copy keeps files as they are, and {cut[0]} is a segment, which is cut")
        return found

    run(parser, args, items)
