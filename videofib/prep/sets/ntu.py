"""NTU RGB+D 60 or 120 -> checked, resized, seekable videos and list files.

    python data_prep/ntu.py --videos nturgb+d_rgb --out data/ntu60 --version 60 --protocol xsub

File names contain everything, S001C002P003R002A013_rgb.avi: setup, camera, performer, replication, action. Official
protocols, by their training samples; the others are for testing, and val.csv is test.csv:

    xsub    cross-subject    20 of 40 performers in version 60, 53 of 106 in 120
    xview   cross-view       cameras 2 and 3, version 60 only
    xset    cross-setup      even setups, version 120 only

--missing-skeletons leaves out the samples of an official list (NTU_RGBD_samples_with_missing_skeletons.txt), as papers
on skeletons do, and reports how many these are. --annotations is a file of the actions' names, one a line in official
order; without it the classes are A001, A002, ... In classes a slash becomes a dash.

Sources: Shahroudy et al., arXiv 1604.02808; Liu et al., arXiv 1905.04757; github.com/shahroudy/NTURGB-D for names,
actions and lists. Checked in part for version 60: of the list's 302 samples these protocols put 229 (xsub) and 274
(xview) into training, by which the published counts without them, 40091 and 37646, differ from the full 40320 and
37920. The 53 performers of version 120 follow the code of several papers; no published count was found to check them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from videofib.prep.annotations import plain_name, read_lines
from videofib.prep.command import (
    Listed,
    Listing,
    add_only_present_classes,
    list_by_name,
    make_parser,
    run_listed,
)
from videofib.prep.items import PrepareError

_SAMPLE = re.compile(r"S([0-9]{3})C([0-9]{3})P([0-9]{3})R([0-9]{3})A([0-9]{3})")
_SETUPS = {60: 17, 120: 32}
_SUBJECTS = {60: 40, 120: 106}
_PROTOCOLS = {60: ("xsub", "xview"), 120: ("xsub", "xset")}
_TRAINING_60 = (1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38)
TRAINING_SUBJECTS = {
    60: frozenset(_TRAINING_60),
    120: frozenset(
        (
            *(*_TRAINING_60, 45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78),
            *(80, 81, 82, 83, 84, 85, 86, 89, 91, 92, 93, 94, 95, 97, 98, 100, 103),
        )
    ),
}


def plan(
    videos: Path,
    *,
    version: int,
    protocol: str,
    actions: Path | None = None,
    missing_skeletons: Path | None = None,
) -> Listing:
    """The samples under a folder, and the classes A001, A002, ... or by name.

    Args:
        videos: the folder to search.
        version: 60 or 120; samples of the other are listed in the notes.
        protocol: xsub, xview or xset.
        actions: a file of the actions' names, one a line.
        missing_skeletons: a file of samples to leave out.

    Raises:
        PrepareError: a protocol of the other version, an unusable file, a sample that occurs twice, or none at all.
    """
    if protocol not in _PROTOCOLS[version]:
        raise PrepareError(f"--version {version} has the protocols {' and '.join(_PROTOCOLS[version])}, not {protocol}")
    classes = _read_actions(actions, version) if actions else [f"A{number:03d}" for number in range(1, version + 1)]
    left_out = _read_samples(missing_skeletons) if missing_skeletons else frozenset()

    def describe(path: str) -> Listed | str:
        sample = path.rpartition("/")[2].removesuffix("_rgb")
        match = _SAMPLE.fullmatch(sample)
        if not match:
            return "names_not_understood"
        setup, camera, subject, _, action = numbers = [int(text) for text in match.groups()]
        limits = (_SETUPS[version], 3, _SUBJECTS[version], 2, version)
        if any(not 1 <= number <= limit for number, limit in zip(numbers, limits, strict=True)):
            return f"not_of_version_{version}"
        if sample in left_out:
            return "left_out_for_missing_skeletons"
        trains = is_training(version, protocol, setup=setup, camera=camera, subject=subject)
        return Listed(sample, classes[action - 1], ("train",) if trains else ("val", "test"))

    return list_by_name(videos, classes, "S001C002P003R002A013_rgb.avi", describe)


def is_training(version: int, protocol: str, *, setup: int, camera: int, subject: int) -> bool:
    """Whether a protocol has a sample of this setup, camera and performer in its training set."""
    if protocol == "xsub":
        return subject in TRAINING_SUBJECTS[version]
    return camera in (2, 3) if protocol == "xview" else setup % 2 == 0


def _read_actions(file: Path, version: int) -> Sequence[str]:
    """The first 60 or all 120 names of a file, without ``A1.`` in front of them and a full stop behind."""
    lines = read_lines(file)
    if len(lines) not in (version, 120):
        raise PrepareError(f"{file}: {len(lines)} actions; expected {version}, one a line")
    names: list[str] = []
    for count, (number, line) in enumerate(lines[:version], 1):
        name = re.sub(rf"^A0*{count}\.\s*", "", line).rstrip(". ").replace("/", "-")
        if name in names:
            raise PrepareError(f"{file}:{number}: the action {name!r} is listed twice")
        names.append(plain_name(name, f"{file}:{number}"))
    return names


def _read_samples(file: Path) -> frozenset[str]:
    """The samples of a file in the official lists' format: lines of text, then one sample a line."""
    samples: set[str] = set()
    for number, line in read_lines(file):
        if _SAMPLE.fullmatch(line):
            samples.add(line)
        elif samples:
            raise PrepareError(f"{file}:{number}: expected a sample like S001C002P005R002A008, got {line!r}")
    if not samples:
        raise PrepareError(f"{file} lists no sample like S001C002P005R002A008; is it the right --missing-skeletons?")
    return frozenset(samples)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = make_parser("Prepare NTU RGB+D 60 or 120.", prog)
    add_only_present_classes(parser)
    parser.add_argument("--version", type=int, choices=(60, 120), default=60, help="how many actions (default 60)")
    parser.add_argument("--protocol", choices=("xsub", "xview", "xset"), default="xsub", help="default xsub")
    parser.add_argument("--annotations", type=Path, help="file of the actions' names, one a line")
    parser.add_argument("--missing-skeletons", type=Path, help="official list of samples to leave out")
    args = parser.parse_args(arguments)
    run_listed(
        parser,
        args,
        lambda: plan(
            args.videos,
            version=args.version,
            protocol=args.protocol,
            actions=args.annotations,
            missing_skeletons=args.missing_skeletons,
        ),
    )
