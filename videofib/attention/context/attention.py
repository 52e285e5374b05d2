"""Attention over a sequence of which each process holds a slice of the tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from videofib.attention import autocast
from videofib.attention.backends import MASKINGS
from videofib.attention.context.group import TokenSlice
from videofib.attention.context.halo import attend_by_halo
from videofib.attention.context.halo_kernels import has_compiled, ragged_kernel
from videofib.attention.context.heads import attend_by_heads
from videofib.attention.context.ring import attend_by_ring
from videofib.attention.context.traffic import check_mode, choose_mode
from videofib.attention.functional import sparse_attention
from videofib.attention.support import Support


@torch.compiler.disable  # a compiled graph ends where processes exchange tensors
def context_parallel_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    support: Support,
    tokens: TokenSlice,
    *,
    attend: Callable[..., Tensor] = sparse_attention,
    **options,
) -> Tensor:
    """:func:`sparse_attention` over all tokens of a sequence, of which this process holds the slice ``tokens``.

    What processes exchange is their group's mode, see :mod:`videofib.attention.context`.

    Args:
        q, k, v: (B, H, n, D) for the n tokens of the slice; B, H, D and dtype are the same in every process.
        support: for H heads and all P+N tokens.
        attend: what each process computes of its heads: a function with the arguments and the result of
            :func:`sparse_attention`, in which heads exchange nothing. Other modes than ``heads`` serve none but the
            default.
        options: of ``attend``. Dropout is drawn by each process for its heads; only the mode ``heads`` has it. A ring
            computes in blocks of plain PyTorch, whatever the backend.

    Returns:
        (B, H, n, D): the slice of what :func:`sparse_attention` gives. ``ring`` and ``halo`` have first derivatives.

    Raises:
        ValueError: slices that do not match the support, a mode that does not serve it, or has fewer heads than
            processes or no dropout; the message shows the values.
    """
    _check(q, k, v, support, tokens)
    q, k, v = autocast.cast(q.device.type, q, k, v)  # before they are sent
    mode = _mode(q, support, tokens, attend, **options)
    if mode == "heads":
        return attend_by_heads(q, k, v, support, tokens, attend, **options)
    return _attend_elsewhere(q, k, v, support, tokens, mode, **options)


def _mode(
    q: Tensor,
    support: Support,
    tokens: TokenSlice,
    attend: Callable[..., Tensor],
    masking: str = "exclude",
    dropout_p: float = 0.0,
    backend: str = "auto",
    **others,
) -> str:
    """The mode of the exchange; raises ValueError where it does not serve."""
    mode, size = tokens.context.mode, tokens.context.size
    if mode == "auto":
        if attend is not sparse_attention or dropout_p:
            mode = "heads"
        else:
            fast = has_compiled(q.device.type) and backend in ("auto", "cpu")
            mode = choose_mode(
                support, size, head_dim=q.shape[3], itemsize=q.element_size(), masking=masking, fast_halo=fast
            )
    check_mode(mode, support, size, backend)
    if mode != "heads" and attend is not sparse_attention:
        raise ValueError(f"mode {mode!r} of context parallelism computes plain attention only; set mode 'heads'")
    return mode


def _attend_elsewhere(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    support: Support,
    tokens: TokenSlice,
    mode: str,
    *,
    masking: str = "exclude",
    scale: float | None = None,
    dropout_p: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """Attention in which every process computes all heads of its own queries."""
    if masking not in MASKINGS:
        raise ValueError(f"unknown masking {masking!r}; known: {', '.join(MASKINGS)}")
    if dropout_p:
        raise ValueError(
            f"mode {mode!r} of context parallelism has no dropout, got dropout_p={dropout_p}; set mode 'heads'"
        )
    scale = q.shape[3] ** -0.5 if scale is None else scale
    if mode == "ring":
        return attend_by_ring(q, k, v, tokens, scale)
    kernel = ragged_kernel(backend, q.device.type)
    return attend_by_halo(q, k, v, support, tokens, scale, masking == "zero_logit", kernel)


def _check(q: Tensor, k: Tensor, v: Tensor, support: Support, tokens: TokenSlice) -> None:
    if not q.shape == k.shape == v.shape or not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"q, k and v must have one shape (B, H, n, D) and dtype, got {tuple(q.shape)}, {tuple(k.shape)}, "
            f"{tuple(v.shape)} and {q.dtype}, {k.dtype}, {v.dtype}"
        )
    expected = (support.num_heads, len(tokens.positions))
    if q.ndim != 4 or tuple(q.shape[1:3]) != expected:
        raise ValueError(
            f"process {tokens.context.rank} of {tokens.context.size} holds {expected[1]} of {tokens.total} tokens, and "
            f"the support has {expected[0]} heads; got q of shape {tuple(q.shape)} (B, H, n, D)"
        )
    if tokens.total != support.num_prefix_tokens + support.num_tokens:
        raise ValueError(
            f"the support is for {support.num_prefix_tokens} + {support.num_tokens} tokens; the processes share "
            f"{tokens.total}"
        )
