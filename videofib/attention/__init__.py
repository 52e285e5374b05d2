"""Fibottention: sparse attention whose heads look along Fibonacci-spaced diagonals (arXiv 2406.19391).

Read in this order: ``wythoff`` (which offsets), ``support`` (which pairs), ``functional`` (the op), ``context`` (the op
over a sequence split across processes), ``module``. ``rows`` is for looking at what a layer attends to; ``supports``
are other patterns of diagonals.
"""

from videofib.attention import supports
from videofib.attention.context import ContextGroup, TokenSlice, check_heads, context_parallel_attention
from videofib.attention.functional import sparse_attention
from videofib.attention.module import SelfAttention
from videofib.attention.rows import weighted_rows
from videofib.attention.support import Support
from videofib.attention.wythoff import fibottention_offsets

__all__ = [
    "ContextGroup",
    "SelfAttention",
    "Support",
    "TokenSlice",
    "check_heads",
    "context_parallel_attention",
    "fibottention_offsets",
    "sparse_attention",
    "supports",
    "weighted_rows",
]
