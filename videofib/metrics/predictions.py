"""What a model predicts for every video of a split, for a spreadsheet: ``OUTPUT_DIR/test_predictions.csv``.

One row a video, in the split's order, in UTF-8::

    video          the file that was read
    label          true class; several with spaces between them; empty where nobody has said
    class          their names, where they have names, with " | " between them
    predicted_1    the most probable class: its name, or its number where classes have no names
    probability_1  of it, from 0 to 1
    ...            as many pairs as there are classes, five at most
    error          why the video could not be read, and nothing was predicted

``test_scores.parquet`` has the scores of all classes. Where that holds logits, these are probabilities of them.
N videos, K classes.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from videofib.files import replacing, spreadsheet_text, to_utf8
from videofib.metrics.scores import Scores
from videofib.printable import printable

PREDICTIONS_NAME = "test_predictions.csv"
_MOST = 5  # classes predicted for each video
_BETWEEN = " | "  # names of classes


def write_predictions(file: str | Path, scores: Scores) -> None:
    """Write the most probable classes of every video as a csv file, complete or not at all."""
    count = min(_MOST, scores.scores.shape[1])
    values, classes = _probabilities(scores).topk(count, dim=1)
    pairs = [name for rank in range(1, count + 1) for name in (f"predicted_{rank}", f"probability_{rank}")]
    with replacing(file) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["video", "label", "class", *pairs, "error"])
        for row, (video, path) in enumerate(zip(scores.ids, scores.paths, strict=True)):
            labels = _labels(scores, row)
            true = [" ".join(map(str, labels)), _BETWEEN.join(_named(scores.class_names, label) for label in labels)]
            cells = [spreadsheet_text(to_utf8(path)), true[0], true[1] if scores.class_names else ""]
            error = scores.failures.get(video)
            for value, label in zip(values[row].tolist(), classes[row].tolist(), strict=True):
                cells += ["", ""] if error else [_named(scores.class_names, label), f"{value:.6g}"]
            writer.writerow([*cells, spreadsheet_text(printable(error or ""))])


def _probabilities(scores: Scores) -> Tensor:
    """(N, K): the scores; where these are logits, the probabilities of them."""
    if scores.kind != "logit":
        return scores.scores
    return scores.scores.sigmoid() if scores.multi_label else scores.scores.softmax(dim=1)


def _labels(scores: Scores, row: int) -> list[int]:
    if scores.multi_label:
        return scores.labels[row].nonzero().flatten().tolist()
    return [label for label in [int(scores.labels[row])] if label >= 0]


def _named(names: Sequence[str] | None, label: int) -> str:
    return spreadsheet_text(to_utf8(names[label])) if names else str(label)
