"""Modes of a model in which blocks use the attention of earlier ones, and how their options become one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from videofib.mixers import Grid, LayerSpec, MixerChoice
from videofib.mixers.options import check_arguments
from videofib.models.blocks import BlockSpec, TokenwiseBlock
from videofib.models.build_blocks import build_block


class AcrossBlocks:
    """What blocks have of earlier ones; as it stands, nothing: each computes its own attention."""

    def check(self, attention_type: str, mixers: MixerChoice, layer: LayerSpec) -> None:
        """Raise ValueError where a model of this kind cannot have such blocks."""

    def block(
        self, attention_type: str, mixers: MixerChoice, layer: LayerSpec, spec: BlockSpec, drop_path: float
    ) -> TokenwiseBlock:
        """The block of index ``layer.index``, see :func:`~videofib.models.build_blocks.build_block`."""
        return build_block(attention_type, mixers, layer, spec, drop_path)

    def check_grid(self, built: Grid, grid: Grid) -> None:
        """Raise ValueError where clips have another (t, h, w) than the one that parameters are made for."""

    def check_slices(self) -> None:
        """Raise ValueError where processes cannot share the tokens of a clip."""

    def settings(self) -> dict[str, object]:
        """What attention is besides its mixers, empty where each block computes its own."""
        return {}


def across_blocks(modes: Mapping[str, tuple[Callable[..., AcrossBlocks], object]]) -> AcrossBlocks:
    """The mode whose options are not None, or blocks that compute their own attention.

    Args:
        modes: name -> constructor, and its options: a mapping, or a sequence that stands for its option ``blocks``.

    Raises:
        ValueError: more than one, an unknown option (the message suggests the nearest), a value of another type.
    """
    chosen = {name: mode for name, mode in modes.items() if mode[1] is not None}
    if len(chosen) > 1:
        raise ValueError(f"a block can use earlier attention in one way only, got {' and '.join(chosen)}; set one")
    for name, (build, given) in chosen.items():
        options = {"blocks": given} if isinstance(given, Sequence) else given
        if not isinstance(options, Mapping):
            raise ValueError(f"{name} takes a mapping of options, or None, got {name}={given!r}")
        check_arguments(name, build, options)
        return build(**options)
    return AcrossBlocks()
