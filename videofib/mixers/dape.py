"""DAPE V2: softmax attention whose scores are convolved as feature maps (arXiv 2410.04798).

Axes: B batch, H heads, S = P+N tokens, n some of the queries, D width, M channels between the convolutions, m cells of
their kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from videofib.mixers.mixer import Grid, LayerSpec, Mixer, check_name
from videofib.mixers.score_biases import BIASES
from videofib.mixers.scored_attention import ScoredAttention


class DapeAttention(ScoredAttention):
    """Self-attention in which a score depends on those of the same query with neighbouring keys, in all heads.

    Only scores between patches are convolved, and biased by distance; those of and with prefix tokens stay as they
    are. Without a bias the convolutions take M·m·H/D times as many multiply-adds as attention does over all pairs (1.5
    times for 12 heads, D = 768 and the defaults), and with one half as many again; so it is meant for short sequences
    such as frames or lines over time. Memory is bounded by computing a few queries at a time.

    Args:
        layer: the layer it is built for.
        width: M.
        kernel, grid_kernel, zero_init: see :class:`~videofib.mixers.score_convolution.ScoreConvolution`.
        position_bias: ``none``, or ``alibi``, ``kerple`` or ``fire`` of the distance of two tokens.
        causal: a token sees only those up to itself in the order of the layer, as in the published language models.

    Raises:
        ValueError: a bad option; causal attention with prefix tokens, through which later tokens would reach others.
    """

    def __init__(
        self,
        layer: LayerSpec,
        *,
        width: int = 32,
        kernel: int = 3,
        grid_kernel: tuple[int, int, int] | None = None,
        position_bias: str = "none",
        causal: bool = False,
        zero_init: bool = False,
    ):
        super().__init__(layer)
        check_name("position_bias", position_bias, BIASES)
        if causal and layer.num_prefix_tokens:
            raise ValueError(
                f"causal attention has no prefix tokens, got causal=True, num_prefix_tokens={layer.num_prefix_tokens}; "
                "set causal=False, or class_token=False and no registers"
            )
        self.causal = causal
        self.dape = BIASES[position_bias](
            layer, width=width, kernel=kernel, grid_kernel=grid_kernel, causal=causal, zero_init=zero_init
        )

    def reset_parameters(self) -> None:
        """Convolutions and biases of positions; the other weights are those of the model."""
        self.dape.reset_parameters()

    def no_weight_decay(self) -> set[str]:
        """Parameters of the position bias."""
        return {f"dape.{name}" for name in self.dape.no_weight_decay()}

    def numbers_per_score(self) -> float:
        """Scores and logits, each with a copy, and what lies between them."""
        return 4 + self.dape.numbers_per_score()

    def logits(self, scores: Tensor, first: int, grid: Grid) -> Tensor:
        """(B, H, n, S) -> the same: patches' rows and columns convolved, and masked where causal."""
        prefix, rows = self.num_prefix_tokens, scores.shape[2]
        above = min(max(prefix - first, 0), rows)  # rows of prefix tokens
        if above == rows:
            return scores
        patches = self.dape(scores[:, :, above:, prefix:], first + above - prefix, grid)
        if self.causal:
            later = torch.ones(patches.shape[-2:], dtype=torch.bool, device=patches.device).triu(first + 1)
            patches = patches.masked_fill(later, float("-inf"))
        if not prefix:
            return patches
        below = torch.cat([scores[:, :, above:, :prefix], patches], dim=3)
        return torch.cat([scores[:, :, :above], below], dim=2)

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: attention, the convolutions over N² scores, and what the bias of positions multiplies."""
        return super().multiply_adds(grid) + self.dape.multiply_adds(grid)


MIXER = Mixer(
    build=DapeAttention,
    paper="arXiv 2410.04798",
    multiply_adds=DapeAttention.multiply_adds,
    needs=frozenset({"grid"}),
    serves=frozenset({"class_token"}),
)
