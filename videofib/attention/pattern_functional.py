"""``pattern_attention``: attention over any pattern, by several backends that agree."""

from importlib.util import find_spec

import torch
from torch import Tensor

from videofib.attention import autocast, op, pattern_op
from videofib.attention.kernels import pairs
from videofib.attention.pattern import Pattern

PATTERN_BACKENDS = ("reference", "gather", "cpu")
_HAS_NUMBA = find_spec("numba") is not None


def pattern_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    *,
    scale: float | None = None,
    dropout_p: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """Attention in which head h uses only the pairs of ``pattern``'s head h.

    Args:
        q, k, v: (B, H, P+N, D), prefix tokens first, of one dtype, on one device.
        pattern: for H heads, N tokens and P prefix tokens.
        scale: of the logits; by default D ** -0.5.
        dropout_p: probability of dropping an attention weight; 0 outside training.
        backend: ``reference`` builds the N x N mask and is the ground truth; ``gather`` is plain PyTorch on any device
            and holds the rows of every pair; ``cpu`` is compiled loops over the pairs, without dropout and with first
            derivatives only; ``auto`` takes ``cpu`` where it serves, else ``gather``, as do torch.func's transforms.

    Returns:
        (B, H, P+N, D), in the dtype of q; under autocast, of 32-bit q, in autocast's.

    Raises:
        ValueError: shapes or devices that do not fit, an unknown backend, or one that does not serve.
    """
    _check(q, k, v, pattern, dropout_p, backend)
    q, k, v = autocast.cast(q.device.type, q, k, v)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if backend == "auto":
        backend = "cpu" if _HAS_NUMBA and q.device.type == "cpu" and not dropout_p else "gather"
    if backend == "cpu" and op.is_transformed():
        backend = "gather"
    return _ATTEND[backend](q, k, v, pattern, scale, dropout_p)


def _reference(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float, dropout_p: float) -> Tensor:
    logits = (q @ k.transpose(-2, -1) * scale).masked_fill(~pattern.to_mask(q.device), float("-inf"))
    return torch.nn.functional.dropout(torch.softmax(logits, -1), dropout_p) @ v


_ATTEND = {"reference": _reference, "gather": pairs.attend, "cpu": pattern_op.attend}


def check_pattern_backend(backend: str) -> None:
    """Raise ValueError where no backend of patterns has this name, or a package is missing for it."""
    if backend not in ("auto", *PATTERN_BACKENDS):
        raise ValueError(f"unknown backend of patterns {backend!r}; known: auto, {', '.join(PATTERN_BACKENDS)}")
    if backend == "cpu" and not _HAS_NUMBA:
        raise ValueError("backend 'cpu' needs numba; pip install numba, or use backend 'gather'")


def _check(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, dropout_p: float, backend: str) -> None:
    check_pattern_backend(backend)
    expected = pattern.num_heads, pattern.num_prefix_tokens + pattern.num_tokens
    if q.ndim != 4 or not q.shape == k.shape == v.shape or tuple(q.shape[1:3]) != expected:
        raise ValueError(
            f"q, k and v must have one shape (B, H, P+N, D), for {pattern.num_heads} heads and "
            f"{pattern.num_prefix_tokens} + {pattern.num_tokens} tokens, got {tuple(q.shape)}, {tuple(k.shape)}, "
            f"{tuple(v.shape)}"
        )
    if not 0.0 <= dropout_p < 1.0 or (dropout_p and backend == "cpu"):
        raise ValueError(f"dropout_p must lie in [0, 1), and be 0 for backend 'cpu', got {dropout_p}; use 'gather'")
    if not q.device == k.device == v.device or (backend == "cpu" and q.device.type not in ("cpu", "meta")):
        raise ValueError(f"q, k and v are on {q.device}, {k.device}, {v.device}; they must be on one, for 'cpu' a CPU")
