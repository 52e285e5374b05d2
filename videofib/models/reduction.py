"""Fewer tokens behind some blocks of a transformer, and what that asks of the blocks there.

A reduction is a module with the interface of a block ::

    reduction(x, grid, memory) -> (x, memory)

    x       (B, P+N, D) -> (B, P+n, D); prefix tokens pass as they are
    memory  holds the grid of the n tokens under GRID

and two attributes: ``keeps_places``, whether the n tokens are a smaller grid of patches still (where not, they are n/t
tokens without a place in each of t frames, and their grid is (t, n/t, 1), with t = 1 where they are of no frame); and
``grid_after(grid)``, the (t, h, w) that it makes of another. It stands behind a block (``Stack.outputs``), or within
one, between mixer and MLP (``TokenwiseBlock.reduction``).

Axes: B batch, P prefix tokens, N patches, n tokens that are left, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch import nn

from videofib.mixers import MIXERS, Grid, MixerChoice
from videofib.mixers.mixer import suggestion

# Mixers for tokens without places: their order is nothing to these, or, to Linformer, that of any list.
PLACELESS_MIXERS = ("none", "dense", "bixt", "efficient", "linformer", "performer", "topk", "tost", "xcit")


class Reduction(nn.Module):
    """Fewer tokens instead of some, see above."""

    keeps_places: bool

    def grid_after(self, grid: Grid) -> Grid:
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Set what starts from other values than the model's linear layers."""


class Reductions(nn.ModuleDict):
    """By the index of a block, the reduction behind it.

    Args:
        after: indices of blocks, from 0, rising.
        make: makes the reduction of tokens on a grid (t, h, w); called with how many reductions precede it, and that.
        grid: (t, h, w) of the tokens of the first block.
        depth: the number of blocks.

    Attributes:
        grids: (t, h, w) of the tokens that each block takes.

    Raises:
        ValueError: blocks that there are not, or a grid that cannot be reduced so often.
    """

    def __init__(
        self,
        after: Sequence[int] = (),
        make: Callable[[int, Grid], Reduction] | None = None,
        *,
        grid: Grid,
        depth: int,
    ):
        super().__init__()
        _check_blocks(after, depth)
        self.grids: list[Grid] = []
        for index in range(depth):
            self.grids.append(grid)
            if index in after:
                assert make is not None
                self[str(index)] = reduction = make(len(self), grid)
                grid = reduction.grid_after(grid)

    def reset_parameters(self) -> None:
        """What differs from the model's initial values of linear layers."""
        for reduction in self.values():
            cast(Reduction, reduction).reset_parameters()

    def no_weight_decay(self) -> set[str]:
        """Parameters an optimizer should not decay, besides the one-dimensional ones."""
        return {f"{index}.scale" for index, reduction in self.items() if hasattr(reduction, "scale")}

    def first_placeless(self) -> int | None:
        """The index of the first block behind which tokens have no place; None: they always have one."""
        return next((int(index) for index, reduction in self.items() if not reduction.keeps_places), None)

    def check(self, mixers: MixerChoice, local_interaction: str) -> None:
        """Raise ValueError where the blocks behind a reduction cannot do with what it leaves.

        Args:
            mixers, local_interaction: of the model.
        """
        first = min(map(int, self), default=None)
        if first is None:
            return
        placeless = self.first_placeless()
        if placeless is not None and local_interaction != "none":
            raise ValueError(
                f"tokens behind block {placeless} have no neighbours, and all blocks mix those of a patch; set "
                f"local_interaction='none', got {local_interaction!r}"
            )
        for kind, names in mixers.names.items():
            for index, name in list(enumerate(names))[first + 1 :]:
                where = f"{kind}_attention={name!r} of block {index}"
                if "state" in MIXERS[name].needs:
                    raise ValueError(
                        f"{where} continues what earlier blocks found of more tokens, and there are fewer behind block "
                        f"{first}; set {kind}_attention to another mixer there"
                    )
                is_behind = placeless is not None and index > placeless and kind != "time"
                if is_behind and name not in PLACELESS_MIXERS:
                    raise ValueError(
                        f"{where} mixes tokens by their places, which they do not have behind block {placeless}; set "
                        f"{kind}_attention of the blocks behind it to one of {', '.join(PLACELESS_MIXERS)}"
                    )


def check_options(mode: str, constructor: Callable[..., Any], own: int, options: Mapping[str, object]) -> None:
    """Raise ValueError for an option that the constructor of a mode does not have, and for one that is missing.

    Args:
        mode: its name, for messages.
        constructor: whose parameters are the options, but for the first ``own``.
    """
    parameters = list(inspect.signature(constructor).parameters.values())[own:]
    known = [p.name for p in parameters]
    for name, value in options.items():
        if name not in known:
            raise ValueError(
                f"{mode} has no option {name!r} (got {name}={value!r}){suggestion(name, known)}; its options: "
                f"{', '.join(known)}"
            )
    if missing := [p.name for p in parameters if p.default is p.empty and p.name not in options]:
        raise ValueError(
            f"{mode} needs the option {missing[0]!r}, got {dict(options)}; its options: {', '.join(known)}"
        )


def _check_blocks(after: Sequence[int], depth: int) -> None:
    for index in after:
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < depth:
            raise ValueError(f"after lists indices of blocks, 0 to {depth - 1}, got {list(after)}")
    if list(after) != sorted(set(after)):
        raise ValueError(f"after names each block once, in rising order, got {list(after)}")
