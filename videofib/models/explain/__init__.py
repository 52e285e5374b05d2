"""What a model looked at: attention rollout, Grad-CAM, and how much a prediction depends on what they show."""

from videofib.models.explain.deletion import area, deletion_curve
from videofib.models.explain.gradcam import grad_cam
from videofib.models.explain.rollout import Rollout, attention_rollout, has_rollout

__all__ = ["Rollout", "area", "attention_rollout", "deletion_curve", "grad_cam", "has_rollout"]
