"""A folder of classes -> checked, resized, seekable videos and list files.

    python data_prep/folder.py --videos ROOT --out data/own --val-fraction 0.2

ROOT is either ROOT/<class>/*.mp4 (any video extension), of which a fraction can be held out, or already divided:
ROOT/train/<class>/*, ROOT/val/<class>/*, ROOT/test/<class>/*. Where there is only one of val and test it serves as
both. Clips of one person, location or recording belong on one side: group them with --group-regex, for example

    --group-regex '^([a-z]+)_' --val-groups moshe,shahar      hold out the videos of these two people
    --group-regex '_g(\\d+)_' --val-fraction 0.2               hold out entire groups, about a fifth of the videos
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from videofib.data.lists.classes_file import class_folders
from videofib.data.lists.manifest import SPLITS, may_be_video
from videofib.prep.command import make_parser, run
from videofib.prep.prepare import Item, PrepareError


def read_root(
    root: Path,
    *,
    val_fraction: float = 0.0,
    group_regex: str = "",
    val_groups: Sequence[str] = (),
    seed: int = 0,
) -> tuple[list[Item], list[str], dict[str, list[str]]]:
    """Items, classes in alphabetical order, and notes: ``ignored`` lists what is not a video of a class.

    Raises:
        PrepareError: no class folders, or options that do not apply to the folder.
    """
    parts = {split: root / split for split in SPLITS if (root / split).is_dir()}
    holds_out = val_fraction > 0 or bool(val_groups)
    if parts and holds_out:
        raise PrepareError(
            f"{root} is already divided ({', '.join(parts)}): --val-fraction and --val-groups do not apply"
        )
    classes = sorted({name for part in parts.values() or [root] for name in class_folders(part)})
    if not classes:
        raise PrepareError(f"{root} has no folders of classes; expected {root}/<class>/<video>")
    used = parts or classes
    ignored = [
        entry.name
        for entry in sorted(root.iterdir())
        if not entry.is_dir() or not (entry.name in used or entry.name.startswith("."))
    ]
    if not parts:
        items = _items(root, root, ("train",), classes, ignored)
        if holds_out:
            held_out = _held_out(items, val_fraction, group_regex, val_groups, seed)
            items = [replace(item, splits=("val", "test")) if item.name in held_out else item for item in items]
    else:
        shared = {"val", "test"} - set(parts) != set()
        items = []
        for split, folder in parts.items():
            splits = ("val", "test") if split != "train" and shared else (split,)
            items += _items(folder, root, splits, classes, ignored)
    return items, classes, {"ignored": ignored}


def _items(folder: Path, root: Path, splits: tuple[str, ...], classes: Sequence[str], ignored: list[str]) -> list[Item]:
    items = []
    for class_name in class_folders(folder):
        for entry in sorted((folder / class_name).iterdir()):
            name = str(entry.relative_to(root))
            if may_be_video(entry):
                items.append(Item(name, classes.index(class_name), splits, entry))
            else:
                ignored.append(name)
    return items


def _held_out(
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


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = make_parser("Prepare a folder of classes.", prog)
    parser.add_argument(
        "--val-fraction", type=float, default=0.0, help="fraction of the videos to hold out (default 0)"
    )
    parser.add_argument(
        "--group-regex", default="", help="videos with the same first group of this expression belong together"
    )
    parser.add_argument("--val-groups", default="", help="groups to hold out, separated by commas")
    parser.add_argument("--seed", type=int, default=0, help="of the random choice of what to hold out")
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
