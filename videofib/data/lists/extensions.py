"""Which files are videos and which are pictures, by their names."""

from __future__ import annotations

from pathlib import Path

VIDEO_EXTENSIONS = (
    *(".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
# A picture is a video of one frame. Animations (.gif, above) are videos of several.
PICTURE_EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def may_be_video(path: Path) -> bool:
    """Whether a file in a folder of a class is taken for a video: by its extension, and not hidden (``._a.mp4``)."""
    return path.suffix.lower() in VIDEO_EXTENSIONS and not path.name.startswith(".")


def may_be_picture(path: Path) -> bool:
    """The same of pictures."""
    return path.suffix.lower() in PICTURE_EXTENSIONS and not path.name.startswith(".")
