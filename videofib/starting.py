"""Starting processes: what hinders it, as one line that says what to do.

A process that is started imports the main module of its parent first, so the lines of a script must be guarded.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from videofib.signals import sigint_blocked

_FILES_OF_ONE = 3  # of a process, in its parent: two pipes, and a third while it starts
_SPARE_FILES = 16  # for videos, lists and checkpoints
UNGUARDED = 79  # exit status of a process that was to be started and runs the lines of its parent's script instead
_GUARD = 'put what the script does below a line: if __name__ == "__main__":'


class StartError(RuntimeError):
    """No process can be started; the message says why and what to do."""


def end_if_unguarded() -> None:
    """End this process where it only imports the script of the one that starts it; its parent reports that."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(UNGUARDED)


def check_exit(exitcode: int | None) -> None:
    """Raise StartError where a process ended because the script is not guarded."""
    if exitcode == UNGUARDED:
        raise StartError(f"each process that is started imports the script first, and so runs it again: {_GUARD}")


def check_open_files(count: int, fewer: str) -> None:
    """Raise StartError where the limit of open files is too low for ``count`` processes.

    The server that starts them has the same limit, and would only print a traceback.
    """
    limit, folder = resource.getrlimit(resource.RLIMIT_NOFILE)[0], Path("/proc/self/fd")
    already = len(list(folder.iterdir())) if folder.is_dir() else 0
    if limit != resource.RLIM_INFINITY and already + _FILES_OF_ONE * count + _SPARE_FILES > limit:
        raise StartError(
            f"{count} processes need more open files than the limit of {limit}: raise the limit (ulimit -n 4096), or "
            f"lower {fewer}"
        )


@contextmanager
def starting(fewer: str) -> Iterator[None]:
    """Around the start of processes, which do not receive SIGINT (``sigint_blocked``).

    Args:
        fewer: what to lower where there are too many, such as ``DATA_LOADER.NUM_WORKERS``.

    Raises:
        StartError: they cannot be started.
    """
    end_if_unguarded()
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if getattr(main, "__spec__", None) is None and file is not None and not Path(file).exists():
        raise StartError(
            f"processes cannot be started from a program that is not in a file ({file}), since each imports it first: "
            f"save it to a file and {_GUARD}"
        )
    try:
        with sigint_blocked():
            yield
    except OSError as error:
        advice = "raise the limit (ulimit -n 4096), or " if error.errno in (errno.EMFILE, errno.ENFILE) else ""
        raise StartError(f"a process cannot be started ({error.strerror or error}): {advice}lower {fewer}") from error
