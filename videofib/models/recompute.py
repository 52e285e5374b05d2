"""Activation checkpointing: what is kept for the backward pass, and what is computed a second time instead.

``block`` keeps only a block's input (arXiv 1604.06174): the least memory, one more forward pass. ``cheap`` keeps the
results of matrix products and attention, and computes norms, activations, dropout and sums again, which take memory
but little time (selective recomputation, arXiv 2205.05198).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from videofib.attention.op import forward as sparse_attention
from videofib.attention.pattern_op import OPERATOR as PATTERN_ATTENTION

RECOMPUTE = ("block", "cheap")
_aten = torch.ops.aten
_COSTLY = [
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    sparse_attention,
    PATTERN_ATTENTION,
]


def recomputed(function: Callable[..., Any], *args: object, recompute: str) -> Any:
    """``function(*args)``, parts of which the backward pass computes again, with the same random numbers.

    Tensors may be nested in tuples, lists and dicts in the arguments and the result; gradients pass through all.
    """
    options: dict[str, Any] = {}
    if recompute == "cheap":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _COSTLY)
    return checkpoint(function, *args, use_reentrant=False, **options)
