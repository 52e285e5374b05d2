"""Which files are videos, by their names."""

from __future__ import annotations

from pathlib import Path

VIDEO_EXTENSIONS = (
    *(".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)


def may_be_video(path: Path) -> bool:
    """Whether a file in a folder of a class is taken for a video: by its extension, and not hidden (``._a.mp4``)."""
    return path.suffix.lower() in VIDEO_EXTENSIONS and not path.name.startswith(".")
