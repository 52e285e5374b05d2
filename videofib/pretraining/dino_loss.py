"""Losses of self-distillation: DINO's between views (arXiv 2104.14294), SelfPatch's between the patches of a view.

B videos, N tokens of a view, K prototypes; views are lists, the two global ones first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

NUM_GLOBAL = 2


class DinoLoss(nn.Module):
    """Cross-entropy between a teacher's sharpened, centred scores and a student's.

    ``class_loss`` is the mean over all pairs of a global view of the teacher and another view of the student.
    ``patch_loss`` is the mean over all views of the mean over patches: both see the same patch of the same view. The
    sum of both, the second times ``patch_weight``, is minimised. A center is a moving average of the mean score of all
    that the teacher has seen, over all processes; it keeps one prototype from winning everything.

    Args:
        num_prototypes, num_patch_prototypes: K of views and of patches; 0: no patches.
        student_temp: divisor of the student's scores.
        teacher_temp: of the teacher's, after ``warmup_epochs``.
        warmup_teacher_temp: at the first epoch; it goes to the former in equal steps, one an epoch.
        center_momentum: decay of the centers.
        patch_weight: of the patches' loss.
    """

    center: Tensor
    patch_center: Tensor

    def __init__(
        self,
        num_prototypes: int,
        num_patch_prototypes: int = 0,
        *,
        student_temp: float = 0.1,
        teacher_temp: float = 0.04,
        warmup_teacher_temp: float = 0.04,
        warmup_epochs: int = 0,
        center_momentum: float = 0.9,
        patch_weight: float = 0.1,
    ):
        super().__init__()
        self.student_temp, self.teacher_temp, self.center_momentum = student_temp, teacher_temp, center_momentum
        self.warmup_teacher_temp, self.warmup_epochs = warmup_teacher_temp, warmup_epochs
        self.patch_weight = patch_weight
        self.register_buffer("center", torch.zeros(num_prototypes))
        if num_patch_prototypes:
            self.register_buffer("patch_center", torch.zeros(num_patch_prototypes))

    def teacher_temp_at(self, epoch: float) -> float:
        """The teacher's temperature, which changes from epoch to epoch."""
        steps = max(1, self.warmup_epochs - 1)
        done = min(1.0, int(epoch) / steps) if self.warmup_epochs > 1 else float(int(epoch) >= self.warmup_epochs)
        return self.warmup_teacher_temp + (self.teacher_temp - self.warmup_teacher_temp) * done

    def forward(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        student_patches: Sequence[Tensor] = (),
        teacher_patches: Sequence[Tensor] = (),
        *,
        epoch: float = 0.0,
    ) -> dict[str, Tensor]:
        """The losses by name: ``loss``, and with patches ``class_loss`` and ``patch_loss``, which it is the sum of.

        In training, the centers are updated afterwards.

        Args:
            student, teacher: scores of views, (B, K) each; the teacher may have seen the global ones only.
            student_patches, teacher_patches: scores of the patches of views, (B, N, K) each, N by view.
            epoch: how many are done.
        """
        temp = self.teacher_temp_at(epoch)
        targets = [self._sharpened(scores, self.center, temp) for scores in teacher[:NUM_GLOBAL]]
        logs = [F.log_softmax(scores.float() / self.student_temp, dim=-1) for scores in student]
        pairs = [(a, b) for a in range(len(targets)) for b in range(len(logs)) if a != b]
        class_loss = torch.stack([_cross_entropy(targets[a], logs[b]) for a, b in pairs]).mean()
        losses = {"loss": class_loss}
        if student_patches:
            each = [
                _cross_entropy(
                    self._sharpened(theirs, self.patch_center, temp), F.log_softmax(own.float() / self.student_temp, -1)
                )
                for own, theirs in zip(student_patches, teacher_patches, strict=True)
            ]
            patch_loss = torch.stack(each).mean()
            losses = {
                "loss": class_loss + self.patch_weight * patch_loss,
                "class_loss": class_loss,
                "patch_loss": patch_loss,
            }
        if self.training:
            self._update(self.center, teacher)
            if teacher_patches:
                self._update(self.patch_center, teacher_patches)
        return losses

    @torch.no_grad()
    def _sharpened(self, scores: Tensor, center: Tensor, temp: float) -> Tensor:
        return F.softmax((scores.float() - center) / temp, dim=-1)

    @torch.no_grad()
    def _update(self, center: Tensor, scores: Sequence[Tensor]) -> None:
        """Move a center towards the mean of all scores, of all processes; scores that are not finite leave it."""
        flat = torch.cat([each.float().flatten(0, -2) for each in scores])
        total = torch.cat((flat.sum(0), flat.new_tensor([len(flat)])))
        if dist.is_initialized():
            dist.all_reduce(total)
        mean = total[:-1] / total[-1]
        updated = center.lerp(mean, 1 - self.center_momentum)
        center.copy_(torch.where(updated.isfinite().all(), updated, center))


def _cross_entropy(targets: Tensor, logs: Tensor) -> Tensor:
    return -(targets * logs).sum(dim=-1).mean()
