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
from typing import Any

from videofib.checkpoint.content import MAX_EPOCHS
from videofib.checkpoint.file import CheckpointError
from videofib.files import replacing
from videofib.printable import printable

logger = logging.getLogger(__name__)

RECORD = "best.json"
_INSTEAD = "name a checkpoint file instead of best"
_MAX_BYTES = 100 * MAX_EPOCHS  # of the file; an epoch takes fewer than 100
_MAX_FIGURE = 1e30  # JSON may hold integers that no float can


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

    def since_best(self) -> int:
        """How many validations came after the best one, whether or not its checkpoint is still there."""
        since, best = 0, -math.inf
        for _, figure in sorted(self._figures.items()):
            since, best = (0, figure) if figure > best else (since + 1, best)
        return since

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
        if not self.path.exists():
            return []
        try:
            content = _read(self.path)
        except ValueError as error:
            logger.warning(
                "%s is damaged (%s); the best checkpoint is chosen from here on", printable(self.path), error
            )
            return []
        if content["metric"] != self.metric:
            logger.warning(
                "the best checkpoint was chosen by %s and is now chosen by %s, from here on",
                printable(content["metric"]),
                self.metric,
            )
            return []
        return content["epochs"]


def read_best(path: Path) -> str | None:
    """The name of the best checkpoint in a record; None where no epoch was the best yet.

    Raises:
        CheckpointError: there is no record, or it is damaged.
    """
    if not path.exists():
        raise CheckpointError(f"no {printable(path)}, which validation writes; {_INSTEAD}")
    try:
        return _read(path)["best"]
    except ValueError as error:
        raise CheckpointError(f"{printable(path)} is damaged ({error}); {_INSTEAD}") from error


def _read(path: Path) -> dict[str, Any]:
    """The content of a record, of which every value has the type that ``BestRecord.write`` gave it.

    Figures that are null are below all others.

    Raises:
        ValueError: it cannot be read, or holds something else; the message is one line, without the file's name.
    """
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise ValueError("not a regular file")
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
        content = json.loads(text)
    except OSError as error:
        raise ValueError(printable(error.strerror or error)) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:  # not UTF-8, not JSON, or a number with too many digits
        raise ValueError(printable(error)) from error
    _expect(isinstance(content, dict), "it is not a JSON object")
    name, metric, epochs = (content.get(key) for key in ("best", "metric", "epochs"))
    _expect("best" in content and isinstance(name, str | None), "best is not the name of a checkpoint")
    _expect(isinstance(metric, str), "metric is not a name")
    _expect(isinstance(epochs, list), "epochs is not a list")
    return {"best": name, "metric": metric, "epochs": [_entry(number, entry) for number, entry in enumerate(epochs)]}


def _entry(number: int, entry: Any) -> dict[str, Any]:
    where = f"entry {number} of epochs"
    _expect(isinstance(entry, dict) and {"epoch", "figure", "only_as_best"} <= entry.keys(), f"{where} lacks values")
    epoch, figure, only_as_best = entry["epoch"], entry["figure"], entry["only_as_best"]
    _expect(type(epoch) is int and 0 <= epoch <= MAX_EPOCHS, f"{where}: epoch is not a number of epochs")
    # compared before it becomes a float, which an integer of 400 digits cannot; NaN compares as False
    right = figure is None or (type(figure) in (int, float) and -_MAX_FIGURE <= figure <= _MAX_FIGURE)
    _expect(right, f"{where}: figure is not a finite number")
    _expect(isinstance(only_as_best, bool), f"{where}: only_as_best is not true or false")
    return {"epoch": epoch, "figure": -math.inf if figure is None else float(figure), "only_as_best": only_as_best}


def _expect(right: bool, problem: str) -> None:
    if not right:
        raise ValueError(problem)
