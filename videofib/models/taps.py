"""What layers inside a model return while it computes, whoever runs it: for losses on features and on attention.

Axes: B clips, t h w grid of patches or tubelets, P prefix tokens, N patches, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from einops import EinopsError
from torch import Tensor, nn

from videofib.models.intermediates import Layout, taken_blocks
from videofib.models.timesformer import TimeSformer

Name = TypeVar("Name")


class PatchTaps:
    """The patches that chosen blocks return, while somebody computes the model, wrapped for several processes or not.

    Hooks see what a block returns wherever it is called, so that a model need compute a batch once for its logits and
    its features. They do not see into a compiled model.

    Args:
        model: a TimeSformer.
        blocks: their indices, counted from the end below 0; one may be named several times.
        whose: what to call the model in messages.

    Raises:
        ValueError: no such block, another kind of model, or processes share the tokens of a clip.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[int], whose: str = "the model"):
        self.model, self.whose = _timesformer(model, whose), whose
        self.blocks = taken_blocks(len(self.model.blocks), blocks)
        self.model.tokens.check_all()

    @contextmanager
    def watching(self, clips: Tensor) -> Iterator[dict[int, Tensor]]:
        """Within the block, a pass of clips (B, C, T, H, W) leaves by block feature maps (B, D, t, h, w).

        Raises:
            ValueError: during the pass, where a block returns other tokens than all patches.
        """
        model = self.model
        grid = model.patch_embed.grid_of(clips)
        layout = Layout(grid, model.num_prefix_tokens, model.order, model.single_frames)

        def feature_map(index: int, output: Any) -> Tensor:
            try:
                return layout.split(output[0], "NCTHW")[0]
            except EinopsError as error:
                raise ValueError(
                    f"block {index} of {self.whose} returns tokens {tuple(output[0].shape)} of clips whose grid is "
                    f"{grid}, so there is no feature for each patch; choose a block that keeps all patches"
                ) from error

        modules = {index: model.blocks[index] for index in self.blocks}
        with watched(modules, feature_map) as kept:
            yield kept


class AttentionTaps:
    """What the mixers of a model's blocks return for the patches: of joint attention, or of attention within frames.

    Args:
        model: a TimeSformer.
        whose: what to call it in messages.

    Raises:
        ValueError: another kind of model, or one without a mixer.
    """

    def __init__(self, model: nn.Module, whose: str = "the model"):
        model = _timesformer(model, whose)
        self.num_prefix_tokens = model.num_prefix_tokens
        self.mixers = {name: mixer for name, mixer in model.blocks.mixers().items() if name.endswith(".attn")}
        if not self.mixers:
            raise ValueError(f"no block of {whose} mixes patches, so there is no attention to look at")
        model.tokens.check_all()

    @contextmanager
    def watching(self) -> Iterator[dict[str, Tensor]]:
        """Within the block, a pass leaves by the name of a mixer its patches (B, N, D), of frames (B·t, h·w, D)."""
        with watched(self.mixers, lambda name, output: output[0][:, self.num_prefix_tokens :]) as kept:
            yield kept


@contextmanager
def watched(modules: Mapping[Name, nn.Module], value: Callable[[Name, Any], Tensor]) -> Iterator[dict[Name, Tensor]]:
    """Within the block, each pass of one of the modules leaves ``value(name, output)`` under its name."""
    kept: dict[Name, Tensor] = {}
    with ExitStack() as hooks:
        for name, module in modules.items():

            def keep(module: nn.Module, args: Any, output: Any, name: Name = name) -> None:
                kept[name] = value(name, output)

            hooks.enter_context(module.register_forward_hook(keep))
        yield kept


def _timesformer(model: nn.Module, whose: str) -> TimeSformer:
    if not isinstance(model, TimeSformer):
        raise ValueError(f"the inside of a TimeSformer alone can be looked at, and {whose} is a {type(model).__name__}")
    return model
