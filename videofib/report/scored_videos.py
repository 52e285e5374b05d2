"""The scores of a test as its report needs them. N videos, K classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videofib.data.segment import Segment, named_segment
from videofib.data.source import ByteRange, Source
from videofib.files import is_there
from videofib.metrics.scores import SCORES_NAME, ScoresError, read_scores
from videofib.report.run_files import Unusable, open_file


@dataclass(frozen=True)
class ScoredVideos:
    """The videos of a test with their classes and scores.

    Attributes:
        ids, paths: names and files of the videos (N).
        truth: bool (N, K), the classes of each video.
        scores: float32 (N, K); nan for a video that could not be read.
        class_names: K names, made up (``class 3``) where the scores have none.
        named: the names are the scores' own.
        multi_label: a video may have several classes.
        probabilities: the scores are probabilities, and so may be shown in percent.
        num_crops: spatial crops of each clip.
    """

    ids: Sequence[str]
    paths: Sequence[str]
    truth: np.ndarray
    scores: np.ndarray
    class_names: Sequence[str]
    multi_label: bool
    probabilities: bool
    num_crops: int = 1
    named: bool = True

    @property
    def readable(self) -> np.ndarray:
        """Which videos could be read, bool (N)."""
        return np.isfinite(self.scores).all(axis=1)


def read_scored_videos(folder: str | Path, missing: list[str]) -> ScoredVideos | None:
    """The videos in a folder's file of scores; None where there is none, or it cannot be read: ``missing`` says why.

    None, too, where nobody has said the classes of the videos: there is nothing to compare scores with.

    Averaged logits of videos of one class become probabilities, by softmax.
    """
    try:
        file = open_file(folder, SCORES_NAME)
        if file is None:
            return None
        file.close()
        found = read_scores(Path(folder) / SCORES_NAME)
    except Unusable as error:
        missing.append(f"{SCORES_NAME}: {error}")
        return None
    except ScoresError as error:
        missing.append(str(error))
        return None
    if found.unlabelled:
        return None
    scores, labels = found.scores.numpy(), found.labels.numpy()
    classes = scores.shape[1]
    if found.kind == "logit" and not found.multi_label:
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    return ScoredVideos(
        ids=found.ids,
        paths=found.paths,
        truth=labels > 0 if found.multi_label else labels[:, None] == np.arange(classes),
        scores=scores,
        class_names=found.class_names or [f"class {label}" for label in range(classes)],
        multi_label=found.multi_label,
        probabilities=found.kind != "logit" or not found.multi_label,
        num_crops=found.num_crops,
        named=found.class_names is not None,
    )


def source_of(path: str) -> tuple[Source, Segment | None]:
    """The file, or the part of one, that a path in the scores names, as ``videos.tar[512:9000]``; and the segment."""
    name, segment = named_segment(path)
    return (_bytes_of(path), None) if segment is None or is_there(path) else (_bytes_of(name), segment)


def _bytes_of(path: str) -> Source:
    part = re.fullmatch(r"(.*\.tar)\[(\d{1,18}):(\d{1,18})\]", path, re.DOTALL)
    if part is None:
        return path
    start, end = int(part[2]), int(part[3])
    return ByteRange(part[1], start, end - start)
