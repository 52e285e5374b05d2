"""What annotations list to be prepared; without the imports of preparing it, so that a command's --help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

REPORT_NAME = "report.json"


class PrepareError(ValueError):
    """A data set that cannot be prepared as it is; the message names the file or video, and what to do."""


@dataclass(frozen=True)
class Item:
    """One video that an annotation file or a folder lists.

    Attributes:
        name: as it is listed; reports use it, and its last part names the output.
        label: class index.
        splits: the list files that will contain it, of ``manifest.LISTS``; a test set is often also the validation set.
        source: the file, or None where there is none.
        crop: the box to cut it to, (x0, y0, x1, y1) in pixels of the source, upright; see ``transcode``.
    """

    name: str
    label: int
    splits: tuple[str, ...]
    source: Path | None
    crop: tuple[float, float, float, float] | None = None


def check_name(name: str) -> None:
    """Raise PrepareError unless a listed name is a relative path that stays below its folder."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\0" in name or parts[-1] in ("", "."):
        raise PrepareError(f"the listed video {name!r} is refused: it would lead out of the folder")
