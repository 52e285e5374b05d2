"""A data set whose records are instructions: to fail, hang or crash, as real files make decoders do."""

import os
import signal
import time
from pathlib import Path

from videofib.data.errors import DecodeError
from videofib.data.lists.record import VideoRecord


class Misbehave:
    """Writes a video's number into its sample; or fails, hangs, crashes, or dies the first time only."""

    def __call__(self, record, seed, out):
        action = record.path.split()[0]
        if action == "bad":
            raise DecodeError(f"{record.path}: not a video")
        if action == "hang-once" and not (mark := Path(record.path.split()[2])).exists():
            mark.touch()
            action = "hang"
        if action == "hang":
            time.sleep(3600)
        if action == "crash-once" and not (mark := Path(record.path.split()[2])).exists():
            mark.touch()
            action = "crash"
        if action == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if action == "bug":
            raise KeyError("an error in the code")
        if action == "slow":
            time.sleep(0.2)
        out.fill_(record.label)


class CannotStart(Misbehave):
    """Ends the process that receives it."""

    def __setstate__(self, state):
        os._exit(3)

    def __getstate__(self):
        return {"not": "empty"}


class Videos:
    """Key i is record i or, where that fails, one of those after it."""

    shape = (1, 3, 2, 4, 4)

    def __init__(self, *actions):
        self.records = [
            VideoRecord(f"{action} {i}" if " " not in action else action, i, f"v{i}")
            for i, action in enumerate(actions)
        ]
        self.read = Misbehave()

    def candidates(self, key):
        for step in range(len(self.records)):
            yield (key + step) % len(self.records), ""

    def give_up(self, failures, out):
        raise RuntimeError("nothing can be read")
