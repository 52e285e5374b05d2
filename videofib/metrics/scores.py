"""A model's scores of every video of a split, and the Parquet file that holds them: ``OUTPUT_DIR/test_scores.parquet``.

One row a video, in the split's order::

    video_id      string          unique
    path          string          the file that was read
    label         int32           true class; where a video may have several, ``labels``: list<int32>; where nobody has
                                  said the classes of the videos, -1 or an empty list in all rows
    scores        list<float32>   K video scores; null where the video could not be read
    view_correct  float32         fraction of its views that are right; null where it has several labels
    failure       string          why it could not be read, else null

The file's metadata has, under ``videofib``, JSON with num_views, num_temporal_views, num_spatial_crops, num_classes,
class_names (or null), scores (softmax | logit | sigmoid), ensemble (sum | max), view_starts (spread | published |
mixed), precision (fp32 | bf16 | fp16 | mixed), version, and sha256: the digest of all that (``_digest``). Parquet has
checksums of its pages, none of its footer, which says where and of what type they are: so only the digest shows that a
bit of it has flipped. Names that are not UTF-8 are written as by ``videofib.files.to_utf8``. N videos, K classes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import videofib
from videofib.files import from_utf8, replacing, to_utf8
from videofib.metrics.table import KEY, UNLABELLED, TableError, read_table

SCORES_NAME = "test_scores.parquet"
KINDS = ("softmax", "logit", "sigmoid")
PRECISIONS = ("fp32", "bf16", "fp16", "mixed")
# A small hostile file may announce more than memory holds.
_MOST_VALUES = 2**31 - 1
_MOST_CLASSES = 1_000_000
_MOST_VIEWS = 1_000_000
_ROUNDING = 1e-4  # by which a mean of probabilities may exceed 1


class ScoresError(ValueError):
    """A file of scores that cannot be used; the message names the file and why."""


@dataclass
class Scores:
    """A model's scores of every video of a split, in the split's order.

    Attributes:
        ids: names of the videos (N).
        paths: the files that were read (N).
        labels: true classes, int64 (N,); multi-hot, float32 (N, K), where a video may have several; -1 or all 0 where
            nobody has said the classes of the videos.
        scores: video scores, float32 (N, K); nan for a video that could not be read.
        view_correct: fraction of a video's views that are right, float32 (N,); nan where it may have several classes.
        failures: video id -> why it could not be read.
        num_views: V.
        num_crops: spatial crops of a clip, of which V is a multiple.
        kind: what the scores are: ``softmax``, ``logit`` or ``sigmoid``.
        ensemble: how views became a video's score: ``sum`` or ``max``.
        class_names: K names, or None.
        view_starts: where temporal views start: ``spread`` or ``published`` (see ``data.sampling``); ``mixed`` in a
            mean of runs of both.
        precision: in which the model computed: ``fp32``, ``bf16`` or ``fp16``; ``mixed`` in a mean of runs of several.
        hits: whether the true class is the best, and among the best five, by each of the P view subsets of
            ``accuracy.view_subsets``: bool (N, P, 2); None where that was not counted. Files do not hold these.
        losses: the loss of each video, float32 (N,), of no meaning where it could not be read; None where that was not
            asked for. Files do not hold these.
    """

    ids: list[str]
    paths: list[str]
    labels: Tensor
    scores: Tensor
    view_correct: Tensor
    failures: dict[str, str]
    num_views: int
    num_crops: int = 1
    kind: str = "softmax"
    ensemble: str = "sum"
    class_names: Sequence[str] | None = None
    view_starts: str = "spread"
    precision: str = "fp32"
    hits: Tensor | None = None
    losses: Tensor | None = None

    @property
    def multi_label(self) -> bool:
        """Whether a video may have several classes."""
        return self.labels.ndim == 2

    @property
    def unlabelled(self) -> bool:
        """Whether nobody has said the classes of the videos."""
        return not bool((self.labels > 0 if self.multi_label else self.labels >= 0).any())

    def videos_sha256(self) -> str:
        """A digest of the names of the videos and their classes, in whichever order these are listed."""
        classes = (
            [row.nonzero().flatten().tolist() for row in self.labels] if self.multi_label else self.labels.tolist()
        )
        digest = hashlib.sha256()
        for line in sorted(f"{name!r} {label}\n" for name, label in zip(self.ids, classes, strict=True)):
            digest.update(line.encode())  # repr leaves no lone surrogates
        return digest.hexdigest()


def write_scores(file: str | Path, scores: Scores) -> None:
    """Write a file of scores, complete or not at all; the same scores (and version of pyarrow) give the same bytes."""
    import pyarrow

    failures = [scores.failures.get(name) for name in scores.ids]
    readable = np.array([failure is None for failure in failures], dtype=bool)
    known = readable & scores.view_correct.isfinite().numpy()
    columns = {
        "video_id": pyarrow.array(map(to_utf8, scores.ids), pyarrow.string()),
        "path": pyarrow.array(map(to_utf8, scores.paths), pyarrow.string()),
        **_label_column(scores),
        "scores": _list_column(scores.scores.numpy(), readable),
        "view_correct": pyarrow.array(scores.view_correct.numpy(), pyarrow.float32(), mask=~known),
        "failure": pyarrow.array([failure and _printable(failure) for failure in failures], pyarrow.string()),
    }
    about = {
        "num_views": scores.num_views,
        "num_temporal_views": scores.num_views // scores.num_crops,
        "num_spatial_crops": scores.num_crops,
        "num_classes": scores.scores.shape[1],
        "class_names": None if scores.class_names is None else list(scores.class_names),
        "scores": scores.kind,
        "ensemble": scores.ensemble,
        "view_starts": scores.view_starts,
        "precision": scores.precision,
        "version": videofib.__version__,
        "sha256": _digest(scores),
    }
    _write_table(file, columns, about)


def read_scores(file: str | Path) -> Scores:
    """What ``write_scores`` wrote.

    Raises:
        ScoresError: there is no such file, or it is damaged or not a file of scores.
    """
    try:
        table, about = read_table(file, "file of scores", "test again to rewrite it")
    except TableError as error:
        raise ScoresError(str(error)) from error
    try:
        found = _scores(table, about)
        if "sha256" in about and about["sha256"] != _digest(found):  # files of earlier versions lack it
            raise ScoresError(f"{file} is damaged: its contents are not those that were written; test again")
        return found
    except ScoresError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ScoresError(f"{file} is not a file of scores: it {reason}; test again to rewrite it") from error


def _write_table(file: str | Path, columns: Mapping, about: Mapping) -> None:
    """Write pyarrow columns by name and, as the metadata ``videofib``, JSON; complete or not at all."""
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table(dict(columns)).replace_schema_metadata({KEY: json.dumps(about)})
    with replacing(file) as partial, partial.open("wb") as stream:  # pyarrow opens no name that is not UTF-8
        parquet.write_table(table, stream, compression="zstd", write_page_checksum=True)


def _list_column(values: np.ndarray, present: np.ndarray):
    """Values (N, K) as a pyarrow column of lists; null where ``present`` (N,) is False."""
    import pyarrow

    ends = np.cumsum(present * values.shape[1], dtype=np.int32)
    offsets = pyarrow.array(np.concatenate([np.zeros(1, np.int32), ends]))
    return pyarrow.ListArray.from_arrays(offsets, values[present].reshape(-1), mask=pyarrow.array(~present))


def _values_of_lists(column, width: int, fill: float) -> np.ndarray:
    """The values (N, K) of a column of lists of ``width``; ``fill`` where it is null.

    Raises:
        ValueError: a list has another length, or values that are not numbers.
    """
    present = ~np.array(column.is_null())
    if len(column) * width > _MOST_VALUES:
        raise ValueError(f"claims to have {len(column)} rows of {width} values")
    if wrong := set(column.drop_null().value_lengths().to_pylist()) - {width}:
        raise ValueError(f"has rows of {sorted(wrong)[0]} values, where {width} are expected")
    flat = column.flatten().to_numpy(zero_copy_only=False)
    values = np.full((len(column), width), fill, flat.dtype)
    values[present] = flat.reshape(-1, width)
    return values


def _digest(scores: Scores) -> str:
    """The SHA-256 of all that a file holds, as ``read_scores`` returns it: null is nan; little-endian."""
    about = {
        "ids": [*map(to_utf8, scores.ids)],
        "paths": [*map(to_utf8, scores.paths)],
        "failures": {to_utf8(name): _printable(reason) for name, reason in scores.failures.items()},
        "class_names": None if scores.class_names is None else list(scores.class_names),
        "about": [scores.num_views, scores.num_crops, scores.kind, scores.ensemble, scores.view_starts],
        # files of earlier versions, all of them of full precision, do not have it
        **({} if scores.precision == "fp32" else {"precision": scores.precision}),
        "shapes": [list(scores.labels.shape), list(scores.scores.shape)],
    }
    failed = np.array([name in scores.failures for name in scores.ids], dtype=bool)
    view_correct = scores.view_correct.numpy().astype("<f4")
    view_correct = np.where(failed | ~np.isfinite(view_correct), np.float32("nan"), view_correct)
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    digest.update((scores.labels > 0 if scores.multi_label else scores.labels).numpy().astype("<i4").tobytes())
    digest.update(np.where(failed[:, None], np.float32("nan"), scores.scores.numpy()).astype("<f4").tobytes())
    digest.update(view_correct.astype("<f4").tobytes())
    return digest.hexdigest()


def _printable(reason: str) -> str:
    return reason.encode("utf-8", "backslashreplace").decode()


def _label_column(scores: Scores) -> dict:
    import pyarrow

    if scores.multi_label:
        several = [row.nonzero().flatten().tolist() for row in scores.labels]
        return {"labels": pyarrow.array(several, pyarrow.list_(pyarrow.int32()))}
    return {"label": pyarrow.array(scores.labels.numpy(), pyarrow.int32())}


def _scores(table, about: Mapping) -> Scores:
    """The scores in a table; KeyError, TypeError or ValueError where something is missing or of another type."""
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    width = about["num_classes"]
    _check(columns, about)
    ids, paths = ([*map(from_utf8, columns[name].to_pylist())] for name in ("video_id", "path"))
    values = _values_of_lists(columns["scores"], width, np.nan)
    _check_values(values[~np.array(columns["scores"].is_null())], columns["view_correct"], about["scores"])
    if "labels" in columns:
        labels = torch.zeros(len(ids), width)
        for row, classes in zip(labels, columns["labels"].to_pylist(), strict=True):
            row[classes] = 1.0
    else:
        labels = torch.tensor(columns["label"].to_pylist(), dtype=torch.int64)
    reasons = columns["failure"].to_pylist()
    return Scores(
        ids=ids,
        paths=paths,
        labels=labels,
        scores=torch.from_numpy(values),
        view_correct=torch.from_numpy(columns["view_correct"].to_numpy(zero_copy_only=False).astype(np.float32)),
        failures={name: reason for name, reason in zip(ids, reasons, strict=True) if reason is not None},
        num_views=about["num_views"],
        num_crops=about["num_spatial_crops"],
        kind=about["scores"],
        ensemble=about["ensemble"],
        class_names=about["class_names"],
        view_starts=str(about.get("view_starts", "spread")),  # files of earlier versions lack it
        precision=about.get("precision", "fp32"),  # likewise
    )


def _check(columns: Mapping, about: Mapping) -> None:
    import pyarrow

    width, names, kind = about["num_classes"], about["class_names"], about["scores"]
    if not (type(width) is int and 0 < width <= _MOST_CLASSES):
        raise ValueError(f"has num_classes {repr(width)[:20]}")
    for name in ("num_views", "num_spatial_crops"):
        if not (type(about[name]) is int and 0 < about[name] <= _MOST_VIEWS):
            raise ValueError(f"has {name} {repr(about[name])[:20]}")
    if about["ensemble"] not in ("sum", "max"):
        raise ValueError(f"has an ensemble {repr(about['ensemble'])[:20]}; expected sum or max")
    if (precision := about.get("precision", "fp32")) not in PRECISIONS:
        raise ValueError(f"has a precision {repr(precision)[:20]}; expected one of {', '.join(PRECISIONS)}")
    if kind not in KINDS:
        raise ValueError(f"has scores of kind {repr(kind)[:20]}; expected one of {', '.join(KINDS)}")
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if names is not None and not (is_list and len(set(names)) == len(names) == width):
        raise ValueError(f"does not name {width} classes")
    several = pyarrow.list_(pyarrow.int32())
    label = {"labels": several} if "labels" in columns else {"label": pyarrow.int32()}
    kinds = {"video_id": pyarrow.string(), "path": pyarrow.string(), **label}
    kinds |= {
        "scores": pyarrow.list_(pyarrow.float32()),
        "view_correct": pyarrow.float32(),
        "failure": pyarrow.string(),
    }
    for name, expected in kinds.items():
        if (found := columns[name].type) != expected:
            raise ValueError(f"has a column {name} of {found}, expected {expected}")
    for name in ("video_id", "path", *label):
        if columns[name].null_count:
            raise ValueError(f"has an empty (null) {name}")
    classes = columns["labels"].flatten() if "labels" in columns else columns["label"]
    values = classes.to_numpy(zero_copy_only=False)
    known = "labels" in columns or (values != UNLABELLED).any()
    if len(values) and known and not (values.min() >= 0 and values.max() < width):
        raise ValueError(f"has labels from {values.min()} to {values.max()} for {width} classes")
    if len(set(columns["video_id"].to_pylist())) != len(columns["video_id"]):
        raise ValueError("lists a video twice")
    if not np.array_equal(np.array(columns["scores"].is_null()), ~np.array(columns["failure"].is_null())):
        raise ValueError("has videos with neither scores nor a failure, or with both")


def _check_values(scores: np.ndarray, view_correct, kind: str) -> None:
    """Refuse scores of readable videos (N, K) that no test writes: it ends with an error where they are not finite."""
    if not np.isfinite(scores).all():
        raise ValueError("has scores that are not finite")
    if kind != "logit" and scores.size and not (scores.min() >= -_ROUNDING and scores.max() <= 1 + _ROUNDING):
        raise ValueError(f"has {kind} scores from {scores.min():g} to {scores.max():g}, expected 0 to 1")
    fractions = view_correct.drop_null().to_numpy(zero_copy_only=False)
    if len(fractions) and not (fractions.min() >= 0 and fractions.max() <= 1 + _ROUNDING):
        raise ValueError(f"has view_correct from {fractions.min():g} to {fractions.max():g}, expected 0 to 1")
