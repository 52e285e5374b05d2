"""Videos that are pictures: one picture, which is a video of one frame, or a folder with a picture for each frame.

Each frame is a file of its own, so no seek can return another one; what can be wrong is which files there are, of which
``frame_folder`` decides, and that they are frames of one video, which their sizes show.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from videofib.data.errors import DecodeError, FrameIndexError
from videofib.data.sampling import limited_size
from videofib.data.source import ALL_PICTURES, ByteRange, FrameFolder, Source
from videofib.data.video.frame_folder import frame_names
from videofib.data.video.memory import empty_frames
from videofib.data.video.pictures import is_picture, read_picture, stored_size
from videofib.data.video.pyav_reader import open_in_order
from videofib.data.video.rgb import ToRGB


class Frames(Protocol):
    """What an open video of any kind offers; see ``pyav_reader.OrderedReader``, whose frames are PyAV's."""

    path: str
    damaged: str

    @property
    def size(self) -> tuple[int, int]: ...
    def frames(self) -> Iterator[Any]: ...
    def to_rgb(self, frame: Any, short_side: int = 0) -> np.ndarray: ...
    def to_size(self, frame: Any, height: int, width: int) -> np.ndarray: ...


class Stills:
    """The frames of a video that is pictures.

    Attributes:
        path: of the picture or the folder, as messages name it.
        files: where each frame is.
        fps: frames a second; 0: unknown.
        codec: the format of the frame read last, such as ``png``; "" before.
        damaged: "", since a frame that cannot be read is an error; see ``pyav_reader.OrderedReader``.
    """

    damaged = ""

    def __init__(self, path: str, files: Sequence[str | Path | ByteRange], fps: float = 0.0):
        self.path, self.files, self.fps, self.codec = path, files, fps, ""
        self._to_rgb = ToRGB()

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Sequence[int], short_side: int, most_bytes: int) -> np.ndarray:
        """Frames (T, H, W, 3) uint8 RGB at ascending indices; arguments are those of ``decode.read_frames``.

        Raises:
            FrameIndexError: an index beyond the last frame.
            DecodeError: a picture that cannot be read, which it names, or of another size than the others; or the
                frames take too much memory.
        """
        if indices[-1] >= len(self):
            raise FrameIndexError(
                f"{self.path}: frame {indices[-1]} was requested, but {len(self)} frames are there", len(self)
            )
        result = None
        for number, index in enumerate(indices):
            image = self.picture(index)
            if result is None:
                first, shown = index, image.shape
                height, width, _ = shown
                size = limited_size(height, width, short_side)
                result = empty_frames(self.path, len(indices), *size, most_bytes)
            if image.shape != shown:
                self._refuse_sizes(first, shown[:2], index, image.shape[:2])
            result[number] = self.to_size(image, *size)
        return result

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) of frame 0, upright."""
        return self.picture(0).shape[:2]

    def frames(self) -> Iterator[np.ndarray]:
        """All frames in order, as ``picture`` gives them."""
        for index in range(len(self)):
            image = self.picture(index)
            if image.shape[:2] != self.size:
                self._refuse_sizes(0, self.size, index, image.shape[:2])
            yield image

    def to_rgb(self, frame: np.ndarray, short_side: int = 0) -> np.ndarray:
        """A frame, scaled down if its shorter side is above ``short_side``; 0: never."""
        height, width, _ = frame.shape
        return self.to_size(frame, *limited_size(height, width, short_side))

    def to_size(self, frame: np.ndarray, height: int, width: int) -> np.ndarray:
        """A frame as (height, width, 3)."""
        return frame if frame.shape[:2] == (height, width) else self._to_rgb.scaled(frame, height, width)

    def picture(self, index: int) -> np.ndarray:
        """Frame ``index`` as (H, W, 3) uint8 RGB, upright, of full size.

        Raises:
            DecodeError: it cannot be read, or it is stored in another size than frame 0.
        """
        image, stored, self.codec = read_picture(self.files[index])
        if index and (size := stored_size(self.files[0])) != stored:
            self._refuse_sizes(0, size, index, stored)
        return image

    def _refuse_sizes(self, first: int, size: tuple[int, ...], other: int, other_size: tuple[int, ...]) -> None:
        (height, width), (other_height, other_width) = size, other_size
        raise DecodeError(
            f"{self.path}: pictures of different sizes: {Path(str(self.files[first])).name} has {width}x{height}, "
            f"{Path(str(self.files[other])).name} {other_width}x{other_height}; the frames of a video have one size"
        )


def stills(source: Source) -> Stills | None:
    """The frames of a source that is a picture or a folder; None for any other, which is a video file.

    A folder that is named by its path alone has the frames of ``ALL_PICTURES``.

    Raises:
        DecodeError: no frames in the folder, fewer than ``FrameFolder.num_frames``, or another fault of
            ``frame_folder.frame_names``.
    """
    if isinstance(source, str | Path):
        source = ALL_PICTURES.of(source)
    if isinstance(source, FrameFolder):
        names = frame_names(source.path, source.files)
        count = source.num_frames or len(names)
        if count > len(names):
            raise DecodeError(f"{source}: the list gives {count} frames, and the folder has {len(names)}")
        paths = [os.path.join(source.path, name) for name in names[:count]]  # noqa: PTH118, see items.stem
        return Stills(source.path, paths, source.files.fps)
    return Stills(str(source), [source]) if is_picture(source) else None


@contextmanager
def open_any(source: Source) -> Iterator[Frames]:
    """Open a video, be it a file or pictures, whose ``frames`` come in order and which ``to_rgb`` converts.

    Raises:
        DecodeError: as of ``stills`` and ``open_in_order``.
    """
    if pictures := stills(source):
        yield pictures
        return
    with open_in_order(source) as reader:
        yield reader
