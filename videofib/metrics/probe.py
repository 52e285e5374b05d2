"""How well frozen features tell classes apart: by their nearest neighbours, and by a linear classifier.

N videos to learn from, M to test, D features, K classes; labels count from 0 to K - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTHS = (100.0, 10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)  # of the penalty, the strongest first
_FOLDS = 5
_MOST_STEPS = 500
_AT_ONCE = 1 << 25  # similarities


def neighbour_votes(
    train: Tensor, labels: Tensor, test: Tensor, num_classes: int, *, k: int, temperature: float
) -> Tensor:
    """The votes (M, K) of the k nearest of ``train`` (N, D) for each of ``test`` (M, D), as DINO counts them.

    Caron et al., "Emerging properties in self-supervised vision transformers" (arXiv 2104.14294), appendix F.1: a
    neighbour of cosine similarity s gives its class exp(s / temperature). All vote where N < k; of neighbours that are
    equally near, those that come first.
    """
    k = min(k, len(train))
    train, test = F.normalize(train.double(), dim=1), F.normalize(test.double(), dim=1)
    votes = torch.zeros(len(test), num_classes, dtype=torch.float64)
    rows = max(1, _AT_ONCE // len(train))
    for first in range(0, len(test), rows):
        similarity = test[first : first + rows] @ train.T
        least = similarity.topk(k, dim=1).values[:, -1:]
        nearer, equal = similarity > least, similarity == least
        chosen = nearer | (equal & (equal.cumsum(dim=1) <= k - nearer.sum(dim=1, keepdim=True)))
        weights = torch.where(chosen, (similarity / temperature).exp(), 0.0)
        votes[first : first + rows].index_add_(1, labels, weights)
    return votes


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of standardised features.

    Attributes:
        mean, scale: (D,) of the features that it has learned from.
        weight, bias: (K, D) and (K,).
        strength: of its penalty.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    strength: float

    def logits(self, features: Tensor) -> Tensor:
        """(M, D) -> (M, K), float64."""
        return F.linear((features.double() - self.mean) / self.scale, self.weight, self.bias)


def linear_probes(
    train: Tensor, labels: Tensor, num_classes: int, strengths: Sequence[float] = STRENGTHS
) -> list[LinearProbe]:
    """Logistic regression on features (N, D) for each strength s of the penalty: mean cross entropy + s/2 ||weight||².

    By L-BFGS; each starts where the one before it ended, which is near where the strengths fall.
    """
    train = train.double()
    mean, scale = train.mean(dim=0), train.std(dim=0, correction=0)
    scale[scale == 0] = 1.0
    features = (train - mean) / scale
    weight = torch.zeros(num_classes, train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    return [
        LinearProbe(mean, scale, *_fit(features, labels, weight, bias, strength), strength) for strength in strengths
    ]


def linear_probe(train: Tensor, labels: Tensor, num_classes: int) -> LinearProbe:
    """A linear probe, of the strength that is best in cross-validation on the same features (N, D).

    Five folds that share out each class; of strengths that get equally many right, the strongest. A single video, which
    cannot be left out, takes the strongest.
    """
    right = np.zeros(len(STRENGTHS), int)
    fold_of = folds(labels.numpy(), min(_FOLDS, len(labels)))
    for fold in range(_FOLDS if len(labels) > 1 else 0):
        kept, left = torch.from_numpy(fold_of != fold), torch.from_numpy(fold_of == fold)
        if left.any():
            probes = linear_probes(train[kept], labels[kept], num_classes)
            right += [int((first_best(probe.logits(train[left])) == labels[left]).sum()) for probe in probes]
    best = int(right.argmax())  # the first of equals
    return linear_probes(train, labels, num_classes, STRENGTHS[: best + 1])[-1]


def folds(labels: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """A fold for each video, int (N,): folds differ by one video at most, and each class is spread over all of them."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    found = np.empty(len(labels), int)
    found[order] = np.arange(len(labels)) % count
    return found


def first_best(scores: Tensor) -> Tensor:
    """(M, K) -> (M,): the class of the highest score, the first of equals."""
    return torch.from_numpy(scores.numpy().argmax(axis=1))


def _fit(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """The best weight and bias, which are then in these tensors, too."""
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_MOST_STEPS, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(features, weight, bias), labels) + strength / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach().clone(), bias.detach().clone()
