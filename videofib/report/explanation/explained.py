"""What a model looked at in the views of a video, as plain arrays.

V views, T H W frames, height, width; t h w grid of tokens or of a feature map; K classes, A attention heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from videofib.report.browse.clips import Clip

METHODS = {"rollout": "Attention rollout", "gradcam": "Grad-CAM"}
RANDOM = "random"
FRACTIONS = tuple(step / 20 for step in range(21))  # of the patches, removed for deletion curves


@dataclass(frozen=True)
class ExplainedView:
    """One view.

    Attributes:
        clip: the view as the model sees it, and where it lies in the video.
        probabilities: (K,) of this view alone.
        heat: (t, h, w) float32 of each method, of ``METHODS``. Rollout: the share of each patch, which with ``prefix``
            sum to 1. Grad-CAM: 0 or more, in no unit.
        prefix: the share of attention that stays with class token and registers; None without rollout.
        heads: (A, t, h, w), what each head of the last block attends to; None without rollout.
        deletion: where it was asked for, the probability of the explained class after each of ``FRACTIONS`` of the
            patches was removed: (S,) of each method, the hottest first, and of ``RANDOM`` the mean over random orders.
    """

    clip: Clip
    probabilities: np.ndarray
    heat: Mapping[str, np.ndarray]
    prefix: float | None = None
    heads: np.ndarray | None = None
    deletion: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """What a model looked at in a video.

    Attributes:
        video, model: their names.
        classes: the names of the K classes.
        label: the index of the class that Grad-CAM explains.
        probabilities: (K,) of all views together.
        views: in the order of a test: all crops of the first clip, then of the next.
        block: whose incoming tokens Grad-CAM looks at, counted from 0, their number for what the last one returns;
            None: of a feature map, or without Grad-CAM.
        from_class_token: whether features come from a class token, rather than from the mean of the patches.
    """

    video: str
    model: str
    classes: Sequence[str]
    label: int
    probabilities: np.ndarray
    views: Sequence[ExplainedView]
    block: int | None
    from_class_token: bool

    @property
    def explained(self) -> str:
        """The name of the class that is explained."""
        return self.classes[self.label]

    @property
    def heat(self) -> dict[str, np.ndarray]:
        """(V, t, h, w) of each method."""
        return {name: np.stack([view.heat[name] for view in self.views]) for name in self.views[0].heat}

    def areas(self) -> dict[str, float]:
        """The area under the deletion curve of each method and of random orders, the mean over views; {} without."""
        steps = np.diff(FRACTIONS)
        return {
            name: float(np.mean([((curve[1:] + curve[:-1]) / 2) @ steps for curve in curves]))
            for name in self.views[0].deletion
            for curves in [[view.deletion[name] for view in self.views]]
        }

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The most probable classes and their probabilities, the best first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[index], float(self.probabilities[index])) for index in order]
