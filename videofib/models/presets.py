"""Models by name, as in timm: ``create_model("timesformer_base_joint_fibottention", num_classes=101)``.

A name is a size, what attention joins, and how: ``timesformer_<size>_<type>[_fibottention]``; without the last part
attention is dense. ``timesformer_base_divided`` is the published TimeSformer.

Beside these there are a few small models with weights (``list_models(pretrained=True)``), for ``videofib.load``.
"""

from __future__ import annotations

import difflib
import fnmatch
from itertools import product
from typing import Any

from videofib.models.pretrained.packaged import packaged_models
from videofib.models.timesformer import SIZES, TimeSformer

_TYPES = {  # in names -> attention_type, and the arguments that choose its mixers
    "divided": ("divided_space_time", ("space_attention", "time_attention")),
    "joint": ("joint_space_time", ("joint_attention",)),
    "space_only": ("space_only", ("space_attention",)),
}
_SPARSE = "fibottention"


def list_models(pattern: str = "*", *, pretrained: bool | None = None) -> list[str]:
    """The names of models that match a pattern, such as ``*joint*``.

    Args:
        pretrained: True: only those that have weights, which :func:`videofib.load` loads with their classes and their
            input; False: only those that :func:`create_model` makes; None: both.
    """
    made = [f"timesformer_{size}_{kind}{sparse}" for size, kind, sparse in product(SIZES, _TYPES, ("", f"_{_SPARSE}"))]
    names = ([] if pretrained else made) + ([] if pretrained is False else list(packaged_models()))
    return fnmatch.filter(names, pattern)


def create_model(name: str, **options: Any) -> TimeSformer:
    """A model with random weights.

    Args:
        name: one of ``list_models(pretrained=False)``.
        options: arguments of :class:`TimeSformer`, over those that the name stands for; ``num_classes``,
            ``num_frames``, ``img_size`` and so on.

    Raises:
        ValueError: an unknown name, with the nearest known one; sizes that do not fit.
        TypeError: an argument that TimeSformer does not have.
    """
    if name in packaged_models():
        raise ValueError(f"{name!r} is a trained model; load it with videofib.load({name!r})")
    if name not in (known := list_models(pretrained=False)):
        near = difflib.get_close_matches(name, known, n=1)
        raise ValueError(f"unknown model {name!r}; {f'did you mean {near[0]!r}?' if near else 'see list_models()'}")
    size, _, rest = name.removeprefix("timesformer_").partition("_")
    kind = rest.removesuffix(f"_{_SPARSE}")
    attention_type, mixers = _TYPES[kind]
    mixer = _SPARSE if rest != kind else "dense"
    defaults: dict[str, Any] = {**SIZES[size], "attention_type": attention_type, **dict.fromkeys(mixers, mixer)}
    return TimeSformer(**{**defaults, **options})
