"""What a mixer is, and what it is built from.

A mixer exchanges information between tokens; everything else in a block works token by token. It is a module with ::

    forward(x, grid, state) -> (y, state)

    x, y    (B, P+N, D), the P prefix tokens (class token, registers) first
    grid    (t, h, w) with N = t·h·w; the tokens lie in the order ``LayerSpec.order``. Attention over time gets
            (t, 1, 1), and attention within frames (1, h, w), with those axes it does not mix folded into B
    state   what the mixers of earlier blocks returned in this forward pass, a tensor or a nesting of tuples, lists and
            dicts of tensors; None in the first block. A mixer without state of its own returns it unchanged

State is an input and an output, never an attribute, so that a block computed again in the backward pass sees the same.

A mixer may have three more methods: ``reset_parameters()``, for other initial weights than those of the model (linear
layers: normal weights, zero biases); ``no_weight_decay()``, names of parameters that should not decay; and
``share_tokens(context)``, which a mixer that serves ``slices`` must have.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import nn

Grid = tuple[int, int, int]  # t, h, w

NEEDS = ("grid", "prefix", "fixed_tokens", "state")
SERVES = ("class_token", "slices")


@dataclass(frozen=True)
class LayerSpec:
    """The layer of a model that a mixer is built for.

    Attributes:
        dim: D, the width of tokens.
        num_heads: attention heads; a mixer without heads ignores it.
        num_prefix_tokens: P.
        grid: (t, h, w) of the clips that the model is built for. ``forward`` gets other grids, too, unless the mixer
            needs ``fixed_tokens``.
        order: how N = t·h·w tokens are laid out, ``"h w t"`` or ``"t h w"``.
        index, depth: the block, from 0, and the number of blocks.
        pooling: where the model's features come from: ``class_token`` (one of the prefix tokens), ``mean`` (of the
            patches) or ``class_attention`` (a class token that reads the patches after the blocks).
        qkv_bias: whether projections to queries, keys and values have a bias.
        qk_norm: None, or the epsilon of layer norms over each head's queries and keys.
        attn_drop, proj_drop: dropout of attention weights and of the output, in training.
        backend: of :func:`videofib.attention.sparse_attention`.
    """

    dim: int
    num_heads: int
    num_prefix_tokens: int
    grid: Grid
    order: str = "h w t"
    index: int = 0
    depth: int = 1
    pooling: str = "mean"
    qkv_bias: bool = True
    qk_norm: float | None = None
    attn_drop: float = 0.0
    proj_drop: float = 0.0
    backend: str = "auto"


@dataclass(frozen=True)
class Mixer:
    """A row of the table of mixers.

    Attributes:
        build: ``build(layer, **options)`` returns the module for a :class:`LayerSpec`; its keyword-only parameters are
            the mixer's options.
        paper: where the mechanism is published.
        multiply_adds: ``multiply_adds(module, grid)`` of one sequence of tokens.
        needs: a subset of ``NEEDS``. ``grid``: the output depends on (t, h, w), not on N alone; ``prefix``: tokens
            exchange information through prefix tokens, so there must be one; ``fixed_tokens``: parameters are made for
            the N of ``LayerSpec.grid``; ``state``: it reads or writes what blocks hand on.
        serves: a subset of ``SERVES``. ``class_token``: prefix tokens see the patches, so features may come from the
            class token; ``slices``: processes may each hold a slice of the tokens (context parallelism).
    """

    build: Callable[..., nn.Module]
    paper: str
    multiply_adds: Callable[..., int]
    needs: frozenset[str] = frozenset()
    serves: frozenset[str] = frozenset()

    def __post_init__(self):
        for word in self.needs:
            check_name("need of a mixer", word, NEEDS)
        for word in self.serves:
            check_name("service of a mixer", word, SERVES)

    @property
    def options(self) -> dict[str, object]:
        """Names of the options, with their defaults."""
        parameters = inspect.signature(self.build).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def check_name(what: str, name: object, known: Collection[str]) -> None:
    """Raise ValueError where ``name`` is not one of the known ones; the message suggests the nearest."""
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}{suggestion(name, known)}; known: {', '.join(known)}")


def suggestion(name: object, known: Collection[str]) -> str:
    """``; did you mean 'w_min'?`` where a known name is near, or nothing."""
    nearest = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
