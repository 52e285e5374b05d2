"""Distillation of features: a student's patches become like its teacher's (FitNets, arXiv 1412.6550, section 2).

B clips, C T H W channels, frames, height, width; t h w grid of patches, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Maps = Mapping[int, Tensor]  # by block, (B, D, t, h, w)

PROJECTION = "feature_projection"  # submodule of the model that is trained


class Taps(Protocol):
    """Where the features of a model are seen while it computes; ``models.taps.PatchTaps`` is one."""

    @property
    def blocks(self) -> Sequence[int]: ...

    def watching(self, clips: Tensor) -> AbstractContextManager[Maps]: ...


class FeatureMatch:
    """Pairs of blocks, one of the student and one of the teacher, whose patches are to be alike.

    Args:
        student, teacher: as many blocks of each, in pairs.
        weight: of the loss in the sum that is minimised.
        projections: for each pair, from the student's width to the teacher's; see ``projections``.
    """

    def __init__(self, student: Taps, teacher: Taps, weight: float, projections: nn.ModuleList):
        self.student, self.teacher, self.weight, self.projections = student, teacher, weight, projections

    @contextmanager
    def watching(self, clips: Tensor) -> Iterator[Callable[[], Tensor]]:
        """Within the block both models compute these clips (B, C, T, H, W); what it gives then returns the loss."""
        with self.student.watching(clips) as own, self.teacher.watching(clips) as taught:
            yield lambda: self.loss(own, taught)

    def loss(self, student: Maps, teacher: Maps) -> Tensor:
        """The mean over pairs of ``patch_distance``, of the student's maps through their linear maps."""
        distances = [
            patch_distance(project(student[own]), teacher[taught].detach())
            for own, taught, project in zip(self.student.blocks, self.teacher.blocks, self.projections, strict=True)
        ]
        return torch.stack(distances).mean()


def patch_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared distance of patches of length 1, 2 - 2·cosine, a mean over patches: from 0 to 4 for any width.

    That is the mean squared error of L2-normalised tokens times D. Where grids differ, both maps are averaged down to
    the coarser one, axis by axis, before they are normalised.

    Args:
        student, teacher: (B, D, t, h, w), each with its own grid.
    """
    t, h, w = (min(sizes) for sizes in zip(student.shape[2:], teacher.shape[2:], strict=True))
    own, taught = (
        F.normalize(maps if maps.shape[2:] == (t, h, w) else F.adaptive_avg_pool3d(maps, (t, h, w)), dim=1)
        for maps in (student.float(), teacher.float())
    )
    return (own - taught).square().sum(1).mean()


class ChannelMap(nn.Module):
    """A linear map of each patch: (B, D, t, h, w) -> (B, D', t, h, w)."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.linear = nn.Linear(before, after)

    def forward(self, maps: Tensor) -> Tensor:
        return self.linear(maps.movedim(1, -1)).movedim(-1, 1)


@torch.no_grad()
def projections(student: nn.Module, teacher: nn.Module, taps: tuple[Taps, Taps], clip: Tensor) -> nn.ModuleList:
    """For each pair of blocks a linear map where their widths differ, else none; both models compute a clip to see.

    Args:
        taps: of the student and the teacher.
        clip: (1, C, T, H, W), on the device of both.

    Raises:
        ValueError: a block that does not return a feature for each patch.
    """
    was_training = student.training
    with taps[0].watching(clip) as own, taps[1].watching(clip) as taught:
        student.eval()(clip)
        teacher(clip)
    student.train(was_training)
    widths = [(own[i].shape[1], taught[j].shape[1]) for i, j in zip(taps[0].blocks, taps[1].blocks, strict=True)]
    maps = [nn.Identity() if before == after else ChannelMap(before, after) for before, after in widths]
    return nn.ModuleList(maps).to(clip.device)
