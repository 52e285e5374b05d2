"""What computes the local part of a halo exchange: compiled loops over pairs on CPUs, plain PyTorch elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from videofib.attention import pattern_op
from videofib.attention.backends import INSTALLED
from videofib.attention.kernels import ragged
from videofib.attention.kernels.ragged import Ragged

HALO_BACKENDS = ("auto", "reference", "gather", "cpu")  # the names of these that serve


@dataclass(frozen=True)
class RaggedKernel:
    """One implementation; see :mod:`videofib.attention.kernels.ragged`."""

    attend: Callable[..., tuple[Tensor, Tensor]]
    gradients: Callable[..., tuple[Tensor, Tensor, Tensor]]


def ragged_kernel(backend: str, device: str) -> RaggedKernel:
    """The implementation for a backend of :func:`sparse_attention`, and a type of device.

    Raises:
        ValueError: a backend that needs complete sequences, or a package or device that is absent.
    """
    if backend == "auto":
        return _COMPILED if has_compiled(device) else _PLAIN
    if backend in ("reference", "gather"):
        return _PLAIN
    if backend == "cpu" and has_compiled(device):
        return _COMPILED
    raise ValueError(
        f"backend {backend!r} computes no halo of {device} tensors in this environment; set backend 'auto' or "
        "'gather', or mode 'heads'"
    )


def has_compiled(device: str) -> bool:
    """Whether there are compiled loops for this type of device."""
    return device == "cpu" and INSTALLED["numba"]


def _attend(q: Tensor, k: Tensor, v: Tensor, pairs: Ragged, scale: float) -> tuple[Tensor, Tensor]:
    return pattern_op.kernel().forward(q, k, v, *pairs.tables[:2], scale, pairs.edges)


def _gradients(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, pairs: Ragged, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return pattern_op.kernel().backward(d_out, q, k, v, out, lse.contiguous(), pairs.tables, scale, pairs.edges)


_PLAIN = RaggedKernel(ragged.attend, ragged.gradients)
_COMPILED = RaggedKernel(_attend, _gradients)
