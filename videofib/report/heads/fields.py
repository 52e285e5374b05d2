"""Field matrices of heads and nodes, and the clusters of labels in them.

A readout with weights w gives label m the field Σ_c w[m, c] · a[c]. Of a group of nodes g, F_g[m, l] is the mean over
the inputs of label l of Σ_{c in g} w[m, c] · a[c]; with the means μ of each label it is w[:, g] @ μ[g, :], exactly.
After "Multi-head attention modus vivendi" (Koresh and others, arXiv 2501.12900) and the papers it builds on. Only their
abstracts could be read; what they leave open was chosen here: scaling by the largest entry, the threshold, the greedy
search.

N videos, C nodes, K labels, G groups of D nodes each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

THRESHOLD = 0.5  # of the largest field of a matrix


def class_means(values: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The mean of the nodes (N, C) over the videos of each label: (C, K); 0 where a label has none."""
    sums = np.zeros((num_classes, values.shape[1]))
    np.add.at(sums, labels, values)
    return (sums / np.maximum(np.bincount(labels, minlength=num_classes), 1)[:, None]).T


def fields(weight: np.ndarray, means: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The field matrix of each group: weights (K, C), means (C, K), groups (G, D) of indices of nodes -> (G, K, K)."""
    return np.einsum("kgd,gdl->gkl", weight[:, groups], means[groups])


def strong(matrices: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """Where a field is above ``threshold`` of the largest one of its matrix: bool (..., K, K).

    Negative fields stay negative: a matrix without a positive field has no strong one.
    """
    return matrices > threshold * matrices.max(axis=(-2, -1), keepdims=True)


@dataclass(frozen=True)
class Clusters:
    """The clusters of labels of one field matrix.

    Attributes:
        members: the labels of each cluster, the largest first; one label alone is a cluster, too.
        signal: strong fields within the blocks of the clusters.
        noise: strong fields elsewhere.
    """

    members: list[list[int]]
    signal: int
    noise: int

    @property
    def labels(self) -> list[int]:
        """The labels that lie in a cluster, in the order of their clusters."""
        return [label for cluster in self.members for label in cluster]


def clusters(entries: np.ndarray) -> Clusters:
    """The clusters of Boolean fields (K, K): sets of labels whose blocks are full, none in two of them.

    Greedy: from the label with the most partners on, labels join while the block stays full. The signal-to-noise ratio
    is that of ``signal`` to ``noise``.
    """
    mutual = entries & entries.T
    own = np.diag(entries)
    mutual = mutual & own[:, None] & own[None, :]
    order = [int(label) for label in np.argsort(-mutual.sum(axis=1), kind="stable") if own[label]]
    left, members = list(order), []
    while left:
        cluster = [left[0]]
        for label in left[1:]:
            if mutual[label, cluster].all():
                cluster.append(label)
        left = [label for label in left if label not in cluster]
        members.append(sorted(cluster))
    members.sort(key=lambda cluster: (-len(cluster), cluster))
    signal = sum(len(cluster) ** 2 for cluster in members)
    return Clusters(members, signal, int(entries.sum()) - signal)
