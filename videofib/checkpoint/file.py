"""Checkpoints: everything a run needs to go on, in files that are whole or absent.

``OUTPUT_DIR/checkpoints/checkpoint_epoch_00003.pyth`` is written when three epochs are done, and
``checkpoint_epoch_00003_step_000120.pyth`` 120 batches later. A sharded model may have folders ``….dcp`` in their place
(``sharded_checkpoint``); both are read alike, by any number of processes. Files may come from strangers, so they are
only ever read as tensors and plain values (``weights_only=True``), never as code.
"""

from __future__ import annotations

import argparse
import logging
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

import videofib
from videofib.checkpoint.sharded import CONTENT, SUFFIX, map_tensors, read_shares, remove_shares, write_shares
from videofib.distributed import processes
from videofib.distributed.fsdp import is_sharded, share_of, whole_for_main
from videofib.files import replacing

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint_epoch_(\d+)(?:_step_(\d+))?\.(?:pyth|dcp)")
_KEYS = {"model_state", "optimizer_state", "scaler_state", "ema_state", "epoch", "config", "versions"}


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read, or fitted to the model; the message names the file and why."""


def save_checkpoint(
    directory: str | Path,
    epoch: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    step: int = 0,
    states: Sequence[dict] = (),
    scaler: torch.amp.GradScaler | None = None,
    ema: nn.Module | None = None,
    config: str = "",
    in_shares: bool = False,
) -> Path:
    """Write ``directory/checkpoint_epoch_{epoch:05d}[_step_{step:06d}].pyth``, whole or not at all.

    Then remove those from within an epoch, unless they are among the newest two. All processes call it; rank 0 writes.

    Args:
        epoch: epochs done.
        step: batches done of the next one.
        states: by rank, what each process needs to go on within an epoch.
        ema: the model that holds the averaged weights.
        config: the run's configuration as YAML.
        in_shares: where the model is sharded, write a folder ``….dcp``, each process its share; else, the tensors are
            put together in rank 0 one by one.
    """
    in_shares = in_shares and is_sharded(model)
    within = f"_step_{step:06d}" if step else ""
    path = Path(directory) / f"checkpoint_epoch_{epoch:05d}{within}{SUFFIX if in_shares else '.pyth'}"
    content = {
        "model_state": model.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "scaler_state": scaler.state_dict() if scaler else None,
        "ema_state": ema.state_dict() if ema else None,
        "epoch": epoch,
        "step": step,
        "states": list(states),
        "config": config,
        "versions": {"videofib": videofib.__version__, "torch": str(torch.__version__)},
    }
    try:
        if in_shares:
            write_shares(path, content)
        else:
            content = map_tensors(content, lambda tensor, name: whole_for_main(tensor))
            if processes.is_main():
                with replacing(path) as partial, partial.open("wb") as file:
                    torch.save(content, file)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot write the checkpoint {path}: {_reason(error)}") from error
    if processes.is_main():
        for old in find_checkpoints(directory)[:-2]:
            if _position_in_name(old)[1]:
                remove_checkpoint(old)
    return path


def remove_checkpoint(path: Path) -> None:
    """Remove a file or folder that ``find_checkpoints`` gave, if it is still there."""
    if path.is_dir():
        remove_shares(path)
    else:
        path.unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of videofib onto the CPU.

    It is compared with the checksums that it was written with, which ``torch.load`` does not do.

    Raises:
        CheckpointError: no such file, a damaged one, one that holds more than tensors and plain values, or one that
            videofib did not write.
    """
    content = read_tensors(path)
    _compare_checksums(path)
    if not isinstance(content, dict) or not content.keys() >= _KEYS:
        found = sorted(map(str, content))[:8] if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path} is no videofib checkpoint: expected {sorted(_KEYS)}, found {found}")
    return {"step": 0, "states": [], **content}


def read_tensors(path: str | Path) -> Any:
    """What ``torch.save`` wrote, onto the CPU; tensors and plain values only. Or a checkpoint that is a folder.

    ``argparse.Namespace``, in which training scripts like to leave their options, is a plain value, too.

    Raises:
        CheckpointError: no such file, a damaged one, or one that holds code.
    """
    path = Path(path)
    if path.suffix == SUFFIX and path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in many ways (zip, pickle, EOF, key, runtime errors)
        if found := re.search(r"(?:GLOBAL|class) (\S+)", str(error)):
            reason = f"asks to run {found[1]}, and code from files is never run; save its weights alone"
        else:
            told = re.split(r"\n|\. ", str(error).rpartition("WeightsUnpickler error:")[2].strip())[0][:200]
            reason = f"is damaged or no checkpoint: {told or type(error).__name__}"
        raise CheckpointError(f"{path} {reason}") from error


