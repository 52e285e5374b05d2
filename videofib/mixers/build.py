"""From names and options to the mixers of a model, or to one line that says what they cannot do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from videofib.mixers.mixer import Grid, LayerSpec, check_name
from videofib.mixers.options import check_options
from videofib.mixers.table import MIXERS, NONE


class MixerChoice:
    """The mixers of a model.

    Args:
        names: for each kind of attention ("space", "time", "joint") the name of its mixer, or a name for each block.
            Messages call the setting of a kind ``space_attention`` and so on.
        options: for the name of a mixer its options; the mixer need not be among those chosen.
        depth: the number of blocks.

    Raises:
        ValueError: an unknown mixer or option (the message suggests the nearest), a value of another type, not one name
            for each block, or blocks that mix over time and not in space, or the other way round.
    """

    def __init__(
        self,
        names: Mapping[str, str | Sequence[str]],
        options: Mapping[str, Mapping[str, object]],
        depth: int = 1,
    ):
        self.names = {kind: _of_blocks(f"{kind}_attention", given, depth) for kind, given in names.items()}
        self.options = {name: dict(values) for name, values in options.items()}
        for name, values in self.options.items():
            check_name("mixer in mixer_options", name, MIXERS)
            check_options(name, MIXERS[name], values)
        self._check_none(depth)

    def _check_none(self, depth: int) -> None:
        for index in range(depth):
            without = [kind for kind, names in self.names.items() if names[index] == NONE]
            if 0 < len(without) < len(self.names):
                other = next(kind for kind in self.names if kind not in without)
                raise ValueError(
                    f"block {index} has {without[0]}_attention={NONE!r} and "
                    f"{other}_attention={self.names[other][index]!r}; set both to {NONE!r}, or neither"
                )
        if depth and all(names == (NONE,) * depth for names in self.names.values()):
            settings = " and ".join(f"{kind}_attention" for kind in self.names)
            raise ValueError(f"no block mixes tokens: {settings} is {NONE!r} for all of them; name a mixer for some")

    def mixes(self, index: int) -> bool:
        """Whether a block has mixers; one without has its MLP alone."""
        return any(names[index] != NONE for names in self.names.values())

    def build(self, kind: str, layer: LayerSpec) -> nn.Module:
        """The mixer of one layer.

        Raises:
            ValueError: a bad value of an option, or a layer that the mixer does not serve.
        """
        name, setting = self.names[kind][layer.index], f"{kind}_attention"
        mixer = MIXERS[name]
        if "prefix" in mixer.needs and not layer.num_prefix_tokens:
            raise ValueError(
                f"{setting}={name!r} mixes through prefix tokens, and this attention has none; set class_token=True or "
                f"num_registers (which attention over time never sees), or another {setting}"
            )
        if layer.pooling == "class_token" and layer.num_prefix_tokens and "class_token" not in mixer.serves:
            raise ValueError(
                f"{setting}={name!r} does not show the patches to a class token, and pooling is 'class_token'; set "
                "pooling='mean' or 'class_attention'"
            )
        return mixer.build(layer, **self.options.get(name, {}))

    def settings(self) -> dict[str, object]:
        """Names and options as given; empty where all attention is dense."""
        if self.used() == ["dense"]:
            return {}
        others = [name for name in self.used() if name not in ("dense", NONE)]
        options = {
            option if len(others) == 1 else f"{name}.{option}": value
            for name in others
            for option, value in self.options.get(name, {}).items()
        }
        return {**{kind: _shown(names) for kind, names in self.names.items()}, **options}

    def used(self) -> list[str]:
        """The names of all mixers, each once."""
        return list(dict.fromkeys(name for names in self.names.values() for name in names))

    def check_grid(self, built: Grid, grid: Grid) -> None:
        """Raise ValueError where clips have another (t, h, w) than the one that a mixer's parameters are made for."""
        if grid != built and (found := self._first(lambda name: "fixed_tokens" in MIXERS[name].needs)):
            kind, name = found
            raise ValueError(
                f"{kind}_attention={name!r} takes only clips of the size that the model is built for, (t, h, w) = "
                f"{built} tokens, got {grid}; set img_size and num_frames for these clips, or another "
                f"{kind}_attention"
            )

    def check_slices(self) -> None:
        """Raise ValueError where a mixer needs all tokens of a clip in one process."""
        if found := self._first(lambda name: "slices" not in MIXERS[name].serves):
            kind, name = found
            others = " or ".join(
                repr(other) for other, mixer in MIXERS.items() if "slices" in mixer.serves and other != NONE
            )
            raise ValueError(
                f"{kind}_attention={name!r} needs all tokens of a clip in one process, and processes are to share "
                f"them; set {kind}_attention to {others}, or let one process compute each clip"
            )

    def _first(self, is_wanted: Callable[[str], bool]) -> tuple[str, str] | None:
        """The first (kind, name) whose name is wanted."""
        return next(
            ((kind, name) for kind, names in self.names.items() for name in dict.fromkeys(names) if is_wanted(name)),
            None,
        )


def _of_blocks(setting: str, given: str | Sequence[str], depth: int) -> tuple[str, ...]:
    """The name of each block's mixer."""
    names = (given,) * depth if isinstance(given, str) else tuple(given)
    for name in dict.fromkeys(names):
        check_name(setting, name, MIXERS)
    if len(names) != depth:
        raise ValueError(f"{setting} names the mixers of {len(names)} blocks, and the model has {depth}: {list(names)}")
    return names


def _shown(names: tuple[str, ...]) -> str | list[str]:
    """One name where all blocks have it."""
    return names[0] if len(set(names)) == 1 else list(names)
