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
_AT_ONCE = 1 << 22  # similarities
_ROWS = 4096  # features of which are in memory in float64
_HISTORY = 20  # steps from which L-BFGS estimates the curvature
_LEAST_SPREAD = 1e-4
_LIMITS = {torch.float32: (1e-6, 1e-7), torch.float64: (1e-8, 1e-12)}  # of gradient and change, to stop at


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
        nearest, which = similarity.topk(k, dim=1)
        block = votes[first : first + rows]
        block.scatter_add_(1, labels[which], (nearest / temperature).exp())
        least = nearest[:, -1:]
        tied = (similarity == least).sum(dim=1) > (nearest == least).sum(dim=1)  # topk takes any of equals
        if tied.any():
            block[tied] = _votes_of_first(similarity[tied], labels, k, temperature, num_classes)
    return votes


def _votes_of_first(similarity: Tensor, labels: Tensor, k: int, temperature: float, num_classes: int) -> Tensor:
    """Votes (M, K) for similarities (M, N) of which several equal the k-th: the first of these vote."""
    least = similarity.topk(k, dim=1).values[:, -1:]
    nearer, equal = similarity > least, similarity == least
    chosen = nearer | (equal & (equal.cumsum(dim=1) <= k - nearer.sum(dim=1, keepdim=True)))
    weights = torch.where(chosen, (similarity / temperature).exp(), 0.0)
    return weights.new_zeros(len(similarity), num_classes).index_add_(1, labels, weights)


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
    train: Tensor, labels: Tensor, num_classes: int, strengths: Sequence[float] = STRENGTHS, *, exact: bool = True
) -> list[LinearProbe]:
    """Logistic regression on features (N, D) for each strength s of the penalty: mean cross entropy + s/2 ||weight||².

    By L-BFGS in float32, along the principal axes of the features; each starts where the one before it ended, which is
    near where the strengths fall.

    Args:
        exact: go on in float64 to the optimum. Without it loss and accuracies are the same to about 0.1 %.
    """
    mean, scale = _moments(train)
    problem = _Problem.of(train, labels, mean, scale, num_classes)
    solution = torch.zeros(num_classes, train.shape[1] + 1, dtype=torch.float64)
    found = []
    for strength in strengths:
        solution = problem.solve(solution, strength, torch.float32)
        if exact:
            solution = problem.solve(solution, strength, torch.float64)
        weight, bias = solution[:, :-1] @ problem.axes.T, solution[:, -1].clone()
        found.append(LinearProbe(mean, scale, weight, bias, strength))
    return found


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
            probes = linear_probes(train[kept], labels[kept], num_classes, exact=False)
            right += [int((first_best(probe.logits(train[left])) == labels[left]).sum()) for probe in probes]
    best = int(right.argmax())  # the first of equals
    return linear_probes(train, labels, num_classes, [STRENGTHS[best]])[0]


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


def _moments(train: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation (D,) of features (N, D), float64; 1 where all are the same."""
    mean = torch.stack([rows.double().sum(dim=0) for rows in train.split(_ROWS)]).sum(dim=0) / len(train)
    squares = torch.stack([(rows.double() - mean).square().sum(dim=0) for rows in train.split(_ROWS)]).sum(dim=0)
    scale = (squares / len(train)).sqrt()
    scale[(train == train[:1]).all(dim=0)] = 1.0
    scale[scale == 0] = 1.0
    return mean, scale


@dataclass(frozen=True)
class _Problem:
    """A logistic regression of standardised features, turned onto their principal axes.

    The curvature of its loss along axis i is near c·variance_i + s, where c is the mean of p·(1 - p) over videos and
    classes. In units of the square root of that, all directions are about equally curved, and L-BFGS takes tens of
    steps where it took hundreds. Solutions are (K, D + 1): weights along the axes, and the bias.

    Attributes:
        features: (N, D) along the axes, float32.
        labels: (N,).
        axes, variances: (D, D), one a column, and (D,).
    """

    features: Tensor
    labels: Tensor
    axes: Tensor
    variances: Tensor

    @classmethod
    def of(cls, train: Tensor, labels: Tensor, mean: Tensor, scale: Tensor, num_classes: int) -> _Problem:
        features = torch.empty(train.shape, dtype=torch.float32)
        moment = torch.zeros(train.shape[1], train.shape[1], dtype=torch.float64)
        for rows, out in zip(train.split(_ROWS), features.split(_ROWS), strict=True):
            out.copy_((rows.double() - mean) / scale)
            moment += out.T @ out
        variances, axes = torch.linalg.eigh(moment / len(train))
        for rows in features.split(_ROWS):
            rows.copy_(rows.double() @ axes)
        return cls(features, labels, axes, variances.clamp(min=0.0))

    def solve(self, start: Tensor, strength: float, dtype: torch.dtype) -> Tensor:
        """The solution for a strength, from ``start``; in float32 to where its rounding errors show."""
        spread = self._spread(start)
        curvatures = torch.cat((spread * self.variances + strength, torch.tensor([spread]).double()))
        units = curvatures.rsqrt()
        scaled = (start / units).to(dtype).requires_grad_()
        units_there = units.to(dtype)
        gradient_limit, change_limit = _LIMITS[dtype]
        optimizer = torch.optim.LBFGS(
            [scaled],
            max_iter=_MOST_STEPS,
            tolerance_grad=gradient_limit,
            tolerance_change=change_limit,
            history_size=_HISTORY,
            line_search_fn="strong_wolfe",
        )

        @torch.no_grad()
        def loss() -> float:
            value, gradient = self._loss(scaled * units_there, strength)
            scaled.grad = gradient * units_there
            return value

        optimizer.step(loss)
        return scaled.detach().double() * units

    def _loss(self, solution: Tensor, strength: float) -> tuple[float, Tensor]:
        """Mean cross entropy plus penalty, and its gradient (K, D + 1), both in the solution's precision."""
        weight, gradient, count = solution[:, :-1], torch.zeros_like(solution), len(self.labels)
        total = solution.new_zeros((), dtype=torch.float64)
        for rows, labels in zip(self.features.split(_ROWS), self.labels.split(_ROWS), strict=True):
            rows = rows.to(solution.dtype)
            logits = F.log_softmax(F.linear(rows, weight, solution[:, -1]), dim=1)
            total -= logits.gather(1, labels[:, None]).sum(dtype=torch.float64)
            slope = logits.exp_()
            slope[torch.arange(len(labels)), labels] -= 1.0
            gradient[:, :-1] += slope.T @ rows
            gradient[:, -1] += slope.sum(dim=0)
        gradient /= count
        gradient[:, :-1] += strength * weight
        return float(total / count + strength / 2 * weight.double().square().sum()), gradient

    def _spread(self, solution: Tensor) -> float:
        """The mean of p·(1 - p) over the first videos and all classes."""
        rows = self.features[:_ROWS].double()
        chance = F.softmax(F.linear(rows, solution[:, :-1], solution[:, -1]), dim=1)
        return max(float((chance * (1 - chance)).mean()), _LEAST_SPREAD)