def _read_folder(folder: Path) -> dict[str, Any]:
    _compare_checksums(folder / CONTENT)
    try:
        return read_shares(folder, read_tensors)
    except CheckpointError:
        raise
    except (Exception, CheckpointException) as error:  # as above
        raise CheckpointError(f"{folder} is damaged: {str(error)[:300] or type(error).__name__}") from error


def find_checkpoints(directory: str | Path) -> list[Path]:
    """The checkpoints in a folder, those that are least far first."""
    directory = Path(directory)
    files = directory.iterdir() if directory.is_dir() else ()
    return sorted((file for file in files if _NAME.fullmatch(file.name)), key=_position_in_name)


def latest_checkpoint(directory: str | Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest readable checkpoint in a folder, None where there are none.

    A damaged one is reported and passed over.

    Raises:
        CheckpointError: there are some, and all are damaged.
    """
    files = find_checkpoints(directory)
    for path in reversed(files):
        try:
            return path, load_checkpoint(path)
        except CheckpointError as error:
            logger.warning("%s; looking for the one before it", error)
    if files:
        raise CheckpointError(f"none of the {len(files)} checkpoints in {directory} can be read; move them away")
    return None


def resume(
    checkpoint: dict[str, Any],
    source: str | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    scaler: torch.amp.GradScaler | None = None,
    ema: nn.Module | None = None,
) -> int:
    """Put a checkpoint's state into the parts of a run, sharded or not, and return the epochs done.

    The optimizer keeps the weight decay, momentum and so on that it was built with. ``source`` is named in errors.
    """
    load_weights(model, checkpoint["model_state"], source)
    options = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(_spread(checkpoint["optimizer_state"], optimizer))
    except ValueError as error:
        raise CheckpointError(f"{source} was written with another optimizer: {error}") from error
    for group, own in zip(optimizer.param_groups, options, strict=True):
        group.update(own)
    if scaler and checkpoint["scaler_state"]:
        scaler.load_state_dict(checkpoint["scaler_state"])
    if ema:
        load_weights(ema, checkpoint["ema_state"] or checkpoint["model_state"], source)
    return checkpoint["epoch"]


def load_weights(model: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Load a state dict that fits exactly.

    Raises:
        CheckpointError: names what is missing, unexpected or of another shape (with both shapes).
    """
    own = model.state_dict()
    problems = [
        f"{key} is {tuple(state[key].shape)} there and {tuple(own[key].shape)} here"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    problems += [f"{key} is missing" for key in own if key not in state]
    problems += [f"{key} is unexpected" for key in state if key not in own]
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise CheckpointError(f"the weights in {source} do not fit the model: {'; '.join(problems[:8])}{more}")
    model.load_state_dict({key: share_of(tensor, own[key]) for key, tensor in state.items()})


def _spread(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state with moments spread over processes as their parameters are."""
    parameters = dict(enumerate(parameter for group in optimizer.param_groups for parameter in group["params"]))
    spread = {
        number: {name: share_of(value, parameters.get(number)) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": spread}


def _compare_checksums(path: str | Path) -> None:
    """A flipped bit within a tensor is read as another number, but the archive has the CRC-32 of each tensor."""
    if not zipfile.is_zipfile(path):
        return  # an older format of torch, which has none, and in which no checkpoint of ours is
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # as above
        damaged = f"an entry ({error})"
    if damaged:
        raise CheckpointError(f"{path} is damaged: {damaged} is not what was written")


def _reason(error: BaseException) -> str:
    """Why writing failed: torch tells of a full disk as of its buffers; the system's word lies beneath."""
    while error.__context__ is not None and not isinstance(error, OSError):
        error = error.__context__
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _position_in_name(path: Path) -> tuple[int, int]:
    epoch, step = _NAME.fullmatch(path.name).groups()
    return int(epoch), int(step or 0)
