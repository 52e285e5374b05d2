"""Which videos a page may show frames of: those of the run's data set, wherever its files come from.

The paths in ``test_scores.parquet`` may be those of a stranger who sent the run's folder. Followed blindly, they would
make the report ask hosts on the network, and put frames of private videos into a page that is then sent on. So a path
is followed where it lies in a folder that somebody here vouches for. Those are, in this order:

1. all paths, right after a test in the same process, which has just read these files itself;
2. folders and URLs that the caller names (``videofib report --data``);
3. the DATA.PATH_TO_DATA_DIR of the run's config, where it is a local folder that holds the lists of a data set. A
   config may say ``/`` or a home folder, which hold none, or a URL, which is not followed.

Links are resolved first, and what is not a video is not shown, wherever it lies.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from videofib.data.lists.manifest import LISTS, MANIFEST_NAME
from videofib.data.lists.remote import is_remote
from videofib.data.lists.shard_index import has_shards
from videofib.data.source import ByteRange, FrameFolder, Source
from videofib.data.video.frame_folder import frame_names


class NotShownError(ValueError):
    """A video that is not read, since nobody vouches for the folder it lies in; the message says what to do."""


class VideoFolders:
    """The folders whose videos may be read.

    Args:
        named: folders and URLs that the caller vouches for.
        claimed: the data folder by the run's config, if any.
        everything: all paths may be read.
    """

    def __init__(self, named: Sequence[str | Path] = (), claimed: object = None, *, everything: bool = False):
        self._everything = everything
        self._urls = [str(name).rstrip("/") + "/" for name in named if is_remote(name)]
        self._folders = [Path(name) for name in named if not is_remote(name)]
        if isinstance(claimed, str) and claimed and not is_remote(claimed) and _has_lists(Path(claimed)):
            self._folders.append(Path(claimed))

    def check(self, source: Source) -> None:
        """Raise NotShownError for a video that lies elsewhere; OSError or ValueError where its path cannot be one.

        Of a folder of frames all frames are checked; DecodeError where there are none.
        """
        path = source.path if isinstance(source, ByteRange) else str(source)
        if self._everything:
            return
        if isinstance(source, FrameFolder):  # each of its files may be a link that leads elsewhere
            self.check(source.path)
            for name in frame_names(source.path, source.files):
                self.check(f"{source.path}/{name}")
            return
        if is_remote(path):
            if ".." not in path and any(path.startswith(url) for url in self._urls):
                return
            raise NotShownError(f"{path} is behind a URL, which is not followed; --data URL allows what is below it")
        if not any(_lies_in(path, folder) for folder in self._folders):
            raise NotShownError(f"{path} lies outside of the run's data folder; --data FOLDER allows what is below it")


def _lies_in(path: str, folder: Path) -> bool:
    """Whether a file is below a folder, by its name and where its links lead. Others are not even looked at."""
    by_name = Path(os.path.normpath(Path(path).absolute()))
    own = folder.absolute(), folder.resolve()
    return any(by_name.is_relative_to(one) for one in own) and by_name.resolve().is_relative_to(own[1])


def _has_lists(folder: Path) -> bool:
    try:
        lists = any((folder / f"{name}.csv").is_file() for name in LISTS)
        return lists or (folder / MANIFEST_NAME).is_file() or any(has_shards(folder, name) for name in LISTS)
    except (OSError, ValueError):  # a name that no file can have
        return False
