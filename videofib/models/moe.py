"""Mixture of experts: many MLPs, of which each token goes through a few that a router chooses.

As in M3ViT (NeurIPS 2022) and Edge-MoE (arXiv 2305.18691), and for one task in V-MoE (arXiv 2106.05974). No expert has
a capacity, so no token is left out.

Axes: b batch, n tokens of a clip, prefix tokens included; S = b·n tokens, C width, F hidden width, E experts, K experts
of a token, d width of a task's vector.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake

from videofib.attention import autocast
from videofib.models.blocks import ACTIVATIONS, BlockSpec, Memory, add_losses
from videofib.models.expert_options import ExpertOptions
from videofib.models.routing import (
    Routes,
    balance_loss,
    expected_load,
    importance,
    load,
    route,
    squared_logits,
    summed_over_processes,
)
from videofib.models.tasks import TASK, ActiveTask, untouched


class StackedLinear(nn.Module):
    """E linear layers as one: weight (E, out, in), bias (E, out)."""

    def __init__(self, num: int, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(num, out_features))
        self.reset_parameters()

    def reset_parameters(self, std: float = 0.02) -> None:
        """Draw weights from a normal distribution, as the model's linear layers; biases are zero."""
        nn.init.trunc_normal_(self.weight, std=std)
        nn.init.zeros_(self.bias)


class Router(nn.Module):
    """Logits of experts, without a bias: (S, C) -> (S, E), in float32 also where tokens have 16 bits.

    Args:
        dim: C, plus d where tokens are joined with the vector of a task.
        num: E.
    """

    def __init__(self, dim: int, num: int):
        super().__init__()
        self.w_gate = nn.Parameter(torch.empty(dim, num))
        self.reset_parameters()

    def reset_parameters(self, std: float = 0.02) -> None:
        """Draw weights from a normal distribution."""
        nn.init.trunc_normal_(self.w_gate, std=std)

    def forward(self, tokens: Tensor, vector: Tensor | None = None) -> Tensor:
        """``vector`` (d,) is joined to every token; its part of the product is the same for all of them."""
        with autocast.disabled(tokens.device.type):
            dtype, dim = torch.promote_types(tokens.dtype, torch.float32), tokens.shape[1]
            weight = self.w_gate.to(dtype)
            logits = tokens.to(dtype) @ weight[:dim]
            return logits if vector is None else logits + vector.to(dtype) @ weight[dim:]


