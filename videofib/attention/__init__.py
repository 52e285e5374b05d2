"""Fibottention: sparse attention whose heads look along Fibonacci-spaced diagonals (arXiv 2406.19391).

Read in this order: ``wythoff`` (which offsets), ``support`` (which pairs), ``functional`` (the op), ``context`` (the op
over a sequence split across processes), ``module``. ``rows`` is for looking at what a layer attends to;
``diagonals`` are other patterns of offsets, ``pattern``, ``patterns`` and ``pattern_functional`` any set of pairs.
"""

from videofib.attention import patterns
from videofib.attention.context import CONTEXT_MODES, ContextGroup, TokenSlice, check_mode, context_parallel_attention
from videofib.attention.functional import sparse_attention
from videofib.attention.module import SelfAttention
from videofib.attention.pattern import Pattern
from videofib.attention.pattern_functional import check_pattern_backend, pattern_attention
from videofib.attention.rows import weighted_rows
from videofib.attention.support import Support
from videofib.attention.wythoff import fibottention_offsets

__all__ = [
    "CONTEXT_MODES",
    "ContextGroup",
    "Pattern",
    "SelfAttention",
    "Support",
    "TokenSlice",
    "check_mode",
    "check_pattern_backend",
    "context_parallel_attention",
    "fibottention_offsets",
    "pattern_attention",
    "patterns",
    "sparse_attention",
    "weighted_rows",
]
