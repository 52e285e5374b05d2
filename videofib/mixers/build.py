"""From names and options to the mixers of a model, or to one line that says what they cannot do."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from videofib.mixers.mixer import Grid, LayerSpec, check_name, suggestion
from videofib.mixers.table import MIXERS


class MixerChoice:
    """The mixers of a model.

    Args:
        names: for each kind of attention ("space", "time", "joint") the name of its mixer. Messages call the setting
            of a kind ``space_attention`` and so on.
        options: for the name of a mixer its options; the mixer need not be among those chosen.

    Raises:
        ValueError: an unknown mixer or option; the message suggests the nearest.
    """

    def __init__(self, names: Mapping[str, str], options: Mapping[str, Mapping[str, object]]):
        self.names = dict(names)
        self.options = {name: dict(values) for name, values in options.items()}
        for kind, name in self.names.items():
            check_name(f"{kind}_attention", name, MIXERS)
        for name, values in self.options.items():
            check_name("mixer in mixer_options", name, MIXERS)
            _check_options(name, values)

    def build(self, kind: str, layer: LayerSpec) -> nn.Module:
        """The mixer of one layer.

        Raises:
            ValueError: a bad value of an option, or a layer that the mixer does not serve.
        """
        name, setting = self.names[kind], f"{kind}_attention"
        mixer = MIXERS[name]
        if "prefix" in mixer.needs and not layer.num_prefix_tokens:
            raise ValueError(
                f"{setting}={name!r} mixes through prefix tokens, and this attention has none; set class_token=True or "
                f"num_registers (which attention over time never sees), or another {setting}"
            )
        if layer.pooling == "class_token" and layer.num_prefix_tokens and "class_token" not in mixer.serves:
            raise ValueError(
                f"{setting}={name!r} does not show the patches to a class token, and pooling is 'class_token'; set "
                "pooling='mean'"
            )
        return mixer.build(layer, **self.options.get(name, {}))

    def settings(self) -> dict[str, object]:
        """Names and options as given; empty where all attention is dense."""
        others = list(dict.fromkeys(name for name in self.names.values() if name != "dense"))
        options = {
            option if len(others) == 1 else f"{name}.{option}": value
            for name in others
            for option, value in self.options.get(name, {}).items()
        }
        return {**self.names, **options} if others else {}

    def check_grid(self, built: Grid, grid: Grid) -> None:
        """Raise ValueError where clips have another (t, h, w) than the one that a mixer's parameters are made for."""
        for kind, name in self.names.items():
            if grid != built and "fixed_tokens" in MIXERS[name].needs:
                raise ValueError(
                    f"{kind}_attention={name!r} takes only clips of the size that the model is built for, (t, h, w) = "
                    f"{built} tokens, got {grid}; set img_size and num_frames for these clips, or another "
                    f"{kind}_attention"
                )

    def check_slices(self) -> None:
        """Raise ValueError where a mixer needs all tokens of a clip in one process."""
        for kind, name in self.names.items():
            if "slices" not in MIXERS[name].serves:
                others = " or ".join(repr(other) for other, mixer in MIXERS.items() if "slices" in mixer.serves)
                raise ValueError(
                    f"{kind}_attention={name!r} needs all tokens of a clip in one process, and processes are to share "
                    f"them; set {kind}_attention to {others}, or let one process compute each clip"
                )


def _check_options(name: str, options: Mapping[str, object]) -> None:
    known = MIXERS[name].options
    for option, value in options.items():
        if option not in known:
            raise ValueError(
                f"mixer {name!r} has no option {option!r} (got {option}={value!r}){suggestion(option, known)}; "
                f"its options: {', '.join(known) or 'none'}"
            )
