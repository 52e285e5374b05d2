"""Attention along diagonals that are not Fibonacci-spaced: what Fibottention is compared with, at any cost.

Where the number that fixes the cost (``radius``, ``stride``) is None, it is the one whose density is nearest to that of
Fibottention with as many heads and tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from videofib.attention import Support
from videofib.mixers.mixer import LayerSpec, Mixer
from videofib.mixers.support_attention import SupportAttention


class WindowAttention(SupportAttention):
    """Every head sees the same window of neighbours in the sequence (arXiv 2004.05150, section 3.1).

    Args:
        layer: the layer it is built for.
        radius: neighbours on either side, which is half of Longformer's window size; None: at Fibottention's density.
        dilation: distance between them.
        include_self: whether a token sees itself.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(self, layer: LayerSpec, *, radius: int | None = None, dilation: int = 1, include_self: bool = True):
        make = partial(
            Support.window,
            layer.num_heads,
            radius=radius,
            dilation=dilation,
            include_self=include_self,
            num_prefix_tokens=layer.num_prefix_tokens,
            matching="fibottention",
        )
        super().__init__(layer, make, backend=layer.backend)


class DilatedAttention(SupportAttention):
    """A window with another dilation in each head (arXiv 2004.05150, section 3.1).

    Args:
        layer: the layer it is built for.
        radius: as of :class:`WindowAttention`.
        dilations: one for each head; by default 1, 2, 3, …
        include_self: whether a token sees itself.

    Raises:
        ValueError: a number out of range, or not one dilation for each head.
    """

    def __init__(
        self,
        layer: LayerSpec,
        *,
        radius: int | None = None,
        dilations: Sequence[int] | None = None,
        include_self: bool = True,
    ):
        dilations = tuple(dilations or range(1, layer.num_heads + 1))
        if len(dilations) != layer.num_heads:
            raise ValueError(f"need one dilation for each of {layer.num_heads} heads, got {dilations}")

        make = partial(
            Support.dilated,
            radius=radius,
            dilations=dilations,
            include_self=include_self,
            num_prefix_tokens=layer.num_prefix_tokens,
            matching="fibottention",
        )
        super().__init__(layer, make, backend=layer.backend)


class StridedAttention(SupportAttention):
    """Near tokens, and those a multiple of the stride away (arXiv 1904.10509, section 4.2), in both directions.

    Args:
        layer: the layer it is built for.
        stride: None: at Fibottention's density.
        radius: near tokens on either side.
        split_heads: near and far tokens in alternate heads, instead of both in all.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(self, layer: LayerSpec, *, stride: int | None = None, radius: int = 1, split_heads: bool = False):
        make = partial(
            Support.strided,
            layer.num_heads,
            stride=stride,
            radius=radius,
            split_heads=split_heads,
            num_prefix_tokens=layer.num_prefix_tokens,
            matching="fibottention",
        )
        super().__init__(layer, make, backend=layer.backend)


class SharedOffsets(SupportAttention):
    """All heads have the same offsets: the ablation of Fibottention's diversity of heads (arXiv 2406.19391).

    Args:
        layer: the layer it is built for.
        offsets: None: those of Fibottention's head 1.
        w_min, variant: of that head, see :meth:`videofib.attention.Support.fibottention`.

    Raises:
        ValueError: a number out of range, an unknown name.
    """

    def __init__(
        self,
        layer: LayerSpec,
        *,
        offsets: Sequence[int] | None = None,
        w_min: int = 5,
        variant: str = "wythoff",
    ):
        make = partial(
            Support.shared,
            layer.num_heads,
            offsets=offsets,
            w_min=w_min,
            variant=variant,
            num_prefix_tokens=layer.num_prefix_tokens,
        )
        super().__init__(layer, make, backend=layer.backend)


def _mixer(build: type[SupportAttention], paper: str) -> Mixer:
    return Mixer(
        build=build,
        paper=paper,
        multiply_adds=build.multiply_adds,
        serves=frozenset({"class_token", "slices"}),
    )


WINDOW = _mixer(WindowAttention, "arXiv 2004.05150")
DILATED = _mixer(DilatedAttention, "arXiv 2004.05150")
STRIDED = _mixer(StridedAttention, "arXiv 1904.10509")
SHARED = _mixer(SharedOffsets, "arXiv 2406.19391")
