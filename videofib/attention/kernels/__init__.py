"""The implementations of sparse attention, in one vocabulary: tensors (B, H, P+N, D), a support, a masking, a scale.

Those in plain PyTorch, which autograd differentiates (``reference``, ``gather``, ``dense``):

    attend(q, k, v, support, masking, scale, dropout_p) -> out

Those that are compiled, which :mod:`videofib.attention.op` makes one operator (``cpu``, ``triton``); lse is the log of
the softmax's denominators, (B, H, P+N):

    forward(q, k, v, support, masking, scale) -> out, lse
    backward(d_out, q, k, v, out, lse, support, masking, scale) -> dq, dk, dv

:mod:`videofib.attention.backends` says what each needs and offers, and chooses. ``pairs`` and ``cpu.pattern_kernel``
are for a pattern in place of a support, see :mod:`videofib.attention.pattern_functional`; ``ragged`` is for queries of
a slice of the tokens, see :mod:`videofib.attention.context`.
"""

import torch

TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
FIRST_DERIVATIVES_ONLY = (
    "sparse attention has first derivatives only; for second ones use torch.func (grad of grad, hessian), or "
    "sparse_attention(..., backend='reference')"
)
NO_FORWARD_MODE = (
    "the operator of sparse attention has no forward-mode derivative; call sparse_attention, which has one within "
    "torch.func.jvp and torch.autograd.forward_ad, or sparse_attention(..., backend='reference')"
)
