"""The one place where a checkpoint that was read becomes values of known types: what parses is not trusted yet.

A damaged or hostile file may hold anything. Everything here raises ValueError with one line that reads on from the
name of the file: ``epoch is 'abc', expected a whole number from 0 to 1000000``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from videofib.distributed.fsdp import shard_like
from videofib.printable import printable

MAX_EPOCHS = 10**6  # of a run; a larger number is damage
MAX_STEPS = 10**9  # of an epoch
_SCALER = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
_KINDS = {"nesterov": "SGD", "amsgrad": "AdamW", "trust_clip": "LAMB", "betas": "Lion"}  # by an option; first that is


def check_content(content: dict[str, Any]) -> None:
    """Raise ValueError unless all entries of a checkpoint of videofib have the types that were written.

    The optimizer's are compared with its parameters by ``fit_optimizer``.
    """
    _whole("epoch", content["epoch"], MAX_EPOCHS)
    _whole("step", content["step"], MAX_STEPS)
    _state_dict("model_state", content["model_state"])
    if content["ema_state"] is not None:
        _state_dict("ema_state", content["ema_state"])
    only = content["training_state"]
    _expect(isinstance(only, dict), "training_state", only, "a dict")
    for name, state in only.items():
        _state_dict(f"{printable(name)} of training_state", state)
    _expect(isinstance(content["optimizer_state"], dict), "optimizer_state", content["optimizer_state"], "a dict")
    states = content["states"]
    _expect(isinstance(states, list | tuple), "states", states, "a list")
    for state in states:
        _expect(isinstance(state, dict), "an entry of states", state, "a dict")
    _expect(isinstance(content["config"], str), "config", content["config"], "a text")
    for name in ("input", "scaler_state"):
        _expect(content[name] is None or isinstance(content[name], dict), name, content[name], "a dict or None")
    for name in _SCALER if content["scaler_state"] else ():
        value = content["scaler_state"].get(name)
        right = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
        _expect(right, f"{name} of scaler_state", value, "a finite number that is not negative")
    if content["scaler_state"]:
        _expect(content["scaler_state"]["scale"] > 0, "scale of scaler_state", 0, "a number above 0")


def fit_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """The saved state of an optimizer as this one takes it: moments sharded as their parameters are, its own options.

    Raises:
        ValueError: it is of another kind of optimizer, of other groups of parameters, or damaged.
    """
    groups, state = saved.get("param_groups"), saved.get("state")
    if not isinstance(groups, list) or not isinstance(state, dict) or not groups:
        raise ValueError("is damaged: the state of its optimizer lacks groups or moments")
    for group in groups:
        if not isinstance(group, dict) or not isinstance(group.get("params"), list):
            raise ValueError("is damaged: a group of its optimizer does not name parameters")
    ours = optimizer.param_groups
    if (theirs := _kind(groups[0])) != (kind := _kind(ours[0])):
        raise ValueError(
            f"was written with another optimizer, {theirs}, and this run has {kind}: set SOLVER.OPTIMIZING_METHOD as "
            "it was, or train into another OUTPUT_DIR with TRAIN.CHECKPOINT_FILE_PATH set to this file"
        )
    sizes, own_sizes = ([len(group["params"]) for group in each] for each in (groups, ours))
    if sizes != own_sizes:
        raise ValueError(
            f"was written with another optimizer: its groups have {_listed(sizes)} parameters, those of this run "
            f"{_listed(own_sizes)}; set SOLVER.LAYER_DECAY, SOLVER.ZERO_WD_1D_PARAM, TRAIN.FREEZE and "
            "TRAIN.LINEAR_PROBE as they were, or train into another OUTPUT_DIR"
        )
    numbers = [number for group in groups for number in group["params"]]
    if not all(isinstance(number, int) for number in numbers) or len(set(numbers)) != len(numbers):
        raise ValueError("is damaged: its optimizer numbers parameters twice or not at all")
    parameters = dict(zip(numbers, (parameter for group in ours for parameter in group["params"]), strict=True))
    if unknown := [number for number in state if number not in parameters]:
        raise ValueError(f"is damaged: its optimizer has moments of no parameter ({printable(unknown[0])})")
    moments = {number: _moments(number, values, parameters[number], kind) for number, values in state.items()}
    options = [{name: value for name, value in group.items() if name != "params"} for group in ours]
    # before loading, since options say on which device moments are kept
    groups = [{**group, **own} for group, own in zip(groups, options, strict=True)]
    return {**saved, "state": moments, "param_groups": groups}


def _moments(number: int, values: Any, parameter: Tensor, kind: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"is damaged: the moments of parameter {number} are {_shown(values)}")
    needed = {"AdamW": ("step", "exp_avg", "exp_avg_sq"), "LAMB": ("exp_avg", "exp_avg_sq"), "Lion": ("exp_avg",)}
    if missing := [name for name in needed.get(kind, ()) if values and name not in values]:
        raise ValueError(f"is damaged: parameter {number} lacks its {', '.join(missing)}")
    for name, value in values.items():
        if isinstance(value, Tensor):
            right = value.shape == parameter.shape or (name == "step" and value.numel() == 1)
            if not right or value.is_meta or value.layout != torch.strided:
                raise ValueError(
                    f"is damaged, or of another model: {printable(name)} of parameter {number} is {tuple(value.shape)} "
                    f"there and {tuple(parameter.shape)} here"
                )
        elif value is not None and not (name == "step" and isinstance(value, int | float)):
            raise ValueError(f"is damaged: {printable(name)} of parameter {number} is {_shown(value)}")
    return {name: shard_like(value, parameter) for name, value in values.items()}


def _kind(group: Mapping) -> str:
    """Which optimizer has such options, by those that no other one has."""
    return next((kind for option, kind in _KINDS.items() if option in group), "an unknown one")


def _listed(sizes: list[int]) -> str:
    return " + ".join(map(str, sizes[:6])) + (" + …" if len(sizes) > 6 else "")


def _whole(name: str, value: object, most: int) -> None:
    right = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
    _expect(right, name, value, f"a whole number from 0 to {most}")


def _state_dict(name: str, state: Any) -> None:
    _expect(isinstance(state, dict), name, state, "a dict of tensors")
    for key, tensor in state.items():
        _expect(isinstance(key, str), f"a name in {name}", key, "a text")
        right = isinstance(tensor, Tensor) and not tensor.is_meta and tensor.layout == torch.strided
        _expect(right, f"{key} in {name}", tensor, "a dense tensor")


def _expect(right: bool, name: str, value: object, expected: str) -> None:
    if not right:
        raise ValueError(f"{printable(name)} is {_shown(value)}, expected {expected}")


def _shown(value: object) -> str:
    """A value in an error: short, on one line, and without the content of containers, which may have no end."""
    if isinstance(value, str):
        return printable(repr(value[:40]))
    if isinstance(value, int):
        return str(value) if abs(value) < 10**20 else "a number of more than 20 digits"
    return str(value) if value is None or isinstance(value, float) else f"a {type(value).__name__}"
