"""A command called in this process, with the result that ``subprocess.run`` would give."""

import contextlib
import io
import subprocess
from collections.abc import Callable, Iterable

from videofib.tracking.log import close_logging


def call(main: Callable, words: Iterable, *, check: bool = False) -> subprocess.CompletedProcess:
    """Call ``main(argv)`` with the words of a command line; a real process would first import everything again.

    Raises:
        AssertionError: with ``check``, the command failed; the message is what it printed.
    """
    argv, code = [str(word) for word in words], 0
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(argv)
        except SystemExit as end:
            code = end.code
        finally:
            close_logging()
    if isinstance(code, str):  # as the interpreter does it
        err.write(f"{code}\n")
        code = 1
    assert not check or not code, out.getvalue() + err.getvalue()
    return subprocess.CompletedProcess(argv, code or 0, out.getvalue(), err.getvalue())
