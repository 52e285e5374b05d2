"""The backends of ``sparse_attention``: what each needs, what it offers, and which one serves a call."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from videofib.attention import op
from videofib.attention.kernels import TRITON_DTYPES, dense, gather, indexed, reference
from videofib.attention.support import Support

MASKINGS = ("exclude", "zero_logit")


@dataclass(frozen=True)
class Backend:
    """One implementation.

    Attributes:
        attend: (q, k, v, support, masking, scale, dropout_p) -> (B, H, P+N, D).
        device: type of the only device that it runs on; None: any.
        package: what must be installed for it; None: nothing but torch.
        dtypes: of q, k and v that it takes; None: every floating-point dtype.
        dense_only: whether it serves dense supports alone.
        dropout: the maskings under which it can drop attention weights.
        derivatives: the highest order of derivatives that it has; None: any.
        by_autograd: as ``attend``, slower, with any derivative in either direction: takes its place within torch.func's
            transforms and forward-mode differentiation, for which ``attend`` has no rules; None: ``attend`` has them.
        in_exports: as ``attend``, in fewer operations: takes its place in graphs of torch.export; None: ``attend`` is
            what they hold.
    """

    attend: Callable[..., Tensor]
    device: str | None = None
    package: str | None = None
    dtypes: tuple[torch.dtype, ...] | None = None
    dense_only: bool = False
    dropout: tuple[str, ...] = ()
    derivatives: int | None = 1
    by_autograd: Callable[..., Tensor] | None = None
    in_exports: Callable[..., Tensor] | None = None


_DIAGONALS = gather.attend_by_autograd
BACKENDS = {
    "reference": Backend(reference.attend, dropout=MASKINGS, derivatives=None),
    "gather": Backend(gather.attend, dropout=("exclude",), by_autograd=_DIAGONALS, in_exports=indexed.attend),
    "dense": Backend(dense.attend, dense_only=True, dropout=MASKINGS, by_autograd=dense.attend_by_autograd),
    "cpu": Backend(op.attend, device="cpu", package="numba", by_autograd=_DIAGONALS),
    "triton": Backend(op.attend, device="cuda", package="triton", dtypes=TRITON_DTYPES, by_autograd=_DIAGONALS),
}
INSTALLED = {b.package: find_spec(b.package) is not None for b in BACKENDS.values() if b.package}


def choose(name: str, q: Tensor, support: Support, masking: str, dropout_p: float) -> Backend:
    """The backend called ``name``; of ``auto``, the fastest for such a call.

    Raises:
        ValueError: no such backend, or one that cannot serve the call.
    """
    if name == "auto":
        name = fastest(q, support, dropout_p)
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; known: auto, {', '.join(BACKENDS)}")
    backend = BACKENDS[name]
    if backend.device and q.device.type not in (backend.device, "meta"):
        raise ValueError(f"backend {name!r} needs {backend.device} tensors, got them on {q.device}; use backend 'auto'")
    if backend.package and not INSTALLED[backend.package]:
        raise ValueError(
            f"backend {name!r} needs {backend.package}; pip install {backend.package}, or use backend 'gather'"
        )
    if backend.dense_only and not support.is_dense:
        raise ValueError(f"backend {name!r} serves dense supports only, got {support}")
    if dropout_p and not backend.dropout:
        raise ValueError(f"backend {name!r} has no dropout (got dropout_p={dropout_p}); use backend 'gather'")
    if dropout_p and masking not in backend.dropout:
        raise ValueError(
            f"backend {name!r} has no dropout under masking {masking!r} (got dropout_p={dropout_p}); use backend "
            "'reference' or dropout_p=0"
        )
    return backend


def fastest(q: Tensor, support: Support, dropout_p: float) -> str:
    """The name of the fastest backend; warns where a package is missing that would give a faster one."""
    if support.is_dense:
        return "dense"
    device = q.device.type
    for name, backend in BACKENDS.items():
        if backend.device != device or dropout_p or (backend.dtypes and q.dtype not in backend.dtypes):
            continue
        if INSTALLED[backend.package]:
            return name
        warnings.warn(
            f"{backend.package} is not installed: sparse attention takes the slower backend 'gather'; "
            f"pip install {backend.package} for the compiled one",
            stacklevel=4,
        )
    return "gather"
