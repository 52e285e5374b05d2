"""Toyota Smarthome (trimmed) -> checked, resized, seekable videos and list files.

    python data_prep/smarthome.py --videos mp4 --out data/smarthome_cs --protocol cs

File names contain everything, Cook.Cleandishes_p02_r00_v02_c03.mp4: activity, person, repetition, view, camera.
Official protocols, classes in alphabetical order:

    cs     cross-subject    31 classes; 11 persons for training, the other 7 for testing; val.csv is test.csv
    cv1    cross-view 1     19 classes; camera 1 for training, 5 for validation, 2 for testing
    cv2    cross-view 2     19 classes; cameras 1, 3, 4, 6 and 7 for training, 5 for validation, 2 for testing

Videos of other classes or cameras are listed in the report.

Sources: Das et al., Toyota Smarthome, ICCV 2019, project.inria.fr/toyotasmarthome. The persons are those of the
official split file of the untrimmed data set, which has the same ones. Classes and cameras follow
github.com/YangDi666/2s-AGCN-For-Daily-Living, to which the project page links, except for two points there:
Usetelephone before Usetablet in cs (other code of the authors is alphabetical), and cv2's cameras compared with the
number of the person. No split file of the trimmed data set was available, hence no count of its videos.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from videofib.prep.command import (
    Listed,
    Listing,
    add_only_present_classes,
    list_by_name,
    make_parser,
    run_listed,
)

_NAME = re.compile(r"([A-Za-z.]+)_p([0-9]{2})_r[0-9]{2}_v[0-9]{2}_c([0-9]{2})")
TRAINING_SUBJECTS = frozenset((3, 4, 6, 7, 9, 12, 13, 15, 17, 19, 25))
TEST_SUBJECTS = frozenset((2, 10, 11, 14, 16, 18, 20))
_TRAINING_CAMERAS = {"cv1": frozenset((1,)), "cv2": frozenset((1, 3, 4, 6, 7))}
_CROSS_VIEW = (
    *("Cutbread", "Drink.Frombottle", "Drink.Fromcan", "Drink.Fromcup", "Drink.Fromglass", "Eat.Attable", "Eat.Snack"),
    *("Enter", "Getup", "Leave", "Pour.Frombottle", "Pour.Fromcan", "Readbook", "Sitdown", "Takepills", "Uselaptop"),
    *("Usetablet", "Usetelephone", "Walk"),
)
_CROSS_SUBJECT_ONLY = (
    *("Cook.Cleandishes", "Cook.Cleanup", "Cook.Cut", "Cook.Stir", "Cook.Usestove", "Laydown"),
    *("Makecoffee.Pourgrains", "Makecoffee.Pourwater", "Maketea.Boilwater", "Maketea.Insertteabag"),
    *("Pour.Fromkettle", "WatchTV"),
)
CLASSES = {
    "cs": sorted(_CROSS_VIEW + _CROSS_SUBJECT_ONLY),
    "cv1": sorted(_CROSS_VIEW),
    "cv2": sorted(_CROSS_VIEW),
}


def plan(videos: Path, *, protocol: str) -> Listing:
    """The videos under a folder that the protocol cs, cv1 or cv2 uses, and its classes.

    Raises:
        PrepareError: a video that occurs twice, or none at all.
    """

    def describe(path: str) -> Listed | str:
        name = path.rpartition("/")[2]
        match = _NAME.fullmatch(name)
        if not match or match[1] not in CLASSES["cs"]:
            return "names_not_understood"
        splits = _splits(protocol, person=int(match[2]), camera=int(match[3]))
        if not splits or match[1] not in CLASSES[protocol]:
            return f"not_in_{protocol}"
        return Listed(name, match[1], splits)

    return list_by_name(videos, CLASSES[protocol], "Cook.Cleandishes_p02_r00_v02_c03.mp4", describe)


def _splits(protocol: str, *, person: int, camera: int) -> tuple[str, ...]:
    if protocol == "cs":
        return ("train",) if person in TRAINING_SUBJECTS else ("val", "test") if person in TEST_SUBJECTS else ()
    if camera in _TRAINING_CAMERAS[protocol]:
        return ("train",)
    return {5: ("val",), 2: ("test",)}.get(camera, ())


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = make_parser("Prepare Toyota Smarthome (trimmed).", prog)
    add_only_present_classes(parser)
    parser.add_argument("--protocol", choices=tuple(CLASSES), default="cs", help="official protocol (default cs)")
    args = parser.parse_args(arguments)
    run_listed(parser, args, lambda: plan(args.videos, protocol=args.protocol))
