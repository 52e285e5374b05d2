"""The checkpoints of a run: what is saved and kept, which is the best, and which one the run resumes from.

``OUTPUT_DIR/checkpoints/checkpoint_epoch_00003.pyth`` is written when three epochs are done, and
``checkpoint_epoch_00003_step_000120.pyth`` 120 batches later. What stays:

- at the end of epochs: all, or the newest ``keep`` and the best;
- within an epoch: those among the newest two of all.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from videofib.checkpoint.best import RECORD, BestRecord, read_best
from videofib.checkpoint.file import (
    CheckpointError,
    ModelDescription,
    Position,
    TrainingState,
    load_checkpoint,
    restore,
    write_checkpoint,
)
from videofib.checkpoint.sharded import SUFFIX, remove_sharded
from videofib.classes import ClassesError, check_names, difference
from videofib.distributed import processes
from videofib.distributed.fsdp import is_sharded
from videofib.files import remove_partial
from videofib.printable import printable

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint_epoch_(\d+)(?:_step_(\d+))?\.(?:pyth|dcp)")


@dataclass(frozen=True)
class Resumed:
    """The checkpoint that a run was resumed from, and the configuration it was written with, as YAML."""

    path: Path
    position: Position
    config: str


class CheckpointManager:
    """Saves a run, keeps the checkpoints that are to stay, and resumes it. All processes call its methods.

    Args:
        directory: where the checkpoints are.
        state: of the run.
        description: of the model, saved beside its weights.
        metric: the figure of validation by which the best is chosen, the higher the better; None: no best.
        keep: so many of the newest checkpoints at the end of epochs stay, and the best; 0: all.
        sharded: where the model is sharded, save folders ``….dcp`` into which each process writes its own shards.
    """

    def __init__(
        self,
        directory: str | Path,
        state: TrainingState,
        description: ModelDescription = ModelDescription(),  # noqa: B008, a constant
        *,
        metric: str | None = None,
        keep: int = 0,
        sharded: bool = False,
    ) -> None:
        self.directory, self.state, self.description, self.keep = Path(directory), state, description, keep
        self._suffix = SUFFIX if sharded and is_sharded(state.model) else ".pyth"
        self._last: tuple[int, int] | None = None  # (epoch, step) of the newest checkpoint of this run
        # the main process alone decides which is the best
        self._record = BestRecord(self.directory / RECORD, metric) if metric and processes.is_main() else None

    def resume(self) -> Resumed | None:
        """Load the newest readable checkpoint; None where there is none.

        Raises:
            CheckpointError: none can be read, it does not fit this run, its classes have other names or another order,
                or processes see different ones.
        """
        if processes.is_main():
            remove_partial(self.directory)  # what a run that was killed was writing
        found = latest_checkpoint(self.directory)
        if len(set(processes.all_gather(found and found[0].name))) > 1:
            raise CheckpointError(
                f"not every process sees the same checkpoints in {self.directory}; is the folder shared?"
            )
        resumed = None
        if found:
            path, content = found
            self._keep_classes(path, content["classes"], content["tasks"])
            restore(content, path, self.state)
            position = Position(content["epoch"], content["step"], content["states"])
            resumed = Resumed(path, position, content["config"])
            self._last = (position.epoch, position.step)
        if self._record:
            self._record.read(resumed.position.epoch if resumed else 0)
        return resumed

    def _keep_classes(self, path: Path, classes: object, tasks: dict | None) -> None:
        """Compare the classes of a checkpoint with the run's; where the run does not name its own, it has these.

        Args:
            tasks: by name, the classes of each task of a run of several.
        """
        ours = self.description.tasks
        if list(tasks or ()) != list(ours or ()):
            raise CheckpointError(
                f"{path} was trained on the tasks [{', '.join(map(str, tasks or ()))}], this run has "
                f"[{', '.join(ours or ())}]; set TASKS.NAMES as they were, or train into another OUTPUT_DIR"
            )
        if tasks is None or ours is None:
            kept = self._compared(path, classes, self.description.classes)
            self.description = replace(self.description, classes=kept)
        else:
            by_task = {name: self._compared(path, tasks[name], names) for name, names in ours.items()}
            self.description = replace(self.description, tasks=by_task)

    @staticmethod
    def _compared(path: Path, classes: object, ours: Sequence[str] | None) -> Sequence[str] | None:
        """The names that the run and its checkpoint agree on."""
        if (classes is None) != (ours is None) and processes.is_main():
            logger.warning(
                "%s not name its classes, so they cannot be compared with those of %s",
                *((f"{path} does", "the data set") if classes is None else ("the data set does", path)),
            )
        if classes is None:
            return ours
        try:
            names = check_names(classes)
            differs = difference(names, ours or names)
        except ClassesError as error:
            raise CheckpointError(f"{path} is damaged: its classes {error}") from error
        if differs:
            raise CheckpointError(
                f"{path} was trained on other classes than the data set now has: {differs}; restore the names and "
                "labels that the run began with, or train into another OUTPUT_DIR"
            )
        return names

    def save(self, position: Position) -> Path:
        """Save the run at this position, and remove what need not stay; returns the checkpoint's path.

        Raises:
            CheckpointError: it cannot be written.
        """
        within = f"_step_{position.step:06d}" if position.step else ""
        path = self.directory / f"checkpoint_epoch_{position.epoch:05d}{within}{self._suffix}"
        write_checkpoint(path, self.state, position, self.description)
        self._last = (position.epoch, position.step)
        if processes.is_main():
            self._remove_old()
        return path

    def awaits_validation(self, epoch: int) -> bool:
        """Whether a best is chosen, and the validation after so many epochs has had no part in it yet."""
        return processes.any_process(self._record is not None and not self._record.has(epoch))

    def validated(self, epoch: int, figures: Mapping[str, Any]) -> None:
        """Record what validation found after so many epochs; the best is saved even where nothing else asked for it.

        Such a checkpoint goes when there is a better one.

        Args:
            figures: the same in every process.

        Raises:
            CheckpointError: the checkpoint or the record cannot be written.
        """
        improves = self._record is not None and self._record.improves(figures, self._epoch_ends())
        only_as_best = processes.any_process(improves and self._last != (epoch, 0))
        if only_as_best:
            self.save(Position(epoch))
        if self._record:
            ends = self._epoch_ends()
            before = self._record.best(ends)
            self._record.add(epoch, figures, only_as_best=only_as_best)
            best = self._record.best(ends)
            self._record.write(None if best is None else ends[best].name)
            if before is not None and before != best and before in self._record.only_as_best:
                remove_checkpoint(ends[before])
            self._remove_old()

    def validations_since_best(self) -> int:
        """How many validations in a row have found nothing better; the same in every process."""
        return processes.broadcast(self._record.since_best() if self._record else 0)

    def _remove_old(self) -> None:
        """Remove what need not stay of what was saved up to here.

        What is named as later was there before, and this run could not read it: were it counted among the newest, the
        good ones would go.
        """
        for path in self._until_here()[:-2]:
            if _position(path)[1]:
                remove_checkpoint(path)
        ends = self._epoch_ends()
        best = self._record.best(ends) if self._record else None
        at_ends = [path for path in self._until_here() if not _position(path)[1]]
        for path in at_ends[: -self.keep] if self.keep else ():
            if best is None or path != ends[best]:
                remove_checkpoint(path)

    def _until_here(self) -> list[Path]:
        last = self._last or (0, 0)
        return [path for path in find_checkpoints(self.directory) if _position(path) <= last]

    def _epoch_ends(self) -> dict[int, Path]:
        """The checkpoints at the end of epochs, by epochs done."""
        ends: dict[int, Path] = {}
        for path in find_checkpoints(self.directory):
            epoch, step = _position(path)
            if not step:
                ends.setdefault(epoch, path)
        return ends


class NoCheckpoints:
    """Takes the place of a manager where a run is not to be saved."""

    def save(self, position: Position) -> None:
        """Do nothing."""

    def awaits_validation(self, epoch: int) -> bool:
        """No best is chosen."""
        return False

    def validated(self, epoch: int, figures: Mapping[str, Any]) -> None:
        """Do nothing."""

    def validations_since_best(self) -> int:
        """Nothing is validated."""
        return 0


def find_checkpoints(directory: str | Path) -> list[Path]:
    """The checkpoints in a folder, by how far the run had come."""
    directory = Path(directory)
    files = directory.iterdir() if directory.is_dir() else ()
    return sorted((file for file in files if _NAME.fullmatch(file.name)), key=_position)


def latest_checkpoint(directory: str | Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest readable checkpoint in a folder and its content, None where there are none.

    A damaged one is reported and passed over.

    Raises:
        CheckpointError: there are some, and all are damaged.
    """
    files = find_checkpoints(directory)
    for path in reversed(files):
        try:
            return path, load_checkpoint(path)
        except CheckpointError as error:
            logger.warning("%s; trying the one before it", error)
    if files:
        raise CheckpointError(f"none of the {len(files)} checkpoints in {directory} can be read; move them away")
    return None


def best_checkpoint(directory: str | Path) -> Path:
    """The checkpoint that ``best.json`` names.

    Raises:
        CheckpointError: there is no such record, or it names no checkpoint in this folder.
    """
    record = Path(directory) / RECORD
    name = read_best(record)
    if name is None:
        raise CheckpointError(f"{printable(record)} names no best checkpoint; name a checkpoint file instead of best")
    for path in find_checkpoints(directory):
        if path.name == name:
            return path
    raise CheckpointError(
        f"{printable(record)} names {printable(repr(name[:200]))}, which is not a checkpoint in that folder; name a "
        "checkpoint file instead of best"
    )


def remove_checkpoint(path: Path) -> None:
    """Remove a file or folder that ``find_checkpoints`` gave, if it is still there."""
    if path.is_dir():
        remove_sharded(path)
    else:
        path.unlink(missing_ok=True)


def _position(path: Path) -> tuple[int, int]:
    epoch, step = _NAME.fullmatch(path.name).groups()
    return int(epoch), int(step or 0)
