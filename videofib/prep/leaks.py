"""``videofib prep leaks DIR``: finds recordings and pictures that are in both training and test.

There are two criteria, between train and what is held out (val, test), for each official split separately:

- **names**: clips of one recording, according to the names of UCF101 (v_Lunges_g01_c02: group 1 of Lunges) and HMDB51
  (<recording>_<class>_<tags>_<n>). No other names are interpreted. Whether it is within a class matters: HMDB51's
  splits have clips of one film on both sides, but never of one class. Segments of one film are clips of it, too.
- **pictures**: middle frames whose difference hashes (see dhash.py) differ in few bits. This finds copies and clips of
  one scene. It also finds recordings by a camera at a fixed position, which need not be a leak, and it misses clips of
  one recording whose middle frames look different. Frames of one colour are left out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np

from videofib.data.lists.manifest import LISTS, ManifestRow
from videofib.data.segment import named_segment
from videofib.prep.defaults import HASH_BITS, NEAR
from videofib.prep.dhash import to_signs
from videofib.prep.items import stem

_MAX_NAMED = 1000  # pairs that are named; all are counted
_BLOCK = 2**22  # distances at once: 16 MiB
_UCF = re.compile(r"(v_.+_g[0-9]+)_c[0-9]+")
_HMDB = re.compile(r"(.+)_[fhlu]_[cn]m_np[0-9]_(?:ba|fr|le|ri)_(?:bad|goo|med)_[0-9]+")


def find_leaks(rows: Sequence[ManifestRow], *, near: int = NEAR) -> dict:
    """Possible leaks between train and the held-out lists of a manifest.

    Args:
        rows: of a manifest.
        near: bits in which the hashes of two middle frames may differ.

    Returns:
        Entries of report.json: ``leaks_by_name`` and ``leaks_by_picture``, at most a thousand lines each, the nearest
        first; ``leaks``: the number of both, and the threshold.
    """
    by_name, by_picture, pairs = [], [], 0
    for prefix in dict.fromkeys(name.rpartition("/")[0] for name in LISTS):
        start = f"{prefix}/" if prefix else ""
        train, held_out = _sides(rows, start)
        by_name += [f"{start}{line}" for line in _shared_recordings(train, held_out)]
        found = [row for row in train if row.dhash], [row for row in held_out if row.dhash]
        hashes = [[row.dhash for row in side] for side in found]
        count, named = near_pairs(hashes[0], hashes[1], near, _MAX_NAMED)
        pairs += count
        by_picture += [
            f"{start}train {found[0][i].path} ~ {found[1][j].split} {found[1][j].path}: {distance} bits of {HASH_BITS}"
            for i, j, distance in named
        ]
    counts = {"recordings_on_both_sides": len(by_name), "near_pairs": pairs, "near_is_at_most_bits": near}
    return {"leaks": counts, "leaks_by_name": by_name[:_MAX_NAMED], "leaks_by_picture": by_picture[:_MAX_NAMED]}


def near_pairs(train: list[str], held_out: list[str], near: int, most: int) -> tuple[int, list[tuple[int, int, int]]]:
    """Pairs of hashes that differ in at most ``near`` bits, found by matrix products instead of a loop over pairs.

    Returns:
        The number of pairs, and of the nearest ``most`` (index in train, index in held_out, distance).
    """
    if not train or not held_out:
        return 0, []
    train_signs, signs = to_signs(train), to_signs(held_out)
    step, total = max(1, _BLOCK // len(train)), 0
    nearest = np.empty((0, 3), np.int64)  # rows of (distance, in train, in held_out)
    for first in range(0, len(held_out), step):
        products = signs[first : first + step] @ train_signs.T  # exact: integers up to 64
        j, i = np.nonzero(products >= HASH_BITS - 2 * near)
        total += len(i)
        if len(i):
            distance = (HASH_BITS - products[j, i].astype(np.int64)) // 2
            nearest = np.concatenate([nearest, np.column_stack([distance, i, j + first])])
            nearest = nearest[np.argsort(nearest[:, 0], kind="stable")[:most]]
    return total, [(int(i), int(j), int(distance)) for distance, i, j in nearest]


def recording(row: ManifestRow) -> str | None:
    """The recording that a clip of UCF101 or HMDB51, by its name, or a segment was cut from; None for others."""
    film, segment = named_segment(row.source)
    name = stem(film)
    if match := _UCF.fullmatch(name):
        return match[1]
    if match := _HMDB.fullmatch(name):
        return match[1].removesuffix(f"_{PurePosixPath(row.path).parent.name}")
    return film if segment else None


def _sides(rows: Sequence[ManifestRow], start: str) -> tuple[list[ManifestRow], list[ManifestRow]]:
    """(training videos, held-out videos) of those that could be read."""
    splits = {row.split for row in rows}
    train = {split for split in splits if f"{start}train" in split.split("+")}
    held_out = {split for split in splits if {f"{start}val", f"{start}test"} & {*split.split("+")}}
    readable = [row for row in rows if row.size]
    return [row for row in readable if row.split in train], [row for row in readable if row.split in held_out]


def _shared_recordings(train: Sequence[ManifestRow], held_out: Sequence[ManifestRow]) -> Iterator[str]:
    clips: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    films = {name for row in (*train, *held_out) if (name := recording(row))}
    for side, rows in enumerate((train, held_out)):
        for row in rows:
            name = recording(row) or (row.source if row.source in films else None)  # a film of which others are parts
            if name is not None:
                clips[name][side].append(row.path)
    for name, (seen, unseen) in sorted(clips.items()):
        if seen and unseen:
            shared = {PurePosixPath(path).parent for path in seen} & {PurePosixPath(path).parent for path in unseen}
            yield (
                f"{name} ({'within a class' if shared else 'in different classes'}): "
                f"{len(seen)} for training, as {seen[0]}; {len(unseen)} held out, as {unseen[0]}"
            )
