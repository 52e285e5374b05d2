"""The log of a run: readable lines on stdout and in ``log.txt``, and its figures as JSON.

Every set of figures is a line ``json_stats: {...}`` on stdout, as in PySlowFast's logs, and a JSON line in
``stats.jsonl``.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from numbers import Number
from pathlib import Path
from typing import Any

from tqdm import tqdm

from videofib.printable import printable

_LOGGER = "videofib"
_STATS = "videofib.stats"


def setup_logging(output_dir: str | Path | None = None, rank: int = 0) -> None:
    """Send the log of rank 0 to stdout and, given a folder, to ``log.txt`` and ``stats.jsonl`` in it.

    Other ranks log warnings and errors alone, to stderr. A second call replaces the handlers of the first.
    """
    close_logging()
    logger, stats = logging.getLogger(_LOGGER), logging.getLogger(_STATS)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    if rank != 0:
        others = logging.StreamHandler(sys.stderr)
        others.setLevel(logging.WARNING)
        others.setFormatter(_Printable(f"rank {rank}: %(message)s"))
        logger.addHandler(others)
        return
    logger.addHandler(_BesideProgressBar())
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        logger.addHandler(_to_file(Path(output_dir) / "log.txt", "%(asctime)s %(levelname)s %(message)s"))
        stats.addHandler(_to_file(Path(output_dir) / "stats.jsonl", "%(stats)s"))


def close_logging() -> None:
    """Flush and remove every handler that was added since ``setup_logging``."""
    for name in (_LOGGER, _STATS):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()


def add_stats_handler(handler: logging.Handler) -> None:
    """Also send every set of figures to a handler, as ``record.figures``, until the log is closed."""
    logging.getLogger(_STATS).addHandler(handler)


def log_stats(stats: dict) -> None:
    """Log figures as one line of JSON, in which nan and infinity become null."""
    text = json.dumps({key: _json_value(value) for key, value in stats.items()}, allow_nan=False)
    logging.getLogger(_STATS).info("json_stats: %s", text, extra={"stats": text, "figures": stats})


def _json_value(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


class _Printable(logging.Formatter):
    """Escapes what does not show itself in names and other texts from outside (``printable``).

    Line ends are kept where they are those of the message itself, as ``logger.info(message, *args)`` has it; one in an
    argument is escaped, so that no name can look like a line of the log. Tracebacks keep their lines.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        message = _printable_message(record)
        return super().formatMessage(logging.makeLogRecord({**vars(record), "message": message}))

    def formatException(self, error: Any) -> str:
        return _each_line(super().formatException(error))


def _printable_message(record: logging.LogRecord) -> str:
    args = record.args
    if isinstance(args, tuple):
        args = tuple(argument if isinstance(argument, Number) else printable(argument) for argument in args)
    return _each_line(str(record.msg) % args if args else str(record.msg))


def _each_line(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))


class _BesideProgressBar(logging.Handler):
    """Prints to stdout, and errors to stderr, without breaking a progress bar on the screen."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_Printable("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.ERROR else sys.stdout
        tqdm.write(self.format(record), file=stream)
        stream.flush()


def _to_file(path: Path, pattern: str) -> logging.Handler:
    handler = logging.FileHandler(path, encoding="utf-8")
    formatter = _Printable(pattern, "%Y-%m-%d %H:%M:%S UTC")  # machines of a run may be in several zones
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    return handler
