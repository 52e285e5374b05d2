"""``videofib::sparse_attention``: the compiled kernels as one operator that torch knows.

Registered are the kernels of CPU and CUDA devices, shapes and memory layout (for ``torch.compile`` and
``torch.export``), the gradient, autocast and FLOPs. The support is passed as text, :attr:`Support.code`, so that a
graph that holds the operator is self-contained.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import register_flop_formula

from videofib.attention import autocast
from videofib.attention.kernels import FIRST_DERIVATIVES_ONLY, NO_FORWARD_MODE
from videofib.attention.kernels.layout import rows_like
from videofib.attention.support import Support

NAME = "videofib::sparse_attention"
_library = torch.library.Library("videofib", "DEF")
_library.define(
    "sparse_attention(Tensor q, Tensor k, Tensor v, str support, str masking, float scale) -> (Tensor, Tensor)"
)
_library.define(
    "sparse_attention_backward(Tensor d_out, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, str support, "
    "str masking, float scale) -> (Tensor, Tensor, Tensor)"
)
forward = torch.ops.videofib.sparse_attention.default
backward = torch.ops.videofib.sparse_attention_backward.default


def attend(q: Tensor, k: Tensor, v: Tensor, support: Support, masking: str, scale: float, dropout_p: float) -> Tensor:
    """See :func:`videofib.attention.sparse_attention`. ``dropout_p`` must be 0: compiled kernels have no dropout."""
    return forward(q, k, v, support.code, masking, scale)[0]


# devices


@cache
def _kernel(device: str):
    """What has ``forward`` and ``backward`` for a device; loaded at the first call, as numba and triton load slowly."""
    if device == "CPU":
        from videofib.attention.kernels.cpu.kernel import CpuKernel

        return CpuKernel()
    from videofib.attention.kernels import triton

    return triton


def _reject_forward_mode() -> None:
    """torch asks no operator for such a rule, and would lose the tangents silently."""
    if _is_forward_mode():
        raise NotImplementedError(NO_FORWARD_MODE)


def _register_device(device: str) -> None:
    def run_forward(q, k, v, support, masking, scale):
        _reject_forward_mode()
        if not len(q):  # an empty batch has nothing to divide among threads, or to launch
            return _outputs_like(q)
        return _kernel(device).forward(q, k, v, Support.from_code(support), masking, scale)

    def run_backward(d_out, q, k, v, out, lse, support, masking, scale):
        _reject_forward_mode()
        if not len(q):
            return rows_like(q), rows_like(q), rows_like(q)
        return _kernel(device).backward(d_out, q, k, v, out, lse, Support.from_code(support), masking, scale)

    _library.impl("sparse_attention", run_forward, device)
    _library.impl("sparse_attention_backward", run_backward, device)


_register_device("CPU")
_register_device("CUDA")


# shapes


def _outputs_like(q: Tensor) -> tuple[Tensor, Tensor]:
    """An uninitialised output and log of the softmax's denominators for queries q."""
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return rows_like(q), q.new_empty(q.shape[:3], dtype=dtype)


@torch.library.register_fake(NAME, lib=_library)
def _(q, k, v, support, masking, scale):
    return _outputs_like(q)


@torch.library.register_fake(f"{NAME}_backward", lib=_library)
def _(d_out, q, k, v, out, lse, support, masking, scale):
    return rows_like(q), rows_like(q), rows_like(q)


# gradient


def is_transformed() -> bool:
    """Whether a transform of torch.func or forward-mode differentiation is active; the operator has no rules for it."""
    return torch._C._are_functorch_transforms_active() or _is_forward_mode()


def _is_forward_mode() -> bool:
    return forward_ad._current_level >= 0


def _save_for_backward(ctx, inputs, output):
    q, k, v, *options = inputs
    ctx.save_for_backward(q, k, v, *output)
    ctx.options = options
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx, d_out, _):
    gradients = (None,) * 3 if d_out is None else backward(d_out, *ctx.saved_tensors, *ctx.options)
    return *gradients, None, None, None


def _reject_second_derivative(ctx, *gradients):
    raise RuntimeError(FIRST_DERIVATIVES_ONLY)


torch.library.register_autograd(NAME, _differentiate, setup_context=_save_for_backward, lib=_library)
torch.library.register_autograd(f"{NAME}_backward", _reject_second_derivative, lib=_library)


# autocast, vmap, FLOPs


def _register_autocast(device: str) -> None:
    def cast(q, k, v, support, masking, scale):
        q, k, v = autocast.cast(device, q, k, v)
        with autocast.disabled(device):
            return forward(q, k, v, support, masking, scale)

    _library.impl("sparse_attention", cast, f"Autocast{device.upper()}")


_register_autocast("cpu")
_register_autocast("cuda")


def _reject_vmap(info, in_dims, *inputs):
    raise NotImplementedError(
        "the operator of sparse attention has no rule for torch.vmap; call sparse_attention, which has one, or put the "
        "mapped dimension into the batch, (B, H, P+N, D)"
    )


torch.library.register_vmap(NAME, _reject_vmap, lib=_library)
torch.library.register_vmap(f"{NAME}_backward", _reject_vmap, lib=_library)


def multiply_adds(shape: tuple[int, ...], support: Support, products: int) -> int:
    """Multiply-adds of ``products`` matrix products over the pairs of the support: 2 forward (q · k, weights · v), 5
    backward.

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
