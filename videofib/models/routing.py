"""Which experts a token goes to, and what keeps the experts evenly used.

Axes: S tokens of all clips, E experts, K experts of a token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from videofib.attention import ContextGroup

_EPS = 1e-10  # of the squared mean, as published


class Routes(NamedTuple):
    """Where tokens go.

    Attributes:
        weights: (S, K), the largest of the probabilities of all experts, largest first; they sum to less than 1.
        experts: (S, K) int64, whose they are.
    """

    weights: Tensor
    experts: Tensor


def route(logits: Tensor, top_k: int) -> Routes:
    """Top-k routing as M3ViT has it (``noisy_vmoe``): softmax over all experts, then the K largest, not renormalised.

    Args:
        logits: (S, E), with the noise of training.
        top_k: K.
    """
    return Routes(*logits.softmax(dim=-1).topk(top_k, dim=-1))


def importance(routes: Routes, num_experts: int) -> Tensor:
    """(E,): the sum of the weights with which tokens go to each expert (arXiv 1701.06538, equation 6)."""
    weights = routes.weights.flatten()
    return weights.new_zeros(num_experts).index_add(0, routes.experts.flatten(), weights)


def load(routes: Routes, num_experts: int) -> Tensor:
    """(E,) float32: how many tokens go to each expert; has no gradient."""
    tokens = (routes.weights.detach() > 0).float().flatten()
    return tokens.new_zeros(num_experts).index_add(0, routes.experts.flatten(), tokens)


def expected_load(clean: Tensor, noisy: Tensor, thresholds: Tensor, noise_std: float) -> Tensor:
    """(E,): how many tokens would go to each expert if the noise were drawn again (arXiv 1701.06538, equation 9).

    Unlike ``load`` it has a gradient.

    Args:
        clean, noisy: (S, E) logits without and with noise.
        thresholds: (S, 2): of each token the K-th largest noisy logit and the one after it. M3ViT's code takes those of
            the softmax here, which are not on the scale of logits; we take logits.
        noise_std: standard deviation of the noise of a logit.
    """
    last_in, first_out = thresholds[:, :1], thresholds[:, 1:]
    # to stay in, an expert has to beat the first that is out; to come in, the last that is in
    bar = torch.where(noisy > first_out, first_out, last_in)
    return torch.special.ndtr((clean - bar) / noise_std).sum(dim=0)


def squared_variation(values: Tensor) -> Tensor:
    """cv²: the unbiased variance over the squared mean; 0 of a single value, which has no variance."""
    if values.numel() == 1:
        return values.new_zeros(())
    return values.var() / (values.mean() ** 2 + _EPS)


def balance_loss(importance: Tensor, load: Tensor) -> Tensor:
    """cv²(importance) + cv²(load): 0 where all experts are used equally (arXiv 1701.06538, section 4)."""
    return squared_variation(importance) + squared_variation(load)


def squared_logits(logits: Tensor) -> Tensor:
    """The sum over tokens of log² Σ exp(logits): over their number, the router z-loss (arXiv 2202.08906, eq. 5)."""
    return logits.logsumexp(dim=-1).square().sum()


def summed_over_processes(values: Tensor) -> Tensor:
    """The sum over all processes, whose gradient is that of the sum of their losses (:meth:`ContextGroup.sum`).

    A variation of sums is not the mean of the processes' own: experts need to be balanced over a batch, not within the
    part of it, or the slice of its tokens, that one process has.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return values
    return ContextGroup().sum(values)
