"""Attention to each token's most similar tokens, which all blocks of a stage share (SemanIR, arXiv 2405.20008).

Axes: b batch, n = p+N tokens, prefix first, D width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from videofib.attention.autocast import disabled
from videofib.mixers.biased_attention import BiasedAttention
from videofib.mixers.mixer import Grid, LayerSpec, Mixer, check_name

STATE = "semanir"  # the entry of the state that holds the key sets of the stage
KEYS = 49  # in a set, unless there are few patches
SIMILARITIES = ("dot", "cosine")


class KeySemantics(BiasedAttention):
    """Self-attention of each patch over its key set: the k patches most similar to it where the stage begins.

    The first block of every ``stage`` blocks compares its inputs (the paper's key-semantic dictionary), and hands
    the key sets on in the state; in all blocks of the stage, queries, keys and values are those of the block. The
    choice is not learned. Prefix tokens see all tokens and are seen by all, and take no part in the comparison.

    A mask hides the other pairs, as in the published training, so memory and time are those of dense attention. With k
    >= N attention is dense.

    Args:
        layer: the layer it is built for; its index says whether a stage begins.
        k: patches in a key set; None: 49, or half the patches where these are fewer.
        stage: blocks that share key sets.
        similarity: ``dot``, the products of tokens as published, which favour long ones, or ``cosine``.

    Raises:
        ValueError: k or stage below 1, an unknown similarity, a width that the heads do not divide.
    """

    def __init__(self, layer: LayerSpec, *, k: int | None = None, stage: int = 6, similarity: str = "dot"):
        super().__init__(layer)
        if (k is not None and k < 1) or stage < 1:
            raise ValueError(f"a key set has at least one patch and a stage one block, got k={k}, stage={stage}")
        check_name("similarity", similarity, SIMILARITIES)
        self.k, self.stage, self.similarity = k, stage, similarity
        self.begins_stage = layer.index % stage == 0

    @torch.no_grad()
    def key_sets(self, patches: Tensor) -> Tensor:
        """The indices of the k most similar patches of each: (b, N, D) -> (b, N, k), in any order.

        They are chosen in at least 32 bits: fewer would make ties, which the backward pass might break otherwise.
        """
        with disabled(patches.device.type):
            patches = patches.to(torch.promote_types(patches.dtype, torch.float32))
            if self.similarity == "cosine":
                patches = F.normalize(patches, dim=-1)
            return torch.topk(patches @ patches.mT, self.size_of(patches.shape[1]), sorted=False).indices

    def size_of(self, num_patches: int) -> int:
        """k for N patches."""
        return min(KEYS, max(1, int(num_patches) // 2)) if self.k is None else self.k

    def visible(self, keys: Tensor) -> Tensor:
        """(b, N, k) -> (b, 1, p+N, p+N), True where a query (row) sees a key: its key set, and all that is prefix."""
        batch, patches, _ = keys.shape
        visible = keys.new_zeros(batch, patches, patches, dtype=torch.bool).scatter_(-1, keys, 1)
        prefix = self.num_prefix_tokens
        return F.pad(visible, (prefix, 0, prefix, 0), value=True).unsqueeze(1)

    def forward(self, x: Tensor, grid: Grid, state: Any = None) -> tuple[Tensor, Any]:
        """(b, p+N, D) -> (b, p+N, D), and a state with the key sets of the stage beside what other mixers left.

        Raises:
            ValueError: the state holds no key sets for these tokens.
        """
        patches = x[:, self.num_prefix_tokens :]
        if self.size_of(patches.shape[1]) >= patches.shape[1]:
            return self.attend(x), state
        if self.begins_stage:
            state = {**(state or {}), STATE: self.key_sets(patches)}
        keys = (state or {}).get(STATE)
        if keys is None or keys.shape[:2] != patches.shape[:2]:
            found = "none" if keys is None else f"those of {tuple(keys.shape[:2])}"
            raise ValueError(
                f"key sets come from the first block of a stage, and this one needs those of (batch, tokens) = "
                f"{tuple(patches.shape[:2])}, got {found}; hand on the state of the block before"
            )
        return self.attend(x, self.visible(keys)), state

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: those of dense attention, as masked pairs are computed, and where a stage begins N²·D."""
        patches = math.prod(grid)
        compared = patches**2 * self.proj.in_features if self.begins_stage and self.size_of(patches) < patches else 0
        return super().multiply_adds(grid) + compared


MIXER = Mixer(
    build=KeySemantics,
    paper="arXiv 2405.20008",
    multiply_adds=KeySemantics.multiply_adds,
    needs=frozenset({"state"}),
    serves=frozenset({"class_token"}),
)
