"""The log of a run: readable lines on stdout and in ``log.txt``, and its figures as JSON.

Every set of figures is a line ``json_stats: {...}`` on stdout, as in PySlowFast's logs, and a JSON line in
``stats.jsonl``. What has a value for each class or video is left out there: ``details.jsonl`` has the full line.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Mapping
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
        details = _to_file(Path(output_dir) / "details.jsonl", "%(details)s", delay=True)
        details.addFilter(lambda record: bool(vars(record)["details"]))
        stats.addHandler(details)


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
    values = {key: _json_value(value) for key, value in stats.items()}
    short = {key: value for key, value in values.items() if _is_short(value)}
    text = json.dumps(short, allow_nan=False)
    details = json.dumps(values, allow_nan=False) if len(short) < len(values) else ""
    extra = {"stats": text, "details": details, "figures": stats}
    logging.getLogger(_STATS).info("json_stats: %s", text, extra=extra)


def log_unreadable(when: str, what: str, videos: Mapping[str, str], name: str, *, append: bool = False) -> None:
    """Log in one line that some videos could not be read, and list them in a file beside the log.

    Args:
        when, what: for the line, such as ``test`` and ``counted as wrong``.
        videos: video id -> why it could not be read.
        name: of the file; ``append`` to it, or replace it.
    """
    first, reason = min(videos.items())
    where: tuple[str, ...] = ()
    if folder := _folder():
        lines = [f"{printable(video)}: {printable(why)}\n" for video, why in sorted(videos.items())]
        try:
            with (folder / name).open("a" if append else "w", encoding="utf-8") as file:
                file.writelines(lines)
            where = (str(folder / name),)
        except OSError:  # the run continues
            pass
    more = f", and {len(videos) - 1} more" if len(videos) > 1 else ""
    listed = "; all are listed in %s" if where and more else "; see %s" if where else ""
    logging.getLogger(_LOGGER).warning(
        f"%s: %d unreadable {'videos were' if more else 'video was'} %s: %s (%s){more}{listed}",
        *(when, len(videos), what, first, reason, *where),
    )


def _folder() -> Path | None:
    """The folder of the log, where it has one."""
    files = (h for h in logging.getLogger(_STATS).handlers if isinstance(h, logging.FileHandler))
    return next((Path(handler.baseFilename).parent for handler in files), None)


def _is_short(value: object) -> bool:
    """Whether a value may be on the console: a number, a text, the two ends of an interval."""
    return not isinstance(value, dict | list) or (
        isinstance(value, list) and len(value) == 2 and all(isinstance(item, int | float) for item in value)
    )


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


def _to_file(path: Path, pattern: str, *, delay: bool = False) -> logging.Handler:
    handler = logging.FileHandler(path, encoding="utf-8", delay=delay)
    formatter = _Printable(pattern, "%Y-%m-%d %H:%M:%S UTC")  # machines of a run may be in several zones
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    return handler
