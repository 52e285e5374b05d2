"""A model as a graph of torch's own operations, and how far a file that was made of it is from the model.

B batch, C channels, T frames, H W image, K classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from videofib.attention import SelfAttention
from videofib.mixers.pattern_attention import PatternAttention
from videofib.models.wrappers import unwrapped
from videofib.printable import printable

INPUT, OUTPUT = "video", "logits"
BATCHES = (1, 2, 5)  # the sizes on which an exported model is compared with ours
_TRACED_BATCH = 2  # not 1, which torch.export would take for a constant


class ExportError(ValueError):
    """A model that cannot be exported, or an exported one that computes something else."""


@dataclass(frozen=True)
class Difference:
    """How far the logits of an exported model are from those of the model.

    Attributes:
        largest: the largest absolute difference.
        logit: the largest absolute logit of the model.
    """

    largest: float
    logit: float

    def within(self, tolerance: float) -> bool:
        """Whether it is at most the tolerance, which is for logits up to 1 and grows with larger ones."""
        return self.largest <= tolerance * max(1.0, self.logit)  # False for NaN


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy on the CPU, in 32 bits and for inference, whose graph holds torch's own operations alone."""
    plain = copy.deepcopy(unwrapped(model)).float().cpu().eval().requires_grad_(False)
    for module in plain.modules():
        if isinstance(module, SelfAttention | PatternAttention):
            module.backend = "gather"
    return plain


def trace(plain: nn.Module, clip: Sequence[int]) -> ExportedProgram:
    """The graph of a ``plain_copy``: (B, C, T, H, W) -> (B, K) for any B from 1 on, and clips (C, T, H, W) of one size.

    Raises:
        ExportError: torch cannot trace the model.
    """
    example = random_clips(_TRACED_BATCH, clip)
    try:
        with torch.no_grad():
            return torch.export.export(plain, (example,), dynamic_shapes=({0: Dim("batch", min=1)},), strict=False)
    except Exception as error:  # torch.export raises errors of many kinds, those of the model's code among them
        raise ExportError(f"torch.export cannot trace this {type(plain).__name__}: {first_line(error)}") from error


def random_clips(batch: int, clip: Sequence[int]) -> Tensor:
    """Normal random clips (B, C, T, H, W), always the same ones."""
    return torch.randn(batch, *clip, generator=torch.Generator().manual_seed(batch))


@torch.no_grad()
def compare(plain: nn.Module, exported: Callable[[Tensor], Tensor], clip: Sequence[int]) -> Difference:
    """Compare an exported model, of (B, C, T, H, W) -> (B, K), with the model, on random clips in several batches."""
    largest = logit = 0.0
    for batch in BATCHES:
        clips = random_clips(batch, clip)
        expected, found = plain(clips), exported(clips)
        if found.shape != expected.shape:
            raise ExportError(f"the exported model gives {tuple(found.shape)} where ours gives {tuple(expected.shape)}")
        difference = (found - expected).abs().max().item()
        largest = difference if math.isnan(difference) else max(largest, difference)
        if math.isnan(largest):
            break
        logit = max(logit, expected.abs().max().item())
    return Difference(largest, logit)


def check(plain: nn.Module, exported: Callable[[Tensor], Tensor], clip: Sequence[int], tolerance: float) -> Difference:
    """``compare``, and refuse what differs by more than the tolerance (see ``Difference.within``).

    Raises:
        ExportError: it does.
    """
    difference = compare(plain, exported, clip)
    if not difference.within(tolerance):
        raise ExportError(
            f"the exported model differs by {difference.largest:.2g} from the model, whose largest logit is "
            f"{difference.logit:.3g}; at most {tolerance:g} times that, or {tolerance:g}, is allowed"
        )
    return difference


def first_line(error: BaseException) -> str:
    """The first line of an error that says anything, for a message of one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[0]) if lines else type(error).__name__
