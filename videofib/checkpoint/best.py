"""Which epoch was the best by what validation found.

``OUTPUT_DIR/checkpoints/best.json`` holds the figure of every epoch that was validated, and names the best checkpoint::

    {"metric": "top1_acc", "best": "checkpoint_epoch_00002.pyth",
     "epochs": [{"epoch": 1, "figure": 61.2, "only_as_best": false}, {"epoch": 2, "figure": 64.0, ...}]}
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Container, Mapping
from pathlib import Path

from videofib.checkpoint.file import CheckpointError
from videofib.files import replacing

logger = logging.getLogger(__name__)

RECORD = "best.json"
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError)


class BestRecord:
    """The figures of a run's validations, and which of its epochs is the best: the highest, and of equals the first.

    Args:
        path: of ``best.json``.
        metric: the figure that counts, the higher the better.
    """

    def __init__(self, path: Path, metric: str) -> None:
        self.path, self.metric = path, metric
        self.only_as_best: set[int] = set()  # epochs whose checkpoint was written for no other reason
        self._figures: dict[int, float] = {}

    def has(self, epoch: int) -> bool:
        """Whether the validation after so many epochs is in the record."""
        return epoch in self._figures

    def add(self, epoch: int, figures: Mapping, *, only_as_best: bool) -> None:
        """Record the outcome of the validation after so many epochs."""
        self._add(epoch, self._figure(figures), only_as_best)

    def best(self, epochs: Container[int]) -> int | None:
        """The best of these epochs, which are those that have a checkpoint; None where no figure counts."""
        candidates = [
            epoch for epoch, figure in sorted(self._figures.items()) if figure > -math.inf and epoch in epochs
        ]
        return max(candidates, key=self._figures.get) if candidates else None  # of equals max gives the first

    def improves(self, figures: Mapping, epochs: Container[int]) -> bool:
        """Whether this outcome of a validation is better than that of all these epochs."""
        best = self.best(epochs)
        return self._figure(figures) > (-math.inf if best is None else self._figures[best])

    def read(self, epoch: int) -> None:
        """Read the file up to so many epochs; a resumed run validates later ones again.

        The entries of another metric, and those of a damaged file, are ignored with a warning.
        """
        for entry in self._entries():
            if entry["epoch"] <= epoch:
                self._add(**entry)

    def write(self, best: str | None) -> None:
        """Write the file, which names the best checkpoint.

        Raises:
            CheckpointError: it cannot be written.
        """
        content = {
            "metric": self.metric,
            "best": best,
            "epochs": [
                {
                    "epoch": epoch,
                    "figure": figure if math.isfinite(figure) else None,
                    "only_as_best": epoch in self.only_as_best,
                }
                for epoch, figure in sorted(self._figures.items())
            ],
        }
        try:
            with replacing(self.path) as partial:
                partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"cannot write {self.path}: {error}") from error

    def _figure(self, figures: Mapping) -> float:
        """The figure that counts; where there is none, or it is not finite, this is below all others."""
        value = figures.get(self.metric)
        return float(value) if value is not None and math.isfinite(value) else -math.inf

    def _add(self, epoch: int, figure: float, only_as_best: bool) -> None:
        self._figures[epoch] = figure
        if only_as_best:
            self.only_as_best.add(epoch)

    def _entries(self) -> list[dict]:
        if not self.path.is_file():
            return []
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
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
            logger.warning("%s is damaged (%s); the best checkpoint is chosen from here on", self.path, error)
            return []
        if metric != self.metric:
            logger.warning(
                "the best checkpoint was chosen by %s and is now chosen by %s, from here on", metric, self.metric
            )
            return []
        return entries


def read_best(path: Path) -> str:
    """The name of the best checkpoint in a record.

    Raises:
        CheckpointError: there is no record, or it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))["best"]
    except FileNotFoundError as error:
        raise CheckpointError(f"no {path}, which validation writes; {_INSTEAD}") from error
    except _UNREADABLE as error:
        raise CheckpointError(f"{path} is damaged ({error}); {_INSTEAD}") from error


_INSTEAD = "name a checkpoint file instead of best"
