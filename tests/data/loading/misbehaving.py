"""A data set whose videos do to their reader what real files do to decoders: records are what to do."""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

from videofib.data.errors import DecodeError


class Misbehave:
    """Writes a video's number into its sample; or fails, hangs, crashes, or dies the first time only."""

    def __call__(self, record, seed, out):
        deed = record.path.split()[0]
        if deed == "bad":
            raise DecodeError(f"{record.path}: not a video")
        if deed == "hang":
            time.sleep(3600)
        if deed == "crash-once" and not (mark := Path(record.path.split()[2])).exists():
            mark.touch()
            deed = "crash"
        if deed == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if deed == "bug":
            raise KeyError("a mistake in the code")
        if deed == "slow":
            time.sleep(0.2)
        out.fill_(record.label)


class CannotStart(Misbehave):
    """Ends the process that receives it."""

    def __setstate__(self, state):
        os._exit(3)

    def __getstate__(self):
        return {"not": "empty"}


class Videos:
    """Key i asks for record i; where that fails, for those after it."""

    shape = (1, 3, 2, 4, 4)

    def __init__(self, *deeds):
        self.records = [
            SimpleNamespace(path=f"{deed} {i}" if " " not in deed else deed, video_id=f"v{i}", label=i)
            for i, deed in enumerate(deeds)
        ]
        self.read = Misbehave()

    def candidates(self, key):
        for step in range(len(self.records)):
            yield (key + step) % len(self.records), ""

    def give_up(self, failures, out):
        raise RuntimeError("nothing can be read")
