"""A folder of classes -> checked, resized, seekable videos and list files.

    python data_prep/folder.py --videos ROOT --out data/own --val-fraction 0.2

ROOT is either ROOT/<class>/*.mp4 (any video extension, also in folders below), of which a fraction can be held out, or
already divided: ROOT/train/<class>/*, ROOT/val/<class>/*, ROOT/test/<class>/* (also training, valid, validation, dev,
testing, in any letter case). Where there is only one of val and test it serves as both. Folders without videos are not
classes: they are reported.
Clips of one person, location or recording belong on one side: group them with --group-regex, for example

    --group-regex '^([a-z]+)_' --val-groups moshe,shahar      hold out the videos of these two people
    --group-regex '_g(\\d+)_' --val-fraction 0.2               hold out entire groups, about a fifth of the videos
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from videofib.data.lists.classes_file import SPLIT_WORDS, SPLITS, class_folders, is_leftover
from videofib.data.lists.extensions import may_be_video
from videofib.parser import Parser
from videofib.prep.command import make_parser, run
from videofib.prep.find import find_videos
from videofib.prep.items import Item, PrepareError


def read_root(
    root: Path,
    *,
    val_fraction: float = 0.0,
    group_regex: str = "",
    val_groups: Sequence[str] = (),
    seed: int = 0,
    wanted: Callable[[Path], bool] = may_be_video,
) -> tuple[list[Item], list[str], dict[str, list[str]]]:
    """Items, classes in alphabetical order, and notes: ``ignored`` lists what is not a video of a class.

    ``wanted`` says, by their names, which files are videos; other commands look for pictures.

    Raises:
        PrepareError: no videos in class folders, folders of which some look like splits and others like classes, or
            options that do not apply to the folder.
    """
    found = {name: _contents(root / name, wanted) for name in class_folders(root)}
    parts = _parts(root, found)
    holds_out = val_fraction > 0 or bool(val_groups)
    if parts and holds_out:
        raise PrepareError(
            f"{root} is already divided ({', '.join(parts.values())}): --val-fraction and --val-groups do not apply"
        )
    others = [entry for entry in root.iterdir() if is_leftover(entry.name) or not entry.is_dir()]
    shared = {"val", "test"} - set(parts) != set()
    classed = []  # (splits, name of the class, its videos)
    for split, part in parts.items() or [("train", "")]:
        splits = ("val", "test") if parts and split != "train" and shared else (split,)
        for name in class_folders(root / part):
            videos, rest = _contents(root / part / name, wanted) if part else found[name]
            classed.append((splits, name, videos))
            others += rest
        if part:
            others += [entry for entry in (root / part).iterdir() if is_leftover(entry.name) or not entry.is_dir()]
    others += [root / name for name in found if parts and name not in parts.values()]
    classes = sorted({name for _, name, videos in classed if videos})
    if not classes:
        raise PrepareError(f"{root} has no videos in folders of classes, {root}/<class>/<video>: {_inventory(root)}")
    if not parts:
        _refuse_other_layouts(root, {name: videos for _, name, videos in classed if videos})
    number = {name: label for label, name in enumerate(classes)}
    items = [
        Item(str(video.relative_to(root)), number[name], splits, video)
        for splits, name, videos in classed
        for video in videos
    ]
    if holds_out:
        chosen = held_out(items, val_fraction, group_regex, val_groups, seed)
        items = [replace(item, splits=("val", "test")) if item.name in chosen else item for item in items]
    notes = {
        "ignored": sorted(str(path.relative_to(root)) for path in others),
        "empty_classes": sorted({name for _, name, videos in classed if not videos and name not in number}),
    }
    return items, classes, notes


def _contents(folder: Path, wanted: Callable[[Path], bool]) -> tuple[list[Path], list[Path]]:
    """The videos below a folder, and everything else there."""
    others: list[Path] = []
    return find_videos(folder, others, wanted), others


def _parts(root: Path, found: dict[str, tuple[list[Path], list[Path]]]) -> dict[str, str]:
    """The folder of each split, such as {"train": "Training"}; none where root is not divided.

    A class may be called train, too (bus, car, train): its videos lie directly in it, not in folders of classes.

    Raises:
        PrepareError: root may be divided or not, or two folders are of one split.
    """
    used = [name for name, (videos, _) in found.items() if videos]
    named = [name for name in used if name.lower() in SPLIT_WORDS]
    divided = [name for name in named if any(video.parent != root / name for video in found[name][0])]
    if named == used and named != divided:
        flat = ", ".join(name for name in named if name not in divided)
        raise PrepareError(f"{root} has videos directly in {flat}; expected {root}/<split>/<class>/<video>")
    if divided and divided != used:
        rest = ", ".join(name for name in used if name not in divided)
        raise PrepareError(
            f"{root} has {', '.join(divided)}, as if it were divided, beside {rest}, with videos, too; "
            f"move the splits into a folder of their own, or rename them (splits: {', '.join(SPLIT_WORDS)})"
        )
    parts: dict[str, str] = {}
    for name in divided:
        split = SPLIT_WORDS[name.lower()]
        if split in parts:
            raise PrepareError(f"{root} has {parts[split]} and {name}, both the {split} split; join or remove one")
        parts[split] = name
    return {split: parts[split] for split in SPLITS if split in parts}


def _refuse_other_layouts(root: Path, videos: dict[str, list[Path]]) -> None:
    """Raise PrepareError where the folders in root are not the classes: these or the splits lie elsewhere."""
    if all(SPLIT_WORDS.keys() & set(re.split(r"[\W\d_]+", name.lower())) for name in videos):  # train_256, val_256
        raise PrepareError(
            f"{root} has no classes, but {', '.join(videos)}, which look like splits; "
            f"rename each to one of {', '.join(SPLIT_WORDS)}"
        )
    for name, paths in videos.items():
        below = sorted({path.relative_to(root).parts[1] for path in paths if path.parent != root / name})
        if splits := [folder for folder in below if folder.lower() in SPLIT_WORDS]:
            raise PrepareError(
                f"{root} has splits below {name} ({', '.join(splits)}); if {name} is a class, "
                f"expected {root}/<split>/<class>/<video>; if it is not, use --videos {root / name}"
            )
        if len(videos) == 1 and all(path.parent != root / name for path in paths):
            raise PrepareError(
                f"{root} has a single class, {name}, with its videos in {len(below)} folders ({', '.join(below[:4])}); "
                f"if these are the classes, use --videos {root / name}"
            )


def _inventory(root: Path) -> str:
    """What is in a folder instead of videos: ``3 folders with 12 .zip files``."""
    others: list[Path] = []
    kinds = Counter(path.suffix.lower() or "other" for path in find_videos(root, others))
    kinds.update(path.suffix.lower() or "other" for path in others if path.is_file())
    files = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4)) or "no"
    return f"found {len(class_folders(root))} folders and {files} files"


def held_out(
    items: Sequence[Item], fraction: float, group_regex: str, val_groups: Sequence[str], seed: int
) -> set[str]:
    """The names of the items to hold out: entire groups, or without groups the same fraction of every class."""
    if not 0 <= fraction < 1:
        raise PrepareError(f"--val-fraction is {fraction}; it must be 0 or above and below 1")
    if val_groups and (fraction or not group_regex):
        raise PrepareError("--val-groups needs --group-regex, and cannot be used with --val-fraction")
    group = _groups(items, group_regex) if group_regex else {item.name: item.name for item in items}
    if val_groups:
        if unknown := sorted(set(val_groups) - set(group.values())):
            raise PrepareError(f"--val-groups {unknown} do not occur; the groups are {sorted(set(group.values()))}")
        return {name for name, found in group.items() if found in val_groups}
    pools = defaultdict(list)
    for item in items:
        pools["all" if group_regex else item.label].append(group[item.name])
    chosen: set[str] = set()
    for members in pools.values():
        sizes = sorted(Counter(members).items())
        random.Random(seed).shuffle(sizes)
        taken = 0
        for name, size in sizes:
            if taken + size / 2 > fraction * len(members):
                break
            chosen.add(name)
            taken += size
    return {name for name, found in group.items() if found in chosen}


def _groups(items: Sequence[Item], group_regex: str) -> dict[str, str]:
    try:
        pattern = re.compile(group_regex)
    except re.error as error:
        raise PrepareError(f"--group-regex {group_regex!r} is not a regular expression: {error}") from error
    groups = {}
    for item in items:
        match = pattern.search(Path(item.name).name)
        if not match:
            raise PrepareError(f"--group-regex {group_regex!r} does not match {item.name}")
        groups[item.name] = match.group(1 if pattern.groups else 0)
    return groups


def add_holding_out(parser: Parser) -> None:
    """The arguments that say what is held out of the training set."""
    parser.add_argument(
        "--val-fraction", type=float, default=0.0, help="fraction of the videos to hold out (default 0)"
    )
    parser.add_argument(
        "--group-regex", default="", help="videos with the same first group of this expression belong together"
    )
    parser.add_argument("--val-groups", default="", help="groups to hold out, separated by commas")
    parser.add_argument("--seed", type=int, default=0, help="of the random choice of what to hold out")


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = make_parser("Prepare a folder of classes.", prog)
    add_holding_out(parser)
    args = parser.parse_args(arguments)
    val_groups = [name for name in args.val_groups.split(",") if name]
    run(
        parser,
        args,
        lambda: read_root(
            args.videos,
            val_fraction=args.val_fraction,
            group_regex=args.group_regex,
            val_groups=val_groups,
            seed=args.seed,
        ),
    )
