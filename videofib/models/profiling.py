"""What a model costs: parameters, multiply-adds and activations, by fvcore."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass

import torch
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from videofib.attention import Support, op

DENSE = "aten::scaled_dot_product_attention"


@dataclass(frozen=True)
class Cost:
    """Of one clip.

    Attributes:
        parameters: numbers that training changes.
        multiply_adds: a multiplication and an addition counted once, as papers do who speak of FLOPs.
        activations: numbers that convolutions, matrix products and attention put out, logits included.
        by_operator: the multiply-adds of each kind of operator.
        uncounted: operators that fvcore knows nothing of, and how often each was called; element by element as a rule.
    """

    parameters: int
    multiply_adds: int
    activations: int
    by_operator: dict[str, int]
    uncounted: dict[str, int]


def cost(model: nn.Module, clip_shape: tuple[int, int, int, int]) -> Cost:
    """Cost of the model for one clip of shape (C, T, H, W), as in evaluation; fvcore traces two passes of it."""
    device = next(model.parameters()).device
    model = copy.deepcopy(model).eval()
    inputs = torch.zeros(1, *clip_shape, device=device)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of each shape that code asks for
        flops = FlopCountAnalysis(model, inputs)
        flops.set_op_handle(**{DENSE: _dense_flops, op.NAME: op.fvcore_flops})
        activations = ActivationCountAnalysis(model, inputs)
        activations.set_op_handle(**{DENSE: _dense_activations, op.NAME: _sparse_activations})
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
    """Multiply-adds of products, convolutions and attention of one clip (C, T, H, W), without computing any of them.

    By torch's counter over tensors that are shapes alone, which takes no longer for a large model. ``cost`` counts
    norms and pooling, too.
    """
    was_training = model.training
    model.eval()
    shapes_alone = FakeTensorMode(allow_non_fake_inputs=True)
    as_products = sdpa_kernel(SDPBackend.MATH)  # the counter knows nothing of the CPU's own dense attention
    with shapes_alone, as_products, FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *clip_shape, device=next(model.parameters()).device))
    model.train(was_training)
    return counter.get_total_flops() // 2


def _pairs(inputs: list) -> int:
    """Of dense attention: all pairs of query and key, in all heads."""
    return math.prod(get_shape(inputs[0])[:-1]) * get_shape(inputs[1])[-2]


def _dense_flops(inputs: list, outputs: list) -> int:
    return 2 * _pairs(inputs) * get_shape(inputs[0])[-1]  # q · k, weights · v


def _output(outputs: list) -> int:
    return math.prod(get_shape(outputs[0]))


def _dense_activations(inputs: list, outputs: list) -> int:
    return _pairs(inputs) + _output(outputs)


def _sparse_activations(inputs: list, outputs: list) -> int:
    support = Support.from_code(inputs[3].toIValue())
    return get_shape(inputs[0])[0] * support.num_pairs() + _output(outputs)
