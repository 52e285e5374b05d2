"""Which of a run's checkpoints stay: the newest, and the best by what validation said.

``OUTPUT_DIR/checkpoints/best.json`` holds the figure of every epoch that was validated, and names the best checkpoint::

    {"metric": "top1_acc", "best": "checkpoint_epoch_00002.pyth",
     "epochs": [{"epoch": 1, "figure": 61.2, "only_as_best": false}, {"epoch": 2, "figure": 64.0, ...}]}
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

from videofib.checkpoint.file import CheckpointError, find_checkpoints, remove_checkpoint
from videofib.files import replacing

logger = logging.getLogger(__name__)

RECORD = "best.json"


class BestKeeper:
    """Knows the best checkpoint of a run, also of one that goes on, and keeps ``best.json``.

    The best is the one of the highest figure; of equals it is the first. An epoch whose checkpoint is gone
    cannot be it.

    Args:
        directory: where the checkpoints are.
        metric: the figure of validation that counts, the higher the better.
        epoch: epochs done; what the file says of later ones is forgotten, since the run comes to them again.
        keep: see :func:`remove_old`.
    """

    def __init__(self, directory: str | Path, metric: str, epoch: int = 0, keep: int = 0) -> None:
        self.directory, self.metric, self.keep = Path(directory), metric, keep
        self._figures: dict[int, float] = {}
        self._only_as_best: set[int] = set()
        for entry in self._read():
            if entry["epoch"] <= epoch:
                self._add(**entry)

    def has_seen(self, epoch: int) -> bool:
        """Whether the validation after so many epochs is in the record."""
        return epoch in self._figures

    def improves(self, figures: dict) -> bool:
        """Whether this outcome of a validation is better than all before."""
        best = self._best_epoch()
        return self._figure(figures) > (-math.inf if best is None else self._figures[best])

    def note(self, epoch: int, figures: dict, *, only_as_best: bool = False) -> None:
        """Write down the outcome after so many epochs, and remove what need not stay now.

        Args:
            only_as_best: its checkpoint was written for no other reason, and goes once a better one is there.

        Raises:
            CheckpointError: the record cannot be written.
        """
        before = self._best_epoch()
        self._add(epoch, self._figure(figures), only_as_best)
        self._write()
        if before in self._only_as_best and before != self._best_epoch():
            remove_checkpoint(_file_of(self.directory, before))
        self.remove_old()

    def remove_old(self) -> None:
        """As the function of this name, without touching the best."""
        remove_old(self.directory, self.keep, spare=self._best_epoch())

    def _add(self, epoch: int, figure: float, only_as_best: bool) -> None:
        self._figures[epoch] = figure
        if only_as_best:
            self._only_as_best.add(epoch)

    def _figure(self, figures: dict) -> float:
        """The figure that counts; where there is none, or it is not finite, this is below all others."""
        value = figures.get(self.metric)
        return float(value) if value is not None and math.isfinite(value) else -math.inf

    def _best_epoch(self) -> int | None:
        there = [e for e, figure in sorted(self._figures.items()) if figure > -math.inf and _file_of(self.directory, e)]
        return max(there, key=self._figures.get) if there else None  # of equals max gives the first

    def _read(self) -> list[dict]:
        """The entries of the file; those of another metric, or of a damaged file, are told of and left."""
        path = self.directory / RECORD
        if not path.is_file():
            return []
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            entries = [
                {
                    "epoch": int(entry["epoch"]),
                    "figure": -math.inf if entry["figure"] is None else float(entry["figure"]),
                    "only_as_best": bool(entry["only_as_best"]),
                }
                for entry in content["epochs"]
            ]
            metric = content["metric"]
        except _UNREADABLE as error:
            logger.warning("%s is damaged (%s); the best checkpoint is chosen from here on", path, error)
            return []
        if metric != self.metric:
            logger.warning(
                "the best checkpoint was chosen by %s and is now by %s, so it is chosen from here on",
                metric,
                self.metric,
            )
            return []
        return entries

    def _write(self) -> None:
        best = self._best_epoch()
        content = {
            "metric": self.metric,
            "best": None if best is None else _file_of(self.directory, best).name,
            "epochs": [
                {
                    "epoch": epoch,
                    "figure": figure if math.isfinite(figure) else None,
                    "only_as_best": epoch in self._only_as_best,
                }
                for epoch, figure in sorted(self._figures.items())
            ],
        }
        path = self.directory / RECORD
        try:
            with replacing(path) as partial:
                partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {error}") from error


def remove_old(directory: str | Path, keep: int, spare: int | None = None) -> None:
    """Remove the checkpoints at the end of epochs but the newest ``keep`` (0: all stay) and that of epoch ``spare``.

    Those from within an epoch do not count, and are not touched.
    """
    whole = [path for path in find_checkpoints(directory) if _is_whole(path)]
    for path in whole[:-keep] if keep else []:
        if spare is None or path != _file_of(directory, spare):
            remove_checkpoint(path)


def best_checkpoint(directory: str | Path) -> Path:
    """The checkpoint that ``best.json`` names.

    Raises:
        CheckpointError: there is no such record, or it names no checkpoint in this folder.
    """
    record = Path(directory) / RECORD
    try:
        name = json.loads(record.read_text(encoding="utf-8"))["best"]
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no {record}, which validation writes; name a checkpoint file instead of best"
        ) from error
    except _UNREADABLE as error:
        raise CheckpointError(f"{record} is damaged ({error}); {_MEND}") from error
    for path in find_checkpoints(directory):
        if path.name == name:
            return path
    raise CheckpointError(
        f"{record} names {name!r}, which is no checkpoint there; name a checkpoint file instead of best"
    )


_MEND = "name a checkpoint file instead of best"
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError)


def _is_whole(path: Path) -> bool:
    return "_step_" not in path.name


def _file_of(directory: str | Path, epoch: int) -> Path | None:
    """The checkpoint after so many epochs, None where there is none."""
    stem = f"checkpoint_epoch_{epoch:05d}."
    return next((path for path in find_checkpoints(directory) if path.name.startswith(stem)), None)
