"""Self-distillation: DINO (arXiv 2104.14294), and SelfPatch (CVPR 2022), which adds a loss between patches.

A student learns to give views of a video the scores that a teacher, its moving average, gives to other views. Views are
lists of clips (B, C, T, H, W): two global ones, then local ones, of other sizes.

Axes: B videos, C T H W channels, frames, height, width; t h w grid, N tokens; D width, K prototypes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from videofib.engine.objective import Objective, Outcome
from videofib.mixers import Grid
from videofib.models.timesformer import TimeSformer
from videofib.pretraining.dino_head import PrototypeHead
from videofib.pretraining.dino_loss import NUM_GLOBAL, DinoLoss
from videofib.pretraining.encoder import without_classifier
from videofib.pretraining.patch_head import PatchHead
from videofib.pretraining.views import LocalViews


class Branch(nn.Module):
    """An encoder with heads: clips -> scores of prototypes, of each clip and perhaps of each of its patches.

    With a patch head, it reads the tokens of the last block as they are: the encoder's last norm is not used, and
    frozen.

    Args:
        encoder: a TimeSformer.
        class_head: from features (B, D) to scores.
        patch_head: from tokens to features of clips and patches; None: features are the encoder's.
        patch_scores: from features of patches to scores.

    Raises:
        ValueError: a patch head with an encoder that has no tokens of a clip, or pools them in a way that it bypasses.
    """

    def __init__(
        self,
        encoder: TimeSformer,
        class_head: PrototypeHead,
        patch_head: PatchHead | None = None,
        patch_scores: PrototypeHead | None = None,
    ):
        super().__init__()
        self.encoder = without_classifier(encoder)
        self.class_head, self.patch_head, self.patch_scores = class_head, patch_head, patch_scores
        if patch_head is not None:
            for what, broken in {
                "attention_type='space_only'": encoder.single_frames,
                "pooling='class_attention'": encoder.pooling == "class_attention",
            }.items():
                if broken:
                    raise ValueError(f"a patch head reads all tokens of a clip after the blocks, and {what} has none")
            self.encoder.norm.requires_grad_(False)

    def forward(self, clips: Tensor, *, is_teacher: bool, learns: bool) -> tuple[Tensor, Tensor | None]:
        """Scores (B, K) and, with a patch head, (B, N, K)."""
        if self.patch_head is None or self.patch_scores is None:
            return self.class_head(self.encoder.forward_features(clips), learns=learns), None
        tokens, grid = self._tokens(clips)
        features, patches = self.patch_head(tokens, grid, is_teacher=is_teacher)
        return self.class_head(features, learns=learns), self.patch_scores(patches, learns=learns)

    def _tokens(self, clips: Tensor) -> tuple[Tensor, Grid]:
        """The patches after the last block, frame after frame, and their grid."""
        grid = self.encoder.patch_embed.grid_of(clips)
        (tokens,) = self.encoder.forward_intermediates(clips, 1, output_fmt="NLC", intermediates_only=True)
        if tokens.shape[1] != math.prod(grid):
            raise ValueError(f"the encoder returns {tokens.shape[1]} of {math.prod(grid)} patches; SelfPatch needs all")
        return tokens, grid


class SelfDistillation(nn.Module):
    """Views -> losses by name. Student, teacher, centers and the epoch are in the state dict: a checkpoint has all.

    Args:
        student: what learns.
        loss: from the scores of both to losses.
    """

    epoch: Tensor

    def __init__(self, student: Branch, loss: DinoLoss):
        super().__init__()
        self.student = student
        self.teacher_ema = copy.deepcopy(student).requires_grad_(False)  # loaded by default, as a moving average
        self.loss = loss
        self.register_buffer("epoch", torch.zeros((), dtype=torch.float64))  # done, fractional

    @property
    def encoder(self) -> TimeSformer:
        """The student's."""
        return self.student.encoder

    def no_weight_decay(self) -> set[str]:
        names = {f"student.encoder.{name}" for name in self.student.encoder.no_weight_decay()}
        return names | {"student.patch_head.cls_token"}

    def forward(self, views: Sequence[Tensor], epoch: float, learns: bool = True) -> dict[str, Tensor]:
        """The losses of :class:`DinoLoss`.

        Args:
            views: of the same videos.
            epoch: how many are done.
            learns: whether the prototypes get gradients.
        """
        student, patches = self._scores(self.student, views, is_teacher=False, learns=learns)
        with torch.no_grad():  # without a loss of patches, the teacher sees the global views alone
            seen = views if self.student.patch_head is not None else views[:NUM_GLOBAL]
            teacher, targets = self._scores(self.teacher_ema, seen, is_teacher=True, learns=False)
        return self.loss(student, teacher, patches, targets, epoch=epoch)

    def _scores(
        self, branch: Branch, views: Sequence[Tensor], *, is_teacher: bool, learns: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Scores of each view, and of its patches, with one forward pass for global and one for local views."""
        scores: list[Tensor] = []
        patches: list[Tensor] = []
        for group in (views[:NUM_GLOBAL], views[NUM_GLOBAL:]):
            if not group:
                continue
            found, of_patches = branch(torch.cat(list(group)), is_teacher=is_teacher, learns=learns)
            scores += found.chunk(len(group))
            patches += () if of_patches is None else of_patches.chunk(len(group))
        return scores, patches

    @torch.no_grad()
    def update_teacher(self, momentum: float, skipped: Tensor) -> None:
        """Move the teacher towards the student: momentum · teacher + (1 - momentum) · student.

        Buffers, such as a batch norm's mean, are the student's.

        Args:
            skipped: bool, on the device: the step was skipped, so that the teacher stays as it is.
        """
        for teacher, student in zip(self.teacher_ema.parameters(), self.student.parameters(), strict=True):
            teacher.copy_(torch.where(skipped, teacher, teacher.lerp(student, 1 - momentum)))
        for teacher, student in zip(self.teacher_ema.buffers(), self.student.buffers(), strict=True):
            teacher.copy_(student)


class MatchedViews(Objective):
    """The objective of :class:`SelfDistillation`: two clips of each video, and local views that are cut out of them.

    Args:
        model: which is trained; its teacher is updated after each step.
        local_views: how local views are cut.
        epochs: of the run, over which the momentum rises to 1 along half a cosine.
        momentum: of the teacher, at first.
        frozen_epochs: at first, in which the prototypes do not learn.
    """

    def __init__(
        self,
        model: SelfDistillation,
        local_views: LocalViews,
        *,
        epochs: int,
        momentum: float = 0.996,
        frozen_epochs: int = 1,
    ):
        self.model, self.local_views, self.epochs = model, local_views, epochs
        self.momentum, self.frozen_epochs = momentum, frozen_epochs
        self.parts = ("class_loss", "patch_loss") if model.student.patch_head is not None else ()
        self._epoch: float | None = None  # as the buffer, which the host reads once

    def __call__(self, replica: nn.Module, clips: Tensor, targets: Tensor, batch: Mapping[str, Any]) -> Outcome:
        if self._epoch is None:
            self._epoch = 0.0 if self.model.epoch.is_meta else float(self.model.epoch)
        per_video = batch["views"].shape[1]
        if per_video != NUM_GLOBAL:
            raise ValueError(f"two clips of each video are compared, got {per_video}")
        clips_of = list(rearrange(clips, "(b v) c t h w -> v b c t h w", v=NUM_GLOBAL))
        views = [*clips_of, *self.local_views(clips_of)]
        losses = replica(views, self._epoch, self._epoch >= self.frozen_epochs)
        return Outcome(losses["loss"], None, {name: losses[name] for name in self.parts})

    def momentum_at(self, epoch: float) -> float:
        """The teacher's momentum at a fractional epoch."""
        return 1 - (1 - self.momentum) * (1 + math.cos(math.pi * min(1.0, epoch / self.epochs))) / 2

    def after_step(self, model: nn.Module, epoch: float, skipped: Tensor) -> None:
        self.model.update_teacher(self.momentum_at(epoch), skipped)
        self._epoch = epoch
        self.model.epoch.fill_(epoch)
