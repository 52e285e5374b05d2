"""``videofib::pattern_attention``: the compiled kernel over listed pairs as an operator that torch knows.

Registered are the kernel of CPUs, shapes and memory layout, the gradient and FLOPs. A pattern is passed as its tables,
which are constants in a graph, so that it needs no object.
"""

from functools import cache

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from videofib.attention.kernels import FIRST_DERIVATIVES_ONLY
from videofib.attention.kernels.layout import rows_like
from videofib.attention.pattern import Pattern

NAME = "videofib::pattern_attention"


def attend(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float, dropout_p: float) -> Tensor:
    """See :func:`videofib.attention.pattern_attention`. ``dropout_p`` must be 0: the kernel has no dropout."""
    tables = pattern.rowptr, pattern.cols, pattern.keyptr, pattern.queries, pattern.positions
    return forward(q, k, v, *tables, pattern.num_pairs(), scale)[0]


@cache
def kernel():
    """The CPU kernel; loaded at the first call, as numba loads slowly."""
    from videofib.attention.kernels.cpu.pattern_kernel import PatternKernel

    return PatternKernel()


@torch.library.custom_op(NAME, mutates_args=(), device_types="cpu")
def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rowptr: Tensor,
    cols: Tensor,
    keyptr: Tensor,
    queries: Tensor,
    positions: Tensor,
    pairs: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Output (B, H, S, D) and log of the softmax's denominators (B, H, S); ``pairs`` are those of all heads."""
    return kernel().forward(q, k, v, rowptr, cols, scale) if len(q) else _outputs_like(q)


@torch.library.custom_op("videofib::pattern_attention_backward", mutates_args=(), device_types="cpu")
def backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    rowptr: Tensor,
    cols: Tensor,
    keyptr: Tensor,
    queries: Tensor,
    positions: Tensor,
    pairs: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    if not len(q):
        return rows_like(q), rows_like(q), rows_like(q)
    return kernel().backward(d_out, q, k, v, out, lse, (rowptr, cols, keyptr, queries, positions), scale)


def _outputs_like(q: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return rows_like(q), q.new_empty(q.shape[:3], dtype=dtype)


@forward.register_fake
def _(q, k, v, rowptr, cols, keyptr, queries, positions, pairs, scale):
    return _outputs_like(q)


@backward.register_fake
def _(d_out, q, k, v, out, lse, rowptr, cols, keyptr, queries, positions, pairs, scale):
    return rows_like(q), rows_like(q), rows_like(q)


def _save_for_backward(ctx, inputs, output):
    q, k, v, *tables, pairs, scale = inputs
    ctx.save_for_backward(q, k, v, *output, *tables)
    ctx.options = pairs, scale
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx, d_out, _):
    gradients = (None,) * 3 if d_out is None else backward(d_out, *ctx.saved_tensors, *ctx.options)
    return *gradients, *(None,) * 7


def _reject_second_derivative(ctx, *gradients):
    raise RuntimeError(FIRST_DERIVATIVES_ONLY)


forward.register_autograd(_differentiate, setup_context=_save_for_backward)
backward.register_autograd(_reject_second_derivative)


@register_flop_formula(torch.ops.videofib.pattern_attention)
def _(q_shape, k_shape, v_shape, *tables_pairs_scale, out_shape=None, **kwargs) -> int:
    return 2 * 2 * q_shape[0] * tables_pairs_scale[-2] * q_shape[3]  # q · k, weights · v


@register_flop_formula(torch.ops.videofib.pattern_attention_backward)
def _(d_out_shape, q_shape, *others, out_shape=None, **kwargs) -> int:
    return 2 * 5 * q_shape[0] * others[-2] * q_shape[3]


OPERATOR = torch.ops.videofib.pattern_attention.default


def pairs_of(inputs: list) -> int:
    """Pairs of query and key over all heads, from the inputs of the operator in a traced graph."""
    return inputs[8].toIValue()


def fvcore_flops(inputs: list, outputs: list) -> int:
    """For ``FlopCountAnalysis(...).set_op_handle(NAME, fvcore_flops)``; a multiplication and an addition count once."""
    batch, _, _, width = inputs[0].type().sizes()
    return 2 * batch * pairs_of(inputs) * width
