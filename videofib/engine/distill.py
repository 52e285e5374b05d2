"""Knowledge distillation (Hinton et al., arXiv 1503.02531): training on a teacher's scores beside the labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videofib.engine.feature_match import FeatureMatch


@dataclass(frozen=True)
class Distillation:
    """What a teacher adds to the loss.

    Attributes:
        teacher: (B, C, T, H, W) -> logits (B, K), in evaluation mode, on the device of the clips.
        alpha: weight of the teacher's loss, above 0 and at most 1; the labels' loss has weight 1 - alpha.
        temperature: divides both models' logits; the higher, the more the less likely classes count.
        features: which of its features count, too.
    """

    teacher: nn.Module
    alpha: float
    temperature: float
    features: FeatureMatch | None = None

    def loss(self, clips: Tensor, logits: Tensor) -> Tensor:
        """T² · KL(teacher ‖ student) at temperature T; T² keeps gradients of one magnitude for all T (section 2).

        Args:
            clips: (B, C, T, H, W), the same that the student was given.
            logits: (B, K), of the student.
        """
        with torch.no_grad():
            target = F.log_softmax(self.teacher(clips).float() / self.temperature, dim=1)
        own = F.log_softmax(logits.float() / self.temperature, dim=1)
        return self.temperature**2 * F.kl_div(own, target, reduction="batchmean", log_target=True)

    def combine(self, label_loss: Tensor, teacher_loss: Tensor) -> Tensor:
        """The loss to minimise: (1 - alpha) · label_loss + alpha · teacher_loss."""
        return (1 - self.alpha) * label_loss + self.alpha * teacher_loss
