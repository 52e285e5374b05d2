"""Whether heads are more specialised than any groups of nodes would be: figures, and their values by chance.

The null keeps the nodes and the readout, and splits the C nodes into H groups of D at random. What it cannot tell
apart: nodes of a head share an attention map, so heads may differ from random groups without being experts for labels.

N videos, C nodes, K labels, H heads of D nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from videofib.report.heads.fields import class_means, fields, strong

FIGURES = {  # of a split of the nodes into groups -> what it is
    "alone": "accuracy of a head alone, mean, %",
    "margin": "recall of the best head for a label above the mean head, points",
    "entropy": "entropy of recall over heads, 1: all heads alike",
    "label_overlap": "Jaccard index of two heads' label sets",
    "cka": "linear CKA of two heads' outputs",
}


@dataclass(frozen=True)
class Readout:
    """A linear readout of nodes, on videos that it was not fitted on.

    Attributes:
        values: (N, C) of the nodes, standardised by the videos that the readout was fitted on.
        centred: (N, C) of the nodes as they are, less their mean over these N videos.
        labels: (N,).
        weight: (K, C) of the standardised nodes.
        bias: (K,).
    """

    values: np.ndarray
    centred: np.ndarray
    labels: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    @property
    def num_classes(self) -> int:
        return len(self.weight)

    def means(self) -> np.ndarray:
        """The mean of the nodes over each label: (C, K)."""
        return class_means(self.values, self.labels, self.num_classes)


def accuracy(readout: Readout) -> float:
    """Of all nodes together, in percent."""
    logits = readout.values @ readout.weight.T + readout.bias
    return 100.0 * float((logits.argmax(axis=1) == readout.labels).mean())


def recalls(readout: Readout, groups: np.ndarray) -> np.ndarray:
    """The share of each label's videos that a group of nodes alone recognises among all K: (H, K); NaN without videos.

    The other nodes are held at their training mean, where they have no field; the bias is left out, as from fields.
    """
    present = np.bincount(readout.labels, minlength=readout.num_classes)
    found = np.empty((len(groups), readout.num_classes))
    for row, group in zip(found, groups, strict=True):
        predicted = (readout.values[:, group] @ readout.weight[:, group].T).argmax(axis=1)
        right = np.bincount(readout.labels[predicted == readout.labels], minlength=readout.num_classes)
        row[:] = np.where(present > 0, right / np.maximum(present, 1), np.nan)
    return found


def label_sets(readout: Readout, groups: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The labels in each group's clusters, those with a strong field of their own: bool (H, K)."""
    return strong(fields(readout.weight, means, groups)).diagonal(axis1=1, axis2=2)


def pairwise_jaccard(sets: np.ndarray) -> np.ndarray:
    """Labels in both / labels in either, of bool (H, K): (H, H); 0 for two empty sets."""
    numbers = sets.astype(float)
    both = numbers @ numbers.T
    own = sets.sum(axis=1)
    either = own[:, None] + own[None, :] - both
    return both / np.maximum(either, 1)


def pairwise_cka(centred: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Linear CKA of each two groups' nodes: (H, H) from 0 to 1 (Kornblith and others, arXiv 1905.00414, equation 3)."""
    return _cka((centred.T @ centred) ** 2, groups)


def off_diagonal_mean(matrix: np.ndarray) -> float:
    """The mean over pairs of different heads; NaN of one head."""
    size = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (size * (size - 1))) if size > 1 else float("nan")


def specialisation(readout: Readout, groups: np.ndarray) -> dict[str, float]:
    """The value of each of ``FIGURES``."""
    return _figures(readout, groups, readout.means(), (readout.centred.T @ readout.centred) ** 2)


def null_draws(readout: Readout, num_heads: int, draws: int, seed: int) -> dict[str, np.ndarray]:
    """The values of each of ``FIGURES`` for random splits of the nodes into equal groups: (draws,)."""
    generator = np.random.default_rng(seed)
    means, squares = readout.means(), (readout.centred.T @ readout.centred) ** 2
    found = []
    for _ in range(draws):
        groups = generator.permutation(readout.values.shape[1]).reshape(num_heads, -1)
        found.append(_figures(readout, groups, means, squares))
    return {name: np.array([figures[name] for figures in found]) for name in FIGURES}


@dataclass(frozen=True)
class Compared:
    """A figure of the heads beside its values for random groups.

    Attributes:
        value: of the heads.
        mean, low, high: of the draws: their mean, and the range of the middle 95 %.
        p_value: two-sided: how probable a value so far out is for random groups.
    """

    value: float
    mean: float
    low: float
    high: float
    p_value: float


def compared(values: Mapping[str, float], draws: Mapping[str, np.ndarray]) -> dict[str, Compared]:
    """Each figure beside its draws; NaN, as of one head, has no p-value other than 1."""
    found = {}
    for name, value in values.items():
        drawn = draws[name]
        tail = min((drawn >= value).sum(), (drawn <= value).sum()) if np.isfinite(value) else len(drawn)
        low, high = np.quantile(drawn, [0.025, 0.975])
        p_value = min(1.0, 2 * (1 + int(tail)) / (1 + len(drawn)))
        found[name] = Compared(value, float(drawn.mean()), float(low), float(high), p_value)
    return found


def _figures(readout: Readout, groups: np.ndarray, means: np.ndarray, squares: np.ndarray) -> dict[str, float]:
    recall = recalls(readout, groups)
    present = np.isfinite(recall[0])
    recall, counts = recall[:, present], np.bincount(readout.labels, minlength=readout.num_classes)[present]
    return {
        "alone": 100 * float((recall @ counts).mean() / counts.sum()),
        "margin": 100 * float((recall.max(axis=0) - recall.mean(axis=0)).mean()),
        "entropy": _entropy(recall),
        "label_overlap": off_diagonal_mean(pairwise_jaccard(label_sets(readout, groups, means)[:, present])),
        "cka": off_diagonal_mean(_cka(squares, groups)),
    }


def _entropy(recall: np.ndarray) -> float:
    """Of each label's recall over heads (H, K), as a share of log H; the mean over labels that some head recognises."""
    known = recall[:, recall.sum(axis=0) > 0]
    if len(recall) < 2 or not known.size:
        return float("nan")
    shares = known / known.sum(axis=0)
    logs = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    return float(-(shares * logs).sum(axis=0).mean() / np.log(len(recall)))


def _cka(squares: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """From the squared products of all nodes (C, C): what two groups have in common is a sum over its blocks."""
    member = np.zeros((squares.shape[0], len(groups)))
    for index, group in enumerate(groups):
        member[group, index] = 1
    sums = member.T @ squares @ member
    own = np.sqrt(sums.diagonal())
    return sums / np.maximum(own[:, None] * own[None, :], np.finfo(float).tiny)
