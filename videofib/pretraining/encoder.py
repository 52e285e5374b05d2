"""The model that is pre-trained, within what pre-trains it."""

from __future__ import annotations

from torch import nn

from videofib.models.timesformer import TimeSformer


def without_classifier(model: TimeSformer) -> TimeSformer:
    """The same model with nothing in place of its classifier, which learns from labels alone."""
    model.head = nn.Identity()
    return model
