"""Training batches that nobody filmed: clips made for a teacher, and labelled by it, in place of a loader of videos.

After arXiv 2408.05952, whose body could not be read; the losses are those of DAFL, DFAD and PSAQ-ViT
(``clip_priors``). B clips of a batch in each process, C T H W channels, frames, height, width; K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videofib.distributed import processes
from videofib.engine.clip_priors import agreement, imbalance, similarity_entropy, temporal_variation, total_variation
from videofib.engine.train import TrainingError

_LARGEST_GRADIENT = 5.0  # L2 norm of the generator's


class ClipSource(Protocol):
    """Makes clips."""

    def draw(self, count: int) -> tuple[Tensor, dict[str, Tensor]]:
        """So many clips (B, C, T, H, W) without a graph, and figures of their making, scalars by name."""

    def state_dict(self) -> dict[str, Any]:
        """All that it takes to draw the same clips later, besides the random state of the process."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from such a state."""


@dataclass(frozen=True)
class PriorWeights:
    """What the losses of a generator count; the cross-entropy of the class that was asked for counts 1.

    Attributes:
        balance: of ``imbalance``.
        entropy: of the patch similarities' entropy, which is maximised.
        total_variation, smoothness: of differences in space and in time.
        adversarial: of the disagreement of teacher and student, which is maximised.
    """

    balance: float = 1.0
    entropy: float = 1.0
    total_variation: float = 0.0
    smoothness: float = 0.0
    adversarial: float = 0.0


class GaussianNoise:
    """Normalised pixels drawn from a normal distribution: the control, which knows nothing of the teacher.

    Args:
        shape: (C, T, H, W).
        device: of the clips.
    """

    def __init__(self, shape: Sequence[int], device: torch.device):
        self.shape, self.device = tuple(shape), device

    def draw(self, count: int) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.randn(count, *self.shape, device=self.device), {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is nothing to load."""


class TrainedGenerator:
    """A generator that learns, a few steps before each batch, to make clips that a teacher finds likely.

    Every process has the same generator: gradients are averaged over processes. Its steps are in full precision,
    whatever the student's are, and leave the gradients of teacher and student alone.

    Args:
        generator: (latents (B, L), classes (B,)) -> clips (B, C, T, H, W) in the range of pixels.
        teacher: clips -> logits (B, K), frozen, in evaluation mode.
        num_classes, latent_dim: K and L.
        lr, steps: learning rate of its Adam, and its steps before each batch, at least 1.
        weights: of the losses.
        attention: within it a pass of the teacher leaves what its mixers return for the patches, (B', N, D) each; None:
            there is no entropy.
        max_patches: at most so many patches of a sequence are compared with each other, drawn anew each step.
        student: clips -> logits, for the adversarial loss.
    """

    figures = ("synthesis_loss", "synthesis_top1", "synthesis_entropy")

    def __init__(
        self,
        generator: nn.Module,
        teacher: nn.Module,
        num_classes: int,
        latent_dim: int,
        *,
        lr: float,
        steps: int,
        weights: PriorWeights,
        attention: Callable[[], AbstractContextManager[dict[str, Tensor]]] | None = None,
        max_patches: int = 64,
        student: nn.Module | None = None,
    ):
        self.generator, self.teacher, self.steps = generator.train(), teacher, steps
        self.num_classes, self.latent_dim = num_classes, latent_dim
        self.weights, self.attention, self.max_patches, self.student = weights, attention, max_patches, student
        self.parameters = list(generator.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr, betas=(0.5, 0.999))

    def draw(self, count: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The clips of the last of ``steps`` steps, as they were before it."""
        for _ in range(self.steps):
            clips, figures = self._step(count)
        return clips, figures

    def _make(self, count: int) -> tuple[Tensor, Tensor]:
        """Clips, and the classes that they should be of: all equally often, to one."""
        latents = torch.randn(count, self.latent_dim, device=self.parameters[0].device)
        rounds = -(-count // self.num_classes)
        classes = torch.cat([torch.randperm(self.num_classes) for _ in range(rounds)])[:count].to(latents.device)
        return self.generator(latents, classes), classes

    def _step(self, count: int) -> tuple[Tensor, dict[str, Tensor]]:
        clips, classes = self._make(count)
        loss, figures = self.loss(clips, classes)
        gradients = torch.autograd.grad(loss, self.parameters)  # of the generator alone
        processes.average(gradients)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = nn.utils.clip_grad_norm_(self.parameters, _LARGEST_GRADIENT)
        if not norm.isfinite():
            raise TrainingError(
                f"the gradient of the generator of clips is not finite (loss {loss.item():.3g}); lower "
                "SYNTHETIC.GENERATOR_LR"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return clips.detach(), figures

    def loss(self, clips: Tensor, classes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What the generator minimises, and figures of it.

        Args:
            clips: (B, C, T, H, W), of the generator.
            classes: (B,), which they should be of.
        """
        weights = self.weights
        if weights.entropy and self.attention:
            with self.attention() as seen:
                logits = self.teacher(clips).float()
            entropy = torch.stack([similarity_entropy(self._some(tokens)) for tokens in seen.values()]).mean()
        else:
            logits, entropy = self.teacher(clips).float(), clips.new_zeros(())
        loss = F.cross_entropy(logits, classes) + weights.balance * imbalance(logits) - weights.entropy * entropy
        loss = loss + weights.total_variation * total_variation(clips) + weights.smoothness * temporal_variation(clips)
        if weights.adversarial and self.student:
            loss = loss + weights.adversarial * agreement(logits, self.student(clips))
        right = (logits.detach().argmax(1) == classes).float().mean()
        return loss, dict(zip(self.figures, (loss.detach(), right, entropy.detach()), strict=True))

    def _some(self, tokens: Tensor) -> Tensor:
        """At most ``max_patches`` of (B, N, D)."""
        if tokens.shape[1] <= self.max_patches:
            return tokens
        return tokens[:, torch.randperm(tokens.shape[1])[: self.max_patches].to(tokens.device)]

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])


class SyntheticClips:
    """Batches in the shapes of ``data.loading.loader.VideoLoader``, made when they are asked for; nothing is read.

    The label of a clip is the class to which the teacher gives its highest logit. A run that is resumed at a batch,
    with the state of the source and the random state of the process as they were, gets the batches that it would have
    had.

    Args:
        source: of the clips.
        teacher: clips (B, C, T, H, W) -> logits (B, K).
        steps: batches of an epoch.
        batch_size: B.
    """

    dataset = None

    def __init__(self, source: ClipSource, teacher: nn.Module, *, steps: int, batch_size: int):
        self.source, self.teacher, self.steps, self.batch_size, self.step = source, teacher, steps, batch_size, 0

    @property
    def sampler(self) -> SyntheticClips:
        return self

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        """How many of the epoch's batches are done already."""
        self.step = step

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict]:
        for step in range(self.step, self.steps):
            clips, figures = self.source.draw(self.batch_size)
            with torch.no_grad():
                labels = self.teacher(clips).argmax(1)
            first = step * self.batch_size
            yield {
                "views": clips.unsqueeze(1),
                "labels": labels,
                "indices": torch.arange(first, first + self.batch_size),
                "failures": [],
                "figures": figures,
            }

    def close(self) -> None:
        """There are no workers to end."""

    def __enter__(self) -> SyntheticClips:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