class Experts(nn.Module):
    """E two-layer MLPs.

    Args:
        num, dim, hidden: E, C, F.
        activation: of ``ACTIVATIONS``.
        drop: dropout behind each layer.
    """

    def __init__(self, num: int, dim: int, hidden: int, activation: str = "gelu", drop: float = 0.0):
        super().__init__()
        self.htoh4, self.h4toh = StackedLinear(num, dim, hidden), StackedLinear(num, hidden, dim)
        self.act, self.drop = ACTIVATIONS[activation](), nn.Dropout(drop)

    def forward(self, tokens: Tensor, routes: Routes, among: range) -> Tensor:
        """(S, C) -> (S, C): of each token the sum over its experts, with their weights.

        Args:
            routes: whose experts are all ``among`` these.
        """
        # sizes that depend on values cannot be traced, and without tokens no expert would have a gradient
        if torch.compiler.is_compiling() or not tokens.shape[0]:
            return self.dense(tokens, routes, among)
        return self.sorted(tokens, routes)

    def sorted(self, tokens: Tensor, routes: Routes) -> Tensor:
        """Tokens sorted by expert, each expert on a contiguous part of them, and added up where they came from::

        token, k    0,0 0,1 1,0 1,1 2,0 2,1
        expert       2   0   0   1   2   0       sorted: | 0 0 0 | 1 | 2 2 |
        """
        of_pair = routes.experts.flatten()
        order = of_pair.argsort(stable=True)
        token = order // routes.experts.shape[1]
        parts = tokens[token].split(_counts(of_pair, self.htoh4.weight.shape[0]))
        # unbind, since its backward pass writes each expert's gradient once
        layers = zip(*(values.unbind(0) for values in self._parameters_of_layers()), strict=True)
        outputs = [self.one(part, *layer) for part, layer in zip(parts, layers, strict=True) if part.shape[0]]
        y = torch.cat(outputs)
        y = y * routes.weights.flatten()[order, None].to(y.dtype)
        return torch.zeros_like(tokens, dtype=y.dtype).index_add(0, token, y)

    def one(self, tokens: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        """One expert: (s, C) -> (s, C)."""
        return self.drop(F.linear(self.drop(self.act(F.linear(tokens, w1, b1))), w2, b2))

    def dense(self, tokens: Tensor, routes: Routes, among: range) -> Tensor:
        """The same with all experts ``among`` these computed for all tokens: E / K times the work, in sizes known
        beforehand."""
        weights = routes.weights.new_zeros(tokens.shape[0], len(among))
        weights = weights.scatter(1, routes.experts - among.start, routes.weights)
        w1, b1, w2, b2 = (values[among.start : among.stop] for values in self._parameters_of_layers())
        hidden = self.drop(self.act(torch.einsum("sc,efc->esf", tokens, w1) + b1[:, None]))
        y = self.drop(torch.einsum("esf,ecf->esc", hidden, w2) + b2[:, None])
        return torch.einsum("esc,se->sc", y, weights.to(y.dtype))

    def _parameters_of_layers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.htoh4.weight, self.htoh4.bias, self.h4toh.weight, self.h4toh.bias


class MoeMlp(nn.Module):
    """Experts in place of a block's MLP: ``mlp(x, memory) -> (y, memory)``, see :class:`BlockSpec`.

    In training it adds the losses ``balance`` and ``z`` to the memory (:func:`videofib.models.blocks.add_losses`), of
    its router over the tokens of all processes. The memory's ``TASK`` says which task's router, vector or experts
    choose.

    Args:
        spec: width, activation, dropout; the hidden width of all K experts of a token together is that of the
            block's MLP unless ``options.ratio`` says otherwise.
        options: the experts.
        num_tasks: of the model, 0 where it has none.
    """

    def __init__(self, spec: BlockSpec, options: ExpertOptions, num_tasks: int = 0):
        super().__init__()
        self.num, self.top_k, self.noise, self.routing = options.num, options.top_k, options.noise, options.routing
        self.ranges = options.ranges(num_tasks)
        if options.routing == "multi_gate":
            self.gate: nn.Module = nn.ModuleList(Router(spec.dim, options.num) for _ in range(num_tasks))
        else:
            self.gate = Router(spec.dim + (options.task_dim if options.routing == "task_embedding" else 0), options.num)
        self.experts = Experts(options.num, spec.dim, options.hidden(spec), spec.activation, spec.drop)

    def forward(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """(b, n, C) -> (b, n, C), and the memory, with losses in training."""
        task: ActiveTask = memory.get(TASK, ActiveTask(0))
        tokens, among = rearrange(x, "b n c -> (b n) c"), self.ranges[task.number]
        clean = self.logits(tokens, task)[:, among.start : among.stop]
        noisy = clean
        if self.training and self.noise:
            noisy = clean + torch.randn_like(clean) * (self.noise / self.num)
        routes = route(noisy, self.top_k)
        y = self.experts(tokens, routes._replace(experts=routes.experts + among.start), among)
        if self.training:
            memory = add_losses(memory, self.losses(clean, noisy, routes))
            y = y + untouched(self.idle_parameters(task.number)).to(y.dtype)
        return rearrange(y, "(b n) c -> b n c", n=x.shape[1]), memory

    def logits(self, tokens: Tensor, task: ActiveTask) -> Tensor:
        """(S, C) -> (S, E), of all experts and without noise."""
        router: Any = self.gate[task.number] if isinstance(self.gate, nn.ModuleList) else self.gate
        return router(tokens, task.vector if self.routing == "task_embedding" else None)

    def losses(self, clean: Tensor, noisy: Tensor, routes: Routes) -> dict[str, Tensor]:
        """``balance``, :func:`balance_loss`, and ``z``, the router z-loss, over the tokens of all processes.

        Args:
            clean, noisy: (S, e) logits of the experts from which the task chooses.
            routes: chosen among these.
        """
        num = clean.shape[1]
        if self.training and self.noise and self.top_k < num:
            top = noisy.topk(self.top_k + 1, dim=-1).values
            used = expected_load(clean, noisy, top[:, -2:], self.noise / self.num)
        else:
            used = load(routes, num)
        of_all = torch.stack([squared_logits(clean), clean.new_tensor(float(clean.shape[0]))])
        sums = summed_over_processes(torch.cat([importance(routes, num), used, of_all]))
        return {"balance": balance_loss(sums[:num], sums[num : 2 * num]), "z": sums[-2] / sums[-1]}

    def idle_parameters(self, task: int) -> list[nn.Parameter]:
        """Those that a task does not use."""
        if not isinstance(self.gate, nn.ModuleList):
            return []
        return [
            parameter for index, router in enumerate(self.gate) if index != task for parameter in router.parameters()
        ]


def _counts(of_pair: Tensor, num: int) -> list[int]:
    """How many pairs of token and expert each expert has; waits for the device.

    Tensors without values, on which shapes and costs are computed, are divided evenly: the cost is the same.
    """
    if of_pair.is_meta or is_fake(of_pair):
        each, more = divmod(of_pair.shape[0], num)
        return [each + (index < more) for index in range(num)]
    return torch.bincount(of_pair, minlength=num).tolist()


def with_experts(spec: BlockSpec, options: ExpertOptions | None, index: int, num_tasks: int) -> BlockSpec:
    """What the block of this index has in common with the others, with experts where the options give it some."""
    if options is None or not options.in_block(index):
        return spec
    return replace(spec, make_mlp=partial(MoeMlp, options=options, num_tasks=num_tasks))
