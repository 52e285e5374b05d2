"""The scores of a test as the report needs them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from videofib.data.source import ByteRange, Source
from videofib.metrics.scores import SCORES_NAME, ScoresError, read_scores
from videofib.report.analyse import Judged


def read_judged(folder: str | Path, missing: list[str]) -> Judged | None:
    """What a folder's file of scores says, or None; why it cannot be read is added to ``missing``.

    Averaged logits of videos of one class are told as probabilities, by softmax.
    """
    file = Path(folder) / SCORES_NAME
    if not file.is_file():
        return None
    try:
        found = read_scores(file)
    except ScoresError as error:
        missing.append(str(error))
        return None
    scores, labels = found.scores.numpy(), found.labels.numpy()
    classes = scores.shape[1]
    if found.kind == "logit" and not found.multi_label:
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    return Judged(
        ids=found.ids,
        paths=found.paths,
        truth=labels > 0 if found.multi_label else labels[:, None] == np.arange(classes),
        scores=scores,
        class_names=found.class_names or [f"class {label}" for label in range(classes)],
        several=found.multi_label,
        probabilities=found.kind != "logit" or not found.multi_label,
    )


def source_of(path: str) -> Source:
    """The file, or the part of one, that a path in the scores names: ``videos.tar[512:9000]``."""
    part = re.fullmatch(r"(.*)\[(\d+):(\d+)\]", path, re.DOTALL)
    if part is None or Path(path).exists():
        return path
    start, end = int(part[2]), int(part[3])
    return ByteRange(part[1], start, end - start)
