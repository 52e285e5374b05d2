"""Reads frames of a video with one reader and saves them: ``python -m videofib.doctor.reading READER VIDEO TARGET``.

The process of ``readers``. Where it fails, the last line on stderr says why.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from videofib.data.video import decord_reader, torchcodec_reader
from videofib.data.video.decode import read_frames
from videofib.data.video.seeking_reader import read_seeking
from videofib.doctor.finding import reason
from videofib.doctor.readers import INDICES, NOT_INSTALLED

# not by read_frames, which reads with PyAV where another cannot
_READ: dict[str, Callable[[str, Sequence[int]], np.ndarray | None]] = {
    "pyav in order": lambda video, indices: read_frames(video, indices, backend="pyav"),
    "pyav seeking": read_seeking,
    "decord in order": decord_reader.read_in_order,
    "decord seeking": lambda video, indices: decord_reader.SeekingReader(video).read(indices),
    "torchcodec": torchcodec_reader.read_seeking,
}


def main(name: str, video: str, target: str) -> None:
    try:
        frames = _READ[name](video, INDICES)
    except ImportError as error:
        print(reason(error), file=sys.stderr)
        sys.exit(NOT_INSTALLED)
    except Exception as error:
        sys.exit(reason(error))
    if frames is None:
        sys.exit("cannot seek in a video that is written for it")
    np.save(Path(target), frames)


if __name__ == "__main__":
    main(*sys.argv[1:])
