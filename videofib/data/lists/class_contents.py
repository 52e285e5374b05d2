"""Which entries of a class's folder are videos: files, pictures, or folders of frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from videofib.data.errors import ManifestError
from videofib.data.lists.classes_file import is_leftover
from videofib.data.lists.extensions import may_be_picture, may_be_video


def videos_of_classes(root: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """The videos of each class, as sorted names in its folder; all of one kind.

    Where any class has a video file, videos are those files alone, and pictures beside them are taken for thumbnails.
    Else each picture is a video of one frame, or each folder with pictures in it is a video whose frames they are.

    Raises:
        ManifestError: there are both pictures and folders of frames.
    """
    contents = {name: sorted((root / name).iterdir()) for name in names}
    videos = {
        n: [path.name for path in paths if may_be_video(path) and path.is_file()] for n, paths in contents.items()
    }
    if any(videos.values()):
        return videos
    pictures = {
        n: [path.name for path in paths if may_be_picture(path) and path.is_file()] for n, paths in contents.items()
    }
    folders = {n: [path.name for path in paths if _is_frame_folder(path)] for n, paths in contents.items()}
    picture = next((f"{n}/{found[0]}" for n, found in pictures.items() if found), None)
    folder = next((f"{n}/{found[0]}" for n, found in folders.items() if found), None)
    if picture and folder:
        raise ManifestError(
            f"{root} has pictures in the folders of classes, such as {picture}, beside folders of frames, such as "
            f"{folder}; the videos of a split are all of one kind: move one kind away, or write a list"
        )
    return pictures if picture else folders


def _is_frame_folder(path: Path) -> bool:
    return path.is_dir() and not is_leftover(path.name) and any(may_be_picture(entry) for entry in path.iterdir())
