"""What the model looked at in the mistakes that a report shows: pictures that the test has drawn, as one file.

The test writes them, since a report has no model: ``test_heat.json`` holds for each video its row among the scores and
its id, the indices of the frames, and a JPEG of them side by side with heat over them, in base64.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from videofib.files import replacing, to_utf8
from videofib.report.explanation.explained import METHODS
from videofib.report.explanation.pictures import overlaid, resized, scaled
from videofib.report.markup.html import JPEG_URI
from videofib.report.markup.player import MOST_PIXELS, Strip, joined
from videofib.report.run_files import Unusable, count, list_of, read_object, record_of, word

HEAT_NAME = "test_heat.json"
_SIDE = 128  # pixels, as of the frames of mistakes
_MOST_BYTES = 256 << 20
_MOST_HEIGHT = 1024
_READ = list_of(
    record_of(row=count, id=word, method=word, frames=list_of(count), width=count, height=count, picture=word)
)


@dataclass(frozen=True)
class MistakeHeat:
    """What the model looked at in one video.

    Attributes:
        row: of the video, among those of the scores.
        id: its name.
        method: of ``METHODS``.
        strip: the frames of the view at the centre, with heat over them.
    """

    row: int
    id: str
    method: str
    strip: Strip


def drawn(
    row: int, name: str, method: str, frames: np.ndarray, indices: Sequence[int], heat: np.ndarray
) -> MistakeHeat:
    """Heat (t, h, w) of a method over the frames (T, H, W, 3) uint8 of a view."""
    pictures = overlaid(resized(frames, _SIDE, _SIDE), scaled(heat, from_zero=method == "gradcam"))
    strip = joined([Image.fromarray(picture) for picture in pictures], indices)
    return MistakeHeat(row, name, method, strip)


def write_heat(folder: str | Path, videos: Sequence[MistakeHeat]) -> None:
    """Write the file, in place of that of an earlier test; without videos, remove it."""
    file = Path(folder) / HEAT_NAME
    if not videos:
        file.unlink(missing_ok=True)
        return
    entries = [
        {
            "row": video.row,
            "id": to_utf8(video.id),
            "method": video.method,
            "frames": list(video.strip.indices),
            "width": video.strip.width,
            "height": video.strip.height,
            "picture": video.strip.uri.removeprefix(JPEG_URI),
        }
        for video in videos
    ]
    with replacing(file) as partial:
        partial.write_text(json.dumps({"videos": entries}) + "\n", encoding="utf-8")


def read_heat(folder: str | Path, missing: list[str]) -> dict[int, MistakeHeat]:
    """The videos of a folder's file by their rows, which may come from anyone; {} where there is none.

    Pictures are decoded and encoded again, so that the page holds nothing but pixels. Where the file cannot be used,
    ``missing`` says why.
    """
    try:
        found = read_object(folder, HEAT_NAME, _MOST_BYTES)
        entries = [] if found is None else _READ(found.get("videos"))
        return {entry["row"]: _video(entry) for entry in entries}  # type: ignore[attr-defined]
    except Unusable as error:
        missing.append(f"{HEAT_NAME}: {error}")
        return {}


def _video(entry: dict) -> MistakeHeat:
    frames, width, height, method = entry["frames"], entry["width"] or 0, entry["height"] or 0, entry["method"]
    if method not in METHODS or not frames or None in frames:
        raise Unusable(f"an entry has no frames, or a method other than {', '.join(METHODS)}")
    if not (0 < width * len(frames) <= MOST_PIXELS and 0 < height <= _MOST_HEIGHT):
        raise Unusable("a picture has an impossible size")
    try:
        with Image.open(io.BytesIO(base64.b64decode(entry["picture"], validate=True)), formats=["JPEG"]) as picture:
            if picture.size != (width * len(frames), height):  # before it is decoded
                raise Unusable("a picture has another size than its entry says")
            sheet = picture.convert("RGB")
    except (OSError, binascii.Error, ValueError, SyntaxError) as error:
        if isinstance(error, Unusable):
            raise
        raise Unusable("a picture cannot be decoded") from error
    pictures = [sheet.crop((width * at, 0, width * (at + 1), height)) for at in range(len(frames))]
    return MistakeHeat(entry["row"], entry["id"], method, joined(pictures, frames))
