"""Cropping videos to the persons in them, as papers on Smarthome and NTU do: ``--person-crops boxes.json``.

The file is one JSON object. A key is a video: its file name with or without extension or, where several videos have
that name, its name in the data set's lists (class/name.mp4). A value is a box, or a list of boxes each with its frame:

    {
      "Cook.Cut_p02_r00_v02_c03": [212, 35, 508, 470],
      "S001C002P003R002A013_rgb.avi": [[0, 410.5, 120, 640, 700], [15, 400, 118, 655.2, 705]]
    }

[x0, y0, x1, y1] are pixels of the original video, upright, x1 and y1 exclusive; a frame number in front of them counts
from 0. Where pixels are not square these are the stored ones, since ffmpeg, OpenCV and decord give a detector such
frames. All frames are cropped to the smallest box around all boxes of the video, so that the camera does not seem to
move; the crop is clamped to the frame and grown by a pixel where its width or height is odd, then made square and
scaled as usual.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from videofib.prep.annotations import read_json
from videofib.prep.items import Item, PrepareError

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels


def cut_to_persons(items: Sequence[Item], file: Path) -> tuple[list[Item], dict[str, list[str]]]:
    """The items with their boxes, and notes: videos ``without_person_crop`` and ``person_crops_of_no_video``.

    Raises:
        PrepareError: an unusable file, an invalid box, or a key that matches several videos; names file and key.
    """
    boxes = read_boxes(file)
    by_key: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        for key in {item.name, Path(item.name).name, Path(item.name).stem}:
            by_key[key].append(index)
    found: dict[int, Box] = {}
    for key, box in boxes.items():
        owners = by_key.get(key, [])
        if len(owners) > 1:
            names = " and ".join(items[index].name for index in owners[:2])
            raise PrepareError(f"{file}: {key!r} matches {names}; use one of these as the key")
        if owners and owners[0] in found:
            raise PrepareError(f"{file}: {key!r} is {items[owners[0]].name}, which has a box already; remove one")
        found |= dict.fromkeys(owners, box)
    notes = {
        "without_person_crop": [item.name for index, item in enumerate(items) if item.source and index not in found],
        "person_crops_of_no_video": [key for key in boxes if key not in by_key],
    }
    return [replace(item, crop=found.get(index)) for index, item in enumerate(items)], notes


def read_boxes(file: Path) -> dict[str, Box]:
    """The smallest box around all boxes of each video.

    Raises:
        PrepareError: a file in another format, or an invalid box; names file, video and box.
    """
    entries = read_json(file)
    if not isinstance(entries, dict):
        raise PrepareError(f'{file}: expected an object of videos and boxes, {{"name": [x0, y0, x1, y1]}}')
    boxes = {}
    for name, value in entries.items():
        if not isinstance(value, list) or not value:
            raise PrepareError(f"{file}: {name!r}: expected a box or a list of boxes, got {str(value)[:100]}")
        if isinstance(value[0], list):
            each = [_box(entry, 5, f"{file}: {name!r}: box {number}") for number, entry in enumerate(value, 1)]
        else:
            each = [_box(value, 4, f"{file}: {name!r}")]
        left, top, right, bottom = zip(*each, strict=True)
        boxes[name] = (min(left), min(top), max(right), max(bottom))
    return boxes


def _box(entry: object, length: int, where: str) -> Box:
    form = ["frame", "x0", "y0", "x1", "y1"][-length:]
    if not isinstance(entry, list) or len(entry) != length or not all(type(n) in (int, float) for n in entry):
        raise PrepareError(f"{where}: expected [{', '.join(form)}], got {str(entry)[:100]}")
    if length == 5 and (entry[0] != entry[0] // 1 or entry[0] < 0):
        raise PrepareError(f"{where}: frame {entry[0]} is not a frame number (0, 1, 2, ...)")
    x0, y0, x1, y1 = entry[-4:]
    if not (-1e6 < x0 < x1 < 1e6 and -1e6 < y0 < y1 < 1e6):  # refuses nan, too
        raise PrepareError(f"{where}: [{x0}, {y0}, {x1}, {y1}] is not a box: x0 must be below x1, y0 below y1")
    return float(x0), float(y0), float(x1), float(y1)
