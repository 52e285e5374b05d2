"""Diving48 -> checked, resized, seekable videos and list files.

    python data_prep/diving48.py --videos rgb --annotations annotations --out data/diving48

The annotations are the official Diving48_V2_train.json and Diving48_V2_test.json, lists of objects with vid_name,
label (0 to 47), start_frame and end_frame; Diving48_vocab.json beside them gives the classes their names
(Back_15som_05Twis_FREE), which are 00, 01, ... 47 without it. Videos are <vid_name>.mp4 (any video extension), one dive
each, and used from beginning to end: an entry that does not start at frame 0 is listed in the report. Diving48 has no
validation set: val.csv is test.csv.

Source: Li et al., RESOUND, ECCV 2018, svcl.ucsd.edu/projects/resound. No official file was available: keys, labels from
0 and the vocabulary (48 lists of four words) follow published code that reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from videofib.prep.annotations import plain_name, read_entries, read_json
from videofib.prep.command import Listed, Listing, add_annotations, add_unique, make_parser, run_listed
from videofib.prep.items import PrepareError

_CLASSES = 48


def read_annotations(folder: Path) -> Listing:
    """The training and test videos, and the classes in official order.

    Raises:
        PrepareError: a missing file, an unknown label, a video listed twice; names file and entry.
    """
    classes = _read_classes(folder / "Diving48_vocab.json")
    by_label = {str(label): name for label, name in enumerate(classes)}
    videos: dict[str, Listed] = {}
    later = []
    for part, splits in (("train", ("train",)), ("test", ("val", "test"))):
        file = folder / f"Diving48_V2_{part}.json"
        for where, (name, label, start) in read_entries(file, ("vid_name", "label", "start_frame")):
            if str(label) not in by_label:
                raise PrepareError(f"{where}: label {label!r} is not from 0 to {_CLASSES - 1}")
            name = f"{plain_name(name, where)}.mp4"
            add_unique(videos, Listed(name, by_label[str(label)], splits), where)
            if start != 0:
                later.append(name)
    return Listing(list(videos.values()), classes, {"do_not_start_at_frame_0": later})


def _read_classes(file: Path) -> list[str]:
    if not file.is_file():
        return [f"{label:02d}" for label in range(_CLASSES)]
    words = read_json(file)
    if not isinstance(words, list) or len(words) != _CLASSES:
        raise PrepareError(f"{file}: expected a list of {_CLASSES} classes; correct or remove the file")
    names = ["_".join(map(str, entry)) if isinstance(entry, list) else entry for entry in words]
    names = [plain_name(name, f"{file}: class {label}") for label, name in enumerate(names)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise PrepareError(f"{file}: the class {twice[0]!r} is listed twice; correct or remove the file")
    return names


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = make_parser("Prepare Diving48.", prog)
    add_annotations(
        parser, "folder of Diving48_V2_train.json, Diving48_V2_test.json and, optionally, Diving48_vocab.json"
    )
    args = parser.parse_args(arguments)
    run_listed(parser, args, lambda: read_annotations(args.annotations))
