"""Checkpoints: everything that resuming a run takes, and everything that using its model takes, in one file or folder.

A file ``….pyth`` is what ``torch.save`` writes; a sharded model may have a folder ``….dcp`` instead
(``checkpoint.sharded``). Both are read by any number of processes. Files may come from anyone, so they are only ever
read as tensors and plain values (``weights_only=True``), never as code.
"""

from __future__ import annotations

import itertools
import logging
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

import videofib
from videofib.checkpoint.content import check_content, fit_optimizer
from videofib.checkpoint.foreign import ForeignError, describe_junk, read_foreign
from videofib.checkpoint.sharded import CONTENT, SUFFIX, map_tensors, read_sharded, write_sharded
from videofib.distributed import processes
from videofib.distributed.fsdp import full_tensor_on_main, shard_like
from videofib.files import replacing
from videofib.printable import printable

logger = logging.getLogger(__name__)

_KEYS = {"model_state", "optimizer_state", "scaler_state", "ema_state", "epoch", "config", "versions"}
_LATER_KEYS = {
    "step": 0,
    "states": [],
    "classes": None,
    "input": None,
    "training_state": {},
}  # which old checkpoints lack


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read, or fitted to the model; the message names the file and why."""


@dataclass(frozen=True)
class Position:
    """How far a run has come.

    Attributes:
        epoch: epochs done.
        step: batches done of the next epoch, by each process.
        states: where step is not 0, by data rank: what a process needs to resume within the epoch. Processes that share
            clips need the same, and count as one.
    """

    epoch: int = 0
    step: int = 0
    states: Sequence[dict] = ()


START = Position()


@dataclass(frozen=True)
class TrainingState:
    """The parts of a run whose state a checkpoint holds.

    Attributes:
        ema: the model that holds the averaged weights.
        training_only: beginnings of names of what only training needs of the model. It lies in a section of its own,
            ``training_state``, so that using the model does not come across it.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None
    ema: nn.Module | None = None
    training_only: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelDescription:
    """What using a saved model takes beside its weights.

    Attributes:
        config: the run's configuration as YAML.
        classes: names of the classes, None where they have none.
        input: how a video becomes the model's input, as plain values; None where nothing is known.
    """

    config: str = ""
    classes: Sequence[str] | None = None
    input: Mapping[str, Any] | None = None


def write_checkpoint(
    path: Path,
    state: TrainingState,
    position: Position,
    description: ModelDescription = ModelDescription(),
) -> None:
    """Write a file, or, where its suffix is ``.dcp``, a folder: complete or not at all. All processes call it.

    Into a folder each process writes its own shards; for a file, tensors are put together in rank 0 one by one.

    Raises:
        CheckpointError: it cannot be written.
    """
    model, model_only = _parted(state.model.state_dict(), state.training_only)
    ema, ema_only = _parted(state.ema.state_dict() if state.ema else {}, state.training_only)
    content = {
        "model_state": model,
        "optimizer_state": state.optimizer.state_dict(),
        "scaler_state": state.scaler.state_dict() if state.scaler else None,
        "ema_state": ema if state.ema else None,
        "training_state": {"model_state": model_only, "ema_state": ema_only},
        "epoch": position.epoch,
        "step": position.step,
        "states": list(position.states),
        "config": description.config,
        "classes": None if description.classes is None else list(description.classes),
        "input": None if description.input is None else dict(description.input),
        "versions": {"videofib": videofib.__version__, "torch": str(torch.__version__)},
    }
    try:
        if path.suffix == SUFFIX:
            write_sharded(path, content)
            return
        content = map_tensors(content, lambda tensor, name: full_tensor_on_main(tensor))
        if processes.is_main():
            with replacing(path) as partial, partial.open("wb") as file:
                torch.save(content, file)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot write the checkpoint {path}: {_reason(error)}") from error


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of videofib onto the CPU.

    It is compared with the checksums that it was written with, which ``torch.load`` does not do. What a checkpoint of
    an earlier version lacks (``classes``, ``input``) is None.

    Raises:
        CheckpointError: no such file, a damaged one, one that holds more than tensors and plain values, or one that
            videofib did not write.
    """
    content = read_tensors(path)
    _compare_checksums(path)
    if not isinstance(content, dict) or not content.keys() >= _KEYS:
        found = printable(sorted(map(str, content))[:8] if isinstance(content, dict) else type(content).__name__)
        raise CheckpointError(
            f"{printable(path)} is not a videofib checkpoint: expected {sorted(_KEYS)}, found {found}"
        )
    content = {**_LATER_KEYS, **content}
    try:
        check_content(content)
    except ValueError as error:
        raise CheckpointError(f"{printable(path)} is damaged: its {error}") from error
    return content


def read_tensors(path: str | Path, *, of_others: bool = False) -> Any:
    """What ``torch.save`` wrote, onto the CPU; tensors and plain values only. Or a checkpoint that is a folder.

    Args:
        of_others: also read files that hold objects of other classes beside the tensors, as those of other projects
            do. Other objects stand in their place (``checkpoint.foreign``), which is logged; nothing of them is run.

    Raises:
        CheckpointError: no such file, a damaged one, one of another kind, or one that holds code.
    """
    path = Path(path)
    if path.suffix == SUFFIX and path.is_dir():
        return _read_folder(path)
    if path.is_dir():
        raise CheckpointError(f"{printable(path)} is a folder, not a checkpoint")
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {printable(path)}")
    try:
        if junk := describe_junk(path):
            raise CheckpointError(f"{printable(path)} {junk}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # damaged files fail in many ways (zip, pickle, EOF, key, runtime errors)
        if of_others and isinstance(error, pickle.UnpicklingError):
            return _read_foreign(path)
        raise CheckpointError(f"{printable(path)} {_why_refused(error)}") from error


def _read_foreign(path: Path) -> Any:
    try:
        content, left_out = read_foreign(path)
    except ForeignError as error:
        raise CheckpointError(f"{printable(path)} {printable(error)}") from error
    if left_out and processes.is_main():
        more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
        shown = ", ".join(printable(name) for name in left_out[:5])
        logger.warning("%s: objects of %s%s beside the tensors are not loaded", printable(path), shown, more)
    return content


def _why_refused(error: Exception) -> str:
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) and (found := re.search(r"(?:GLOBAL|class) ([\w.]+)", text)):
        return f"holds code, {found[1]}, and code from files is never run; save its weights alone"
    detail = re.split(r"\n|\. ", text.rpartition("WeightsUnpickler error:")[2].strip())[0][:200]
    return f"is damaged or not a checkpoint: {printable(detail) or type(error).__name__}"


def restore(checkpoint: dict[str, Any], source: str | Path, state: TrainingState) -> None:
    """Load a checkpoint's content into the parts of a run, sharded or not.

    The optimizer keeps the weight decay, momentum and so on that it was built with. ``source`` is named in errors.

    Raises:
        CheckpointError: it does not fit.
    """
    only = checkpoint["training_state"]
    load_weights(state.model, {**checkpoint["model_state"], **only.get("model_state", {})}, source)
    _restore_optimizer(state.optimizer, checkpoint["optimizer_state"], source)
    if state.scaler and checkpoint["scaler_state"]:
        state.scaler.load_state_dict(checkpoint["scaler_state"])  # one that is switched off takes nothing
    if state.ema:
        name = "ema_state" if checkpoint["ema_state"] else "model_state"
        load_weights(state.ema, {**checkpoint[name], **only.get(name, {})}, source)


def _parted(state: dict[str, Any], apart: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A state dict without the names that begin like this, and those alone."""
    only = {name: value for name, value in state.items() if apart and name.startswith(apart)}
    return {name: value for name, value in state.items() if name not in only}, only


