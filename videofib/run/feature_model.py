"""A model that gives features in place of logits.

B clips, T H W frames, height, width, t frames or tubelets, N tokens, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from einops import reduce
from torch import Tensor, nn

from videofib.metrics.feature_kinds import KINDS
from videofib.models.intermediates import taken_blocks

LAST = -1  # block


class FeatureModel(nn.Module):
    """A model without its classifier: clips (B, C, T, H, W) -> features of a kind, normalised by the last norm.

    ``pooled`` (B, D) is what the classifier sees, or would see if ``block`` were the last. ``tokens`` (B, N, D) are the
    patches or tubelets, frame after frame, without class token and registers; ``frames`` (B, t, D) is their mean over
    each frame or layer of tubelets.

    Args:
        model: with ``forward_features``; for other kinds and blocks also with ``forward_intermediates``.
        kind: of ``KINDS``.
        block: counted from 0, or from the end below 0.

    Raises:
        ValueError: the model does not give these features, or there is no such kind or block.
    """

    def __init__(self, model: nn.Module, kind: str = "pooled", block: int = LAST):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"unknown kind of features {kind!r}; it must be one of {', '.join(KINDS)}")
        name = type(model).__name__
        if not hasattr(model, "forward_features"):
            raise ValueError(f"{name} has no features in front of its classifier to return")
        self.from_inside = (kind, block) != ("pooled", LAST)
        # the stages of baselines are not blocks of tokens of one width and norm
        if self.from_inside and (not hasattr(model, "forward_intermediates") or hasattr(model, "num_stages")):
            raise ValueError(f"{name} returns the pooled features of its last block alone; got kind={kind}, {block=}")
        blocks: Any = getattr(model, "blocks", ())
        (self.block,) = taken_blocks(len(blocks), [block]) if self.from_inside else (block,)
        self.inner, self.kind = model, kind

    def forward(self, video: Tensor) -> Tensor:
        if not self.from_inside:
            forward: Callable[[Tensor], Tensor] = getattr(self.inner, "forward_features")  # noqa: B009, mypy sees a Tensor
            return forward(video)
        intermediates: Callable[..., Any] = getattr(self.inner, "forward_intermediates")  # noqa: B009
        layout = "NCTHW" if self.kind == "frames" else "NLC"
        pooled, (found,) = intermediates(video, [self.block], norm=True, stop_early=True, output_fmt=layout)
        if self.kind == "pooled":
            return pooled
        return reduce(found, "b d t h w -> b t d", "mean") if self.kind == "frames" else found
