"""Context parallelism: attention over a sequence of which each process holds a slice of the tokens.

Everything in a transformer but attention works token by token, so processes that share a sequence of P+N tokens hold
1/R of its activations each. For attention they exchange tensors, in one of three modes:

    mode    supports  what is exchanged                                         processes
    heads   any       slices of tokens for heads, and back                      as many as heads at most
    ring    dense     keys and values, which visit every process                any number
    halo    sparse    the rows of keys and values that offsets reach            any number
    auto    any       whichever of these sends fewest bytes

Read in this order: ``group`` (who has which tokens), ``heads``, ``blockwise`` and ``ring``, ``plan``, ``halo_kernels``
and ``halo``, ``traffic`` (what each sends), ``attention`` (the call).
"""

from videofib.attention.context.attention import context_parallel_attention
from videofib.attention.context.group import CONTEXT_MODES, ContextGroup, TokenSlice
from videofib.attention.context.heads import check_heads
from videofib.attention.context.traffic import check_mode

__all__ = ["CONTEXT_MODES", "ContextGroup", "TokenSlice", "check_heads", "check_mode", "context_parallel_attention"]
