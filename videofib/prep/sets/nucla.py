"""Northwestern-UCLA -> checked, resized, seekable videos and list files.

    python data_prep/nucla.py --videos multiview_action_videos --out data/nucla

File names contain everything: action, person (subject), execution, view. Three layouts are supported, in any folder and
with any video extension:

    a01/v01_s01_e00.avi                          the official archive of videos
    a01_s01_e00_v01.avi                          the names of skeleton files
    view_1/a01_s01_e00.avi or view_1/a01_s01_e00/<one video>    the archive of frames, once made into videos

The cross-view protocol trains on views 1 and 2 and tests on view 3; --test-view 1 or 2 gives the other two folds.
val.csv is test.csv. The ten actions are numbered 1 to 6, 8, 9, 11 and 12; labels are 0 to 9 in this order.

Source: Wang et al., Cross-view Action Modeling, Learning and Recognition, CVPR 2014, arXiv 1405.2941. No official file
was available: layouts, numbers and names of actions follow the code of several papers.
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

_LAYOUTS = tuple(
    re.compile(rf"(?:.*/)?{layout}")
    for layout in (
        r"a(?P<action>[0-9]{2})/v0(?P<view>[1-3])_(?P<rest>s[0-9]{2}_e[0-9]{2})",
        r"a(?P<action>[0-9]{2})_(?P<rest>s[0-9]{2}_e[0-9]{2})_v0(?P<view>[1-3])",
        r"view_(?P<view>[1-3])/a(?P<action>[0-9]{2})_(?P<rest>s[0-9]{2}_e[0-9]{2})(?:/[^/]+)?",
    )
)
ACTIONS = {
    "01": "pick up with one hand",
    "02": "pick up with two hands",
    "03": "drop trash",
    "04": "walk around",
    "05": "sit down",
    "06": "stand up",
    "08": "donning",
    "09": "doffing",
    "11": "throw",
    "12": "carry",
}


def plan(videos: Path, *, test_view: int = 3) -> Listing:
    """The videos under a folder, those of one view for testing, and the ten classes.

    Raises:
        PrepareError: a video that occurs twice, or none at all.
    """

    def describe(path: str) -> Listed | str:
        match = next(filter(None, (layout.fullmatch(path) for layout in _LAYOUTS)), None)
        if not match or match["action"] not in ACTIONS:
            return "names_not_understood"
        splits = ("val", "test") if int(match["view"]) == test_view else ("train",)
        return Listed(f"a{match['action']}_{match['rest']}_v0{match['view']}", ACTIONS[match["action"]], splits)

    return list_by_name(videos, list(ACTIONS.values()), "a01/v01_s01_e00.avi or a01_s01_e00_v01.avi", describe)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = make_parser("Prepare Northwestern-UCLA.", prog)
    add_only_present_classes(parser)
    parser.add_argument("--test-view", type=int, choices=(1, 2, 3), default=3, help="view to test on (default 3)")
    args = parser.parse_args(arguments)
    run_listed(parser, args, lambda: plan(args.videos, test_view=args.test_view))
