"""Errors of reading a data set."""

from __future__ import annotations

import signal


class ManifestError(ValueError):
    """A list file, manifest or data folder that cannot be used; the message names the file and the line."""


class DecodeError(RuntimeError):
    """A file of which no frames can be decoded; the message names the file and the reason."""


class TooLargeError(DecodeError):
    """The frames of one read take more memory than it may; fewer of them may fit."""


class FrameIndexError(IndexError):
    """An index is beyond the last frame of a video; ``num_frames`` is how many frames it really has."""

    def __init__(self, message: str, num_frames: int = 0):  # a default, for unpickling
        super().__init__(message)
        self.num_frames = num_frames


def describe_exit(exitcode: int) -> str:
    """How a process ended, for messages: ``signal SIGKILL`` or ``exit code 7``."""
    return f"signal {signal.Signals(-exitcode).name}" if exitcode < 0 else f"exit code {exitcode}"
