"""Fibottention: every head looks along its own Fibonacci-spaced diagonals (arXiv 2406.19391)."""

from __future__ import annotations

from functools import partial

from videofib.attention import Support
from videofib.mixers.mixer import LayerSpec, Mixer
from videofib.mixers.support_attention import SupportAttention


class Fibottention(SupportAttention):
    """Self-attention over Fibottention's support.

    Args:
        layer: the layer it is built for; its index seeds ``head_order="per_layer"``.
        w_min, w_max, variant, head_order: see :meth:`videofib.attention.Support.fibottention`.
        masking: see :func:`videofib.attention.sparse_attention`.

    Raises:
        ValueError: a window out of range, an unknown name.
    """

    def __init__(
        self,
        layer: LayerSpec,
        *,
        w_min: int = 5,
        w_max: int | None = None,
        variant: str = "wythoff",
        head_order: str = "none",
        masking: str = "exclude",
    ):
        support = partial(
            Support.fibottention,
            layer.num_heads,
            w_min=w_min,
            w_max=w_max,
            variant=variant,
            num_prefix_tokens=layer.num_prefix_tokens,
            head_order=head_order,
            layer_index=layer.index,
        )
        super().__init__(layer, support, masking=masking, backend=layer.backend)


MIXER = Mixer(
    build=Fibottention,
    paper="arXiv 2406.19391",
    multiply_adds=Fibottention.multiply_adds,
    serves=frozenset({"class_token", "slices"}),
)
