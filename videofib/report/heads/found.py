"""What was measured of the heads of a model, as plain values.

L layers (mixers with heads), H heads of each, K labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from videofib.files import to_utf8
from videofib.metrics.intervals import paired_interval
from videofib.report.analysis import sign_test
from videofib.report.heads.fields import Clusters
from videofib.report.heads.specialisation import Compared


@dataclass(frozen=True)
class Removal:
    """What a model loses without some heads, on the same videos.

    Attributes:
        accuracy: without them, in percent.
        change: against the full model, in percentage points; below 0 the heads are useful.
        interval: of the change, 95 %.
        p_value: of McNemar's exact test: as many videos gained as lost.
        log_probability: how much the mean log-probability of the true label changes, in nats.
        recall: of each label, its change in percentage points: (K,); NaN without videos.
    """

    accuracy: float
    change: float
    interval: tuple[float, float]
    p_value: float
    log_probability: float
    recall: np.ndarray


@dataclass(frozen=True)
class LayerFound:
    """A layer: what its heads recognise, and how alike they are.

    Attributes:
        block, axis: where it is; the axis is ``space-time``, ``time`` or ``space``.
        mixer: the name of its class.
        labels: of its heads.
        readout: accuracy of a linear readout of all its heads, in percent, and the penalty that it was fitted with.
        strength: that penalty.
        recall: (H, K) of each head alone; NaN without videos.
        fields: (H, K, K), scaled so that the largest of each is 1.
        clusters: of each head.
        node_clusters: mean number and size of the clusters of a node, and the signal-to-noise ratio of all nodes.
        compared: figures of ``specialisation.FIGURES`` beside those of random groups.
        removed: without each head of this layer alone.
        pairs: (H, H) Jaccard index of the pairs of patches that two heads see; None: these are not fixed.
        maps: (H, H) Jensen-Shannon divergence of attention maps, in bits; None: there are no maps over a support.
        cka: (H, H) linear CKA of outputs.
    """

    block: int
    axis: str
    mixer: str
    labels: Sequence[str]
    readout: float
    strength: float
    recall: np.ndarray
    fields: np.ndarray
    clusters: Sequence[Clusters]
    node_clusters: tuple[float, float, float]
    compared: Mapping[str, Compared]
    removed: Sequence[Removal]
    pairs: np.ndarray | None
    maps: np.ndarray | None
    cka: np.ndarray

    @property
    def title(self) -> str:
        """Such as ``block 2`` or ``block 2, time``."""
        return f"block {self.block}" if self.axis == "space-time" else f"block {self.block}, {self.axis}"


@dataclass(frozen=True)
class Cumulative:
    """Heads removed one after the other.

    Attributes:
        order: the heads (layer, row) from the most useful to the least, as measured on the videos of the readout.
        counts: how many are removed at each step.
        most, least: accuracy in percent at each step, the most useful first and the least useful first.
        random: the same for each of several random orders.
    """

    order: Sequence[tuple[int, int]]
    counts: Sequence[int]
    most: Sequence[float]
    least: Sequence[float]
    random: Sequence[Sequence[float]]


@dataclass(frozen=True)
class HeadsFound:
    """What was measured of a model.

    Attributes:
        model: its name.
        classes: the names of the K labels.
        split: of the videos that figures are of.
        num_fitted, num_videos: of the readouts, and of the figures.
        unreadable: videos that were left out of both.
        pooled_from: ``the class token`` or ``the mean of the patches``.
        accuracy: of the full model on these videos, one view of each, in percent.
        draws, seed: of the random groups.
        without: mixers that have no heads to look at, by the names of their modules.
        layers: in the order in which they are computed.
        everywhere: for each axis, without the same row of all its layers.
        everywhere_labels: what these rows are called.
        cumulative: all heads, one after the other.
    """

    model: str
    classes: Sequence[str]
    split: str
    num_fitted: int
    num_videos: int
    unreadable: int
    pooled_from: str
    accuracy: float
    draws: int
    seed: int
    without: Sequence[str]
    layers: Sequence[LayerFound]
    everywhere: Mapping[str, Sequence[Removal]]
    everywhere_labels: Mapping[str, Sequence[str]]
    cumulative: Cumulative


def removal(full: np.ndarray, ablated: np.ndarray, labels: np.ndarray) -> Removal:
    """Two models' log-probabilities (N, K) of the same videos with labels (N,), the full model's first."""
    right, still = (scores.argmax(axis=1) == labels for scores in (full, ablated))
    lost, gained = int((right & ~still).sum()), int((still & ~right).sum())
    count, num_classes = len(labels), full.shape[1]
    rows = np.arange(count)
    present = np.bincount(labels, minlength=num_classes)
    change = np.bincount(labels, weights=still.astype(float) - right, minlength=num_classes)
    low, high = paired_interval(lost, gained, count)
    return Removal(
        100.0 * float(still.mean()),
        100.0 * (gained - lost) / count,
        (low, high),
        sign_test(lost, gained),
        float((ablated[rows, labels] - full[rows, labels]).mean()),
        np.where(present > 0, 100.0 * change / np.maximum(present, 1), np.nan),
    )


def as_json(found: HeadsFound) -> dict[str, Any]:
    """For ``heads.json``: arrays as lists, what is not finite as null."""
    values = _plain(asdict(found))
    for layer, own in zip(values["layers"], found.layers, strict=True):
        layer["title"] = own.title
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 6) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return to_utf8(value) if isinstance(value, str) else value
