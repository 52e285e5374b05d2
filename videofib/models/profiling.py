"""What a model costs: parameters, multiply-adds and activations, counted by fvcore and by torch."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from videofib.attention import Support, op, pattern_op
from videofib.models.wrappers import unwrapped

DENSE = "aten::scaled_dot_product_attention"


@dataclass(frozen=True)
class Cost:
    """The cost of one clip.

    Attributes:
        parameters: the number of trainable parameters.
        multiply_adds: a multiplication and an addition count once; papers call these FLOPs.
        activations: output elements of convolutions, matrix products and attention, its logits included.
        by_operator: the multiply-adds of each kind of operator.
        uncounted: operators that fvcore does not count, mostly elementwise ones, and how often each was called.
    """

    parameters: int
    multiply_adds: int
    activations: int
    by_operator: dict[str, int]
    uncounted: dict[str, int]


def cost(model: nn.Module, clip_shape: tuple[int, int, int, int]) -> Cost:
    """The model's cost for one clip of shape (C, T, H, W), in evaluation mode; fvcore traces two forward passes."""
    device = next(model.parameters()).device
    model = copy.deepcopy(unwrapped(model)).eval()
    inputs = torch.zeros(1, *clip_shape, device=device)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns about every shape that the model reads, the import about itself
        from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

        flops = FlopCountAnalysis(model, inputs)
        flops.set_op_handle(
            **{
                "aten::matmul": _product_flops,
                DENSE: _dense_flops,
                op.NAME: op.fvcore_flops,
                pattern_op.NAME: pattern_op.fvcore_flops,
            }
        )
        activations = ActivationCountAnalysis(model, inputs)
        activations.set_op_handle(
            **{DENSE: _dense_activations, op.NAME: _sparse_activations, pattern_op.NAME: _pattern_activations}
        )
        for analysis in (flops, activations):
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        return Cost(
            parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
            multiply_adds=int(flops.total()),
            activations=int(activations.total()),
            by_operator={name: int(count) for name, count in flops.by_operator().items()},
            uncounted=dict(flops.unsupported_ops()),
        )


def forward_multiply_adds(model: nn.Module, clip_shape: tuple[int, int, int, int]) -> int:
    """Multiply-adds of matrix products, convolutions and attention for one clip (C, T, H, W).

    torch counts them on fake tensors, so that nothing is computed and a large model takes no longer. ``cost`` counts
    norms and pooling, too.
    """
    model = unwrapped(model)
    was_training = model.training
    model.eval()
    fake_tensors = FakeTensorMode(allow_non_fake_inputs=True)
    as_products = sdpa_kernel(SDPBackend.MATH)  # torch's counter does not count the CPU's fused attention
    with fake_tensors, as_products, FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *clip_shape, device=next(model.parameters()).device))
    model.train(was_training)
    return counter.get_total_flops() // 2


def _shape(value: Any) -> list[int]:
    """Of a tensor in a traced graph."""
    return value.type().sizes()


def _product_flops(inputs: list, outputs: list) -> int:
    """Of a matrix product; fvcore leaves out the axes along which its first factor is repeated."""
    return _output_size(outputs) * _shape(inputs[0])[-1]


def _dense_pairs(inputs: list) -> int:
    """Pairs of query and key of dense attention, in all heads."""
    return math.prod(_shape(inputs[0])[:-1]) * _shape(inputs[1])[-2]


def _dense_flops(inputs: list, outputs: list) -> int:
    return 2 * _dense_pairs(inputs) * _shape(inputs[0])[-1]  # q · k, weights · v


def _output_size(outputs: list) -> int:
    return math.prod(_shape(outputs[0]))


def _dense_activations(inputs: list, outputs: list) -> int:
    return _dense_pairs(inputs) + _output_size(outputs)


def _sparse_activations(inputs: list, outputs: list) -> int:
    support = Support.from_code(inputs[3].toIValue())
    return _shape(inputs[0])[0] * support.num_pairs() + _output_size(outputs)


def _pattern_activations(inputs: list, outputs: list) -> int:
    return _shape(inputs[0])[0] * pattern_op.pairs_of(inputs) + _output_size(outputs)
