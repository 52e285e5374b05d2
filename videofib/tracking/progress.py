"""How far a loop over batches has come: a bar on a terminal, else a line of the log every few seconds."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)

PERIOD = 10.0  # seconds between lines

Batch = TypeVar("Batch")


def with_progress(batches: Iterable[Batch], title: str, total: int, *, shown: bool = True) -> Iterable[Batch]:
    """The batches of a loop, with its progress.

    Args:
        total: how many there are.
        shown: in one process of a run.
    """
    if not shown:
        return batches
    if sys.stderr is not None and sys.stderr.isatty():
        return tqdm(batches, title, total, unit="batch", leave=False)
    return _logged(batches, title, total)


def _logged(batches: Iterable[Batch], title: str, total: int) -> Iterator[Batch]:
    first_done, last_line = None, time.monotonic()
    for done, batch in enumerate(batches):
        now = time.monotonic()
        if done == 1:
            first_done = now  # from here on, since the first one may wait for a compiler, and for workers to start
        if done and now - last_line >= PERIOD:
            last_line = now
            left = ""
            if first_done is not None and done > 1:
                left = f", {timedelta(seconds=round((now - first_done) / (done - 1) * (total - done)))} left"
            logger.info("%s: %d of %d batches%s", title, done, total, left)
        yield batch
