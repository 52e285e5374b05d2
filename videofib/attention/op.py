"""``videofib::sparse_attention``: the compiled kernels as one operator that torch knows.

Registered are the kernels of CPU and CUDA devices, shapes and memory layout (for ``torch.compile`` and
``torch.export``), the gradient, autocast and FLOPs. The support travels as text, :attr:`Support.code`, so that a graph
that holds the operator is whole in itself.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from videofib.attention.support import Support

NAME = "videofib::sparse_attention"
_library = torch.library.Library("videofib", "DEF")
_library.define(
    "sparse_attention(Tensor q, Tensor k, Tensor v, str support, bool zero_logit, float scale) -> (Tensor, Tensor)"
)
_library.define(
    "sparse_attention_backward(Tensor d_out, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, str support, "
    "bool zero_logit, float scale) -> (Tensor, Tensor, Tensor)"
)
forward = torch.ops.videofib.sparse_attention.default
backward = torch.ops.videofib.sparse_attention_backward.default


@cache
def _kernel(name: str) -> ModuleType:
    return import_module(f"videofib.attention.kernels.{name}")


def _register_device(key: str, kernel: str) -> None:
    def run_forward(q, k, v, support, zero_logit, scale):
        return _kernel(kernel).forward(q, k, v, Support.from_code(support), zero_logit, scale)

    def run_backward(d_out, q, k, v, out, lse, support, zero_logit, scale):
        support = Support.from_code(support)
        return _kernel(kernel).backward(d_out, q, k, v, out, lse, support, zero_logit, scale)

    _library.impl("sparse_attention", run_forward, key)
    _library.impl("sparse_attention_backward", run_backward, key)


_register_device("CPU", "cpu")
_register_device("CUDA", "triton")


# shapes


def _rows_like(x: Tensor) -> Tensor:
    """(B, H, P+N, D) that lies in memory as (B, P+N, H, D)."""
    batch, heads, total, dim = x.shape
    return x.new_empty(batch, total, heads, dim).transpose(1, 2)


@torch.library.register_fake(NAME, lib=_library)
def _(q, k, v, support, zero_logit, scale):
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return _rows_like(q), q.new_empty(q.shape[:3], dtype=dtype)


@torch.library.register_fake(f"{NAME}_backward", lib=_library)
def _(d_out, q, k, v, out, lse, support, zero_logit, scale):
    return _rows_like(q), _rows_like(q), _rows_like(q)


# gradient


def _keep(ctx, inputs, output):
    q, k, v, *options = inputs
    ctx.save_for_backward(q, k, v, *output)
    ctx.options = options
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx, d_out, _):
    gradients = (None,) * 3 if d_out is None else backward(d_out, *ctx.saved_tensors, *ctx.options)
    return *gradients, None, None, None


def _refuse_second(ctx, *gradients):
    raise RuntimeError(
        "sparse attention has first derivatives only; for second ones use sparse_attention(..., backend='reference')"
    )


torch.library.register_autograd(NAME, _differentiate, setup_context=_keep, lib=_library)
torch.library.register_autograd(f"{NAME}_backward", _refuse_second, lib=_library)


# autocast, vmap, FLOPs


def autocast(device: str, *tensors: Tensor) -> list[Tensor]:
    """As torch's own attention has them: under autocast, 32-bit tensors become what it works in."""
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    return [x.to(torch.get_autocast_dtype(device)) if x.dtype == torch.float32 else x for x in tensors]


def _register_autocast(device: str) -> None:
    def cast(q, k, v, support, zero_logit, scale):
        q, k, v = autocast(device, q, k, v)
        with torch.autocast(device, enabled=False):
            return forward(q, k, v, support, zero_logit, scale)

    _library.impl("sparse_attention", cast, f"Autocast{device.upper()}")


_register_autocast("cpu")
_register_autocast("cuda")


def _refuse_vmap(info, in_dims, *inputs):
    raise NotImplementedError(
        "sparse attention has no rule for torch.vmap; put the mapped dimension into the batch, (B, H, P+N, D)"
    )


torch.library.register_vmap(NAME, _refuse_vmap, lib=_library)
torch.library.register_vmap(f"{NAME}_backward", _refuse_vmap, lib=_library)


def multiply_adds(shape: tuple[int, ...], support: Support, products: int) -> int:
    """Of ``products`` matrix products over the pairs of the support: 2 forward (q · k, weights · v), 5 backward.

    Args:
        shape: of q, (B, H, P+N, D).
    """
    return products * shape[0] * support.num_pairs() * shape[3]


@register_flop_formula(torch.ops.videofib.sparse_attention)
def _(q_shape, k_shape, v_shape, support, *args, **kwargs) -> int:
    return 2 * multiply_adds(q_shape, Support.from_code(support), 2)


@register_flop_formula(torch.ops.videofib.sparse_attention_backward)
def _(d_out_shape, q_shape, k_shape, v_shape, out_shape_, lse_shape, support, *args, **kwargs) -> int:
    return 2 * multiply_adds(q_shape, Support.from_code(support), 5)


def fvcore_flops(inputs: list, outputs: list) -> int:
    """For ``FlopCountAnalysis(...).set_op_handle("videofib::sparse_attention", fvcore_flops)``; as fvcore does, it
    counts a multiplication and an addition once."""
    return multiply_adds(inputs[0].type().sizes(), Support.from_code(inputs[3].toIValue()), 2)
