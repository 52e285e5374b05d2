"""Feature recalibration distillation (SiT, arXiv 2111.12624, section 3.3): learning from a model that has all tokens.

B clips of a batch, C T H W channels, frames, height, width; K classes; N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videofib.engine.objective import Objective, Outcome

Teacher = Callable[[Tensor], tuple[Tensor, Sequence[Tensor]]]


def token_loss(found: Sequence[Tensor], taught: Sequence[Tensor]) -> Tensor:
    """The mean over blocks of the mean squared difference of their tokens (B, N, D), in 32 bits."""
    losses = [F.mse_loss(_wide(own), _wide(other)) for own, other in zip(found, taught, strict=True)]
    return torch.stack(losses).mean()


def logit_loss(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) of logits (B, K) at temperature T."""
    target, own = (F.log_softmax(_wide(each) / temperature, dim=1) for each in (taught, logits))
    return temperature**2 * F.kl_div(own, target, reduction="batchmean", log_target=True)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Recalibration(Objective):
    """Labels, the tokens of a teacher after some blocks, and its scores.

    The loss is that of the labels, plus each of the two others by its weight. The norm of tokens grows with depth where
    residual branches are not scaled down, so the tokens' loss may outweigh the rest: both are logged.

    Args:
        criterion: (logits (B, K), labels (B,) or soft labels (B, K)) -> mean loss.
        teacher: clips -> its logits (B, K), and the tokens (B, N, D) after those blocks that ``recover`` gives, in
            evaluation mode, without gradients.
        token_weight, logit_weight: as published 2 and 2; with 0, that loss is only logged.
        temperature: of both models' scores.
    """

    parts = ("token_loss", "teacher_loss")

    def __init__(
        self,
        criterion: nn.Module,
        teacher: Teacher,
        *,
        token_weight: float = 2.0,
        logit_weight: float = 2.0,
        temperature: float = 1.0,
    ):
        self.criterion, self.teacher, self.temperature = criterion, teacher, temperature
        self.token_weight, self.logit_weight = token_weight, logit_weight

    def __call__(self, replica: nn.Module, clips: Tensor, targets: Tensor, batch: Mapping[str, Any]) -> Outcome:
        """As :class:`Objective`; ``replica(clips, recover=True)`` gives logits and recovered tokens."""
        logits, found = replica(clips, recover=True)
        taught_logits, taught = self.teacher(clips)
        parts = {
            "token_loss": token_loss(found, taught),
            "teacher_loss": logit_loss(logits, taught_logits, self.temperature),
        }
        loss = self.criterion(logits, targets)
        loss = loss + self.token_weight * parts["token_loss"] + self.logit_weight * parts["teacher_loss"]
        return Outcome(loss, logits, parts)
