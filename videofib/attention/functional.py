"""``sparse_attention``: one call, several backends that agree."""

import torch
from torch import Tensor

from videofib.attention import autocast, op
from videofib.attention.backends import MASKINGS, choose
from videofib.attention.support import Support


def sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    support: Support,
    *,
    masking: str = "exclude",
    scale: float | None = None,
    dropout_p: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """Attention in which head h uses only the pairs of ``support``'s head h.

    Args:
        q, k, v: (B, H, P+N, D), prefix tokens first, of one dtype, on one device; B may be 0. On the meta device every
            backend gives the shape.
        support: for H heads, N tokens and P prefix tokens.
        masking: ``exclude`` takes the softmax over the support alone (arXiv 2406.19391, eq. of section 3);
            ``zero_logit`` sets the other logits to 0 before the softmax, as the authors' released code does, so that
            each of those keys keeps the weight exp(0). Prefix tokens belong to every query's support.
        scale: of the logits; by default D ** -0.5.
        dropout_p: probability of dropping an attention weight; 0 outside training.
        backend: ``auto`` takes the fastest that serves; or one by name: ``reference`` builds the N x N mask and is the
            ground truth; ``gather`` is plain PyTorch on any device and never holds more than O(N · offsets); ``cpu``
            is compiled loops over the pairs and ``triton`` a CUDA kernel, both without dropout; ``dense`` is torch's
            own, for dense supports. The table is ``videofib.attention.backends``. All but ``reference`` have first
            derivatives backwards. Within ``torch.func``'s transforms (``grad``, ``jvp``, ``vmap``, ``hessian``, …) and
            forward-mode differentiation, all have any derivative: there they compute by plain PyTorch, slower, the
            sparse ones still with O(N · offsets) memory. A graph of ``torch.export`` with ``gather`` holds torch's own
            operations alone, and needs no videofib where it runs; with ``cpu`` and ``triton`` it holds their operator.

    Returns:
        (B, H, P+N, D), in the dtype of q; under autocast, of 32-bit q, in autocast's, as torch's own attention.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit; an unknown masking or backend; dropout where the
            backend has none. The message shows the values.
    """
    _check(q, k, v, support, masking, dropout_p)
    chosen = choose(backend, q, support, masking, dropout_p)
    if op.is_transformed():
        attend = chosen.by_autograd or chosen.attend
    else:
        attend = (chosen.in_exports if is_exporting() else None) or chosen.attend
    q, k, v = autocast.cast(q.device.type, q, k, v)
    return attend(q, k, v, support, masking, q.shape[-1] ** -0.5 if scale is None else scale, dropout_p)


def _check(q: Tensor, k: Tensor, v: Tensor, support: Support, masking: str, dropout_p: float) -> None:
    if masking not in MASKINGS:
        raise ValueError(f"unknown masking {masking!r}; known: {', '.join(MASKINGS)}")
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p must lie in [0, 1), got {dropout_p}")
    if q.ndim != 4 or not q.shape == k.shape == v.shape:
        raise ValueError(
            f"q, k and v must have one shape (B, H, P+N, D), got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    expected = (support.num_heads, support.num_prefix_tokens + support.num_tokens)
    if tuple(q.shape[1:3]) != expected:
        raise ValueError(
            f"the support is for {support.num_heads} heads and {support.num_prefix_tokens} + {support.num_tokens} "
            f"tokens, got q of shape {tuple(q.shape)} (B, H, P+N, D)"
        )
    if not q.shape[3]:
        raise ValueError(f"q, k and v have rows of no numbers: shape {tuple(q.shape)} (B, H, P+N, D)")
    if not q.device == k.device == v.device:
        raise ValueError(f"q, k and v must be on one device, got {q.device}, {k.device}, {v.device}")
    if not q.dtype == k.dtype == v.dtype or not q.dtype.is_floating_point:
        raise ValueError(f"q, k and v must have one floating-point dtype, got {q.dtype}, {k.dtype}, {v.dtype}")


def is_exporting() -> bool:
    """Whether torch.export traces this code."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()  # the former came with torch 2.7
