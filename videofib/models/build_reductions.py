"""What reduces the tokens of a TimeSformer behind its blocks, by the options that it was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from videofib.mixers import LayerSpec, MixerChoice
from videofib.models.deformable_merging import deformable_merging
from videofib.models.merging import merge_tokens
from videofib.models.reduction import Reductions, check_options
from videofib.models.slimming import token_slimming

Options = Mapping[str, Any] | None


def build_reductions(
    attention_type: str,
    mixers: MixerChoice,
    layer: LayerSpec,
    local_interaction: str,
    slimming: Options,
    deformable: Options,
    merging: Options,
) -> Reductions:
    """The reductions behind blocks; none where tokens merge within them.

    Args:
        attention_type, mixers, local_interaction: of the model.
        layer: what the mixers of all blocks have in common.
        slimming, deformable, merging: options of the three ways, of which a model has one at most.

    Raises:
        ValueError: an unknown option, a value that cannot be used, or blocks that cannot do with what is left.
    """
    given = {"slimming": slimming, "deformable_merging": deformable, "merging": merging}
    chosen = [f"{name}={dict(options)}" for name, options in given.items() if options]
    if len(chosen) > 1:
        raise ValueError(f"a model reduces its tokens in one way, got {' and '.join(chosen)}; leave out all but one")
    length, height, width = layer.grid
    grid = (1 if attention_type == "space_only" else length, height, width)
    if merging:
        check_options("merging", merge_tokens, 1, merging)
    if slimming:
        check_options("slimming", token_slimming, 3, slimming)
        reductions = token_slimming(layer, attention_type, grid, **slimming)
    elif deformable:
        check_options("deformable_merging", deformable_merging, 2, deformable)
        reductions = deformable_merging(layer, grid, **deformable)
    else:
        return Reductions(grid=grid, depth=layer.depth)
    reductions.check(mixers, local_interaction)
    return reductions