def load_weights(model: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Load a state dict that fits exactly.

    Raises:
        CheckpointError: names what is missing, unexpected or of another shape (with both shapes).
    """
    check_memory(model, source)
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
        listed = printable("; ".join(problems[:8]))
        raise CheckpointError(f"the weights in {printable(source)} do not fit the model: {listed}{more}")
    model.load_state_dict({key: shard_like(tensor, own[key]) for key, tensor in state.items()})


def check_memory(model: nn.Module, source: str | Path) -> None:
    """Raise CheckpointError if some of the model is on the meta device, where loading changes nothing."""
    named = itertools.chain(model.named_parameters(), model.named_buffers())
    if without := [name for name, tensor in named if tensor.is_meta]:
        raise CheckpointError(
            f"{printable(source)} cannot be loaded into a model on the meta device, which has no memory "
            f"({', '.join(without[:3])}{', …' if len(without) > 3 else ''}); build it on the CPU or a GPU"
        )


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any], source: str | Path) -> None:
    """Load moments, sharded over processes as their parameters are; options stay the optimizer's own."""
    try:
        optimizer.load_state_dict(fit_optimizer(optimizer, saved))
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{printable(source)} {printable(error)}") from error


def _read_folder(folder: Path) -> dict[str, Any]:
    _compare_checksums(folder / CONTENT)
    try:
        return read_sharded(folder, read_tensors)
    except CheckpointError:
        raise
    except (Exception, CheckpointException) as error:  # as many ways as for files
        raise CheckpointError(
            f"{printable(folder)} is damaged: {printable(str(error)[:300]) or type(error).__name__}"
        ) from error


def _compare_checksums(path: str | Path) -> None:
    """A flipped bit within a tensor is read as another number, but the archive has the CRC-32 of each tensor."""
    try:
        if not zipfile.is_zipfile(path):
            return  # an older format of torch, which has none, and in which videofib never wrote
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # as many ways as for torch.load
        damaged = f"an entry ({error})"
    if damaged:
        raise CheckpointError(f"{printable(path)} is damaged: {printable(damaged)} is not what was written")


def _reason(error: BaseException) -> str:
    """Why writing failed: torch reports a full disk in terms of its buffers, with the system's own error below."""
    while error.__context__ is not None and not isinstance(error, OSError):
        error = error.__context__
    return (isinstance(error, OSError) and error.strerror) or str(error)
