"""Lists of folders of frames as TSN and mmaction write them: ``folder<separator>num_frames<separator>label`` a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from videofib.data.errors import ManifestError
from videofib.data.lists.text_list import TextList
from videofib.data.lists.texts import Texts

MAX_FRAMES = 2**31 - 1


def split_counts(file: Path, listed: TextList, separator: str, *, repeats: bool = False) -> tuple[Texts, np.ndarray]:
    """The folders of a list whose rows were read as path and label, and (N,) int64, the number of frames of each.

    ``repeats``: a folder may be listed several times.

    Raises:
        ManifestError: a row without a number of frames, or with 0, or a folder that is listed twice; names file and
            line.
    """
    folders, counts = [], np.zeros(len(listed.lines), np.int64)
    for row in range(len(counts)):
        text = listed.paths.text(row)
        folder, found, count = text.rpartition(separator)
        is_count = count.isascii() and count.isdecimal() and len(count) < 11 and 0 < int(count) <= MAX_FRAMES
        if not found or not folder.strip() or not is_count:
            expected = f"folder{separator}num_frames{separator}label"
            raise ManifestError(
                f"{file}:{listed.lines[row]}: expected {expected!r} with DATA.FRAME_COUNTS True, got {text[:200]!r} "
                "before the label"
            )
        folders.append(folder.rstrip())
        counts[row] = int(count)
    paths = Texts.of(folders)
    if not repeats and (repeated := paths.first_repeat()):
        row, first = repeated
        raise ManifestError(
            f"{file}:{listed.lines[row]}: {folders[row]!r} is already listed on line {listed.lines[first]}"
        )
    return paths, counts
