"""What the stages of a baseline return, from its clip to its last feature map.

Axes: B batch, t h w grid of a feature map, D its width, L = t·h·w, P prefix tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn

from videofib.mixers import check_name
from videofib.models.intermediates import FORMATS, taken_blocks


@dataclass(frozen=True)
class Asked:
    """What ``forward_intermediates`` is asked for.

    Attributes:
        stages: their numbers, in the order in which they are returned.
        stop: how many stages are computed, None for the whole network.
        output_fmt: of ``FORMATS``.
        with_prefix: pairs (patches, prefix) of networks that have prefix tokens.
    """

    stages: list[int]
    stop: int | None
    output_fmt: str
    with_prefix: bool

    @classmethod
    def of(
        cls,
        name: str,
        num_stages: int,
        indices: int | Sequence[int] | None,
        return_prefix_tokens: bool,
        stop_early: bool,
        output_fmt: str,
        intermediates_only: bool,
    ) -> Asked:
        """Raises ValueError where the network has no such stage, or the format is unknown."""
        check_name("output_fmt", output_fmt, FORMATS)
        wanted = taken_blocks(num_stages, indices)
        if stop_early and not intermediates_only:
            raise ValueError(
                f"stop_early leaves out stages that the features of {name} need; set intermediates_only=True, too"
            )
        return cls(wanted, max(wanted) + 1 if stop_early else None, output_fmt, return_prefix_tokens)

    def show_maps(self, maps: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """Feature maps (B, D, t, h, w), of one pathway or several -> the format, a tuple where there are several."""
        shown = tuple(rearrange(each, f"b d t h w -> {FORMATS[self.output_fmt]}").contiguous() for each in maps)
        return shown if len(shown) > 1 else shown[0]

    def show_tokens(self, tokens: Tensor, grid: Sequence[int], num_prefix: int) -> Tensor | tuple[Tensor, Tensor]:
        """Tokens (B, P+L, D), frame after frame -> the patches in the format, and the prefix if asked for."""
        length, height, width = grid
        patches = rearrange(
            tokens[:, num_prefix:],
            f"b (t h w) d -> {FORMATS[self.output_fmt]}",
            t=length,
            h=height,
            w=width,
        ).contiguous()
        return (patches, tokens[:, :num_prefix]) if self.with_prefix and num_prefix else patches


class Staged(nn.Module):
    """A network whose stages can be looked into."""

    @property
    def num_stages(self) -> int:
        """How many stages :meth:`forward_intermediates` knows."""
        raise NotImplementedError

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCTHW",
        intermediates_only: bool = False,
    ) -> list | tuple[Tensor, list]:
        """What stages return, in the manner of timm's models, and of :class:`~videofib.models.TimeSformer`.

        The stages of convolutional networks are the stem and each group of residual blocks; those of MViT are its
        blocks, whose grid and width change on the way. SlowFast has two pathways, and returns a pair of maps for each
        stage: the slow one, with what the fast one has given to it, and the fast one.

        Args:
            x: at least one clip (B, 3, T, H, W).
            indices: of the stages, counted from the end below 0; a number: so many last ones; None: all.
            return_prefix_tokens: give pairs (patches, prefix) for MViT, whose class token is (B, 1, D).
            norm: apply the last norm, which MViT alone has, and for its last width alone.
            stop_early: compute no stage after the last of ``indices``; with ``intermediates_only`` alone.
            output_fmt: ``NCTHW``, feature maps (B, D, t, h, w), or ``NLC``, tokens (B, t·h·w, D), frame after frame.
            intermediates_only: return the intermediates alone.

        Returns:
            The features (B, D), as of :meth:`forward_features`, and for each of ``indices`` what this stage returns.

        Raises:
            ValueError: no such stage, format, norm or clip.
        """
        name = type(self).__name__
        asked = Asked.of(
            name, self.num_stages, indices, return_prefix_tokens, stop_early, output_fmt, intermediates_only
        )
        if not x.shape[0]:
            raise ValueError(f"the stages of {name} need at least one clip, got {tuple(x.shape)}")
        features, found = self._through_stages(x, asked, norm)
        return found if intermediates_only else (features, found)

    def _through_stages(self, video: Tensor, asked: Asked, norm: bool) -> tuple[Tensor, list]:
        """The features, empty where they are not reached, and what each of the stages returns."""
        raise NotImplementedError
