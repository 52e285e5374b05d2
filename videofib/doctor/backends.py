"""Which backends of sparse attention agree with the reference, and the CPU kernel compiled ahead."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from videofib.doctor.finding import Finding, State, reason, unavailable

if TYPE_CHECKING:
    from torch import Tensor

    from videofib.attention.backends import Backend

TOLERANCE = 1e-4  # of outputs near 1 in 32 bits: far above rounding, far below any wrong pair
_BATCH, _HEADS, _TOKENS, _HEAD_DIM = 2, 2, 40, 64
_MASKINGS = ("exclude", "zero_logit")


def backends() -> Iterator[Finding]:
    """Each backend, with its largest difference from the reference; the reference's from torch's masked attention."""
    from videofib.attention.backends import BACKENDS

    for name, backend in BACKENDS.items():
        yield checked(name, backend)


def checked(name: str, backend: Backend) -> Finding:
    """One backend, forward, under both maskings, on random numbers; all but that of GPUs are needed."""
    import torch

    from videofib.attention import Support

    part, device = f"backend {name}", backend.device or "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        return unavailable(part, "needs a CUDA device", needed=False)
    make = Support.dense if backend.dense_only else Support.fibottention
    support = make(_HEADS, _TOKENS)
    q, k, v = _random(3, _HEAD_DIM).to(device)
    try:
        largest = _difference(name, q, k, v, support)
    except Exception as error:  # a compiler that does not load or compile raises anything
        return unavailable(part, reason(error), needed=device != "cuda")
    other = "torch's masked attention" if name == "reference" else "the reference"
    text = f"largest difference from {other} {largest:.1e} (at most {TOLERANCE:.0e})"
    return Finding(State.WORKS, part, text) if largest <= TOLERANCE else Finding(State.FAILED, part, f"wrong: {text}")


def compile_ahead(head_dims: Sequence[int]) -> Iterator[Finding]:
    """Compile the CPU kernel, forward and backward, for each head dimension; what is kept on disk loads at once."""
    import torch

    from videofib.attention import Support, sparse_attention

    support = Support.fibottention(_HEADS, _TOKENS)
    for dim in head_dims:
        part = f"kernel, head dim {dim}"
        q, k, v = _random(3, dim).requires_grad_()
        try:
            start = time.monotonic()
            out = sparse_attention(q, k, v, support, backend="cpu")
            middle = time.monotonic()
            torch.autograd.grad(out.sum(), (q, k, v))
            end = time.monotonic()
        except Exception as error:
            yield unavailable(part, reason(error), needed=True)
            continue
        kind = "threaded" if torch.get_num_threads() > 1 else "serial"
        seconds = f"forward {middle - start:.1f} s, backward {end - middle:.1f} s"
        yield Finding(State.WORKS, part, f"{seconds}; {kind} loops for 32-bit numbers")


def _difference(name: str, q: Tensor, k: Tensor, v: Tensor, support) -> float:
    """The largest difference of two outputs; NaN, which nothing is above or below, counts as infinite."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from videofib.attention import sparse_attention

    found = []
    for masking in ("exclude",) if name == "reference" else _MASKINGS:
        out = sparse_attention(q, k, v, support, masking=masking, backend=name)
        if name == "reference":
            expected = scaled_dot_product_attention(q, k, v, attn_mask=support.to_mask(q.device))
        else:
            expected = sparse_attention(q, k, v, support, masking=masking, backend="reference")
        found.append((out - expected).abs().nan_to_num(nan=torch.inf).max().item())
    return max(found)


def _random(count: int, dim: int) -> Tensor:
    """(count, B, H, 1+N, dim), the same in each call; torch's global generator is left alone."""
    import torch

    shape = (count, _BATCH, _HEADS, 1 + _TOKENS, dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
