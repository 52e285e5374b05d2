"""A golden file, and what our modules make of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """The contents of one file.

    Attributes:
        name: of the file, without ``.npz``.
        config: its ``__config``.
        arrays: everything else, under its name in the file.
        inputs: leaf tensors under the names ``input``, ``input_latents``, …, that require gradients where they are
            floating-point numbers.
        state: the published parameters and buffers, ``model.<name>`` of the file, under ``<name>``.
    """

    name: str
    config: dict[str, Any]
    arrays: dict[str, np.ndarray]
    inputs: dict[str, Tensor]
    state: dict[str, Tensor]


@dataclass(frozen=True)
class Result:
    """What our modules return for a case.

    Attributes:
        outputs: under the names of the file without underscores in front: ``output``, ``output_latents``, …
        parameters: for published names our parameters, so that ``grad.<name>`` is compared; those that have no
            counterpart of the same layout may be left out.
        tolerance: the largest difference allowed, relative to the largest number of the published tensor.
    """

    outputs: Mapping[str, Tensor]
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    tolerance: float = 5e-6


def load(path: Path) -> Case:
    """The case in a file."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    config = json.loads(str(arrays.pop("__config")))
    inputs = {}
    for name, array in arrays.items():
        if name.startswith("__input"):
            tensor = torch.from_numpy(array)
            inputs[name[2:]] = tensor.requires_grad_() if tensor.is_floating_point() else tensor
    state = {
        name.removeprefix("model."): torch.from_numpy(array)
        for name, array in arrays.items()
        if name.startswith("model.")
    }
    return Case(path.stem, config, arrays, inputs, state)
