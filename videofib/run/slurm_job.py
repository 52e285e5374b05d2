"""A run as a job of a cluster: one task a machine, which starts the machine's processes, and saves when time is up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

_RUN = "from videofib.run.main import main; main()"


class SubmittedRun:
    """What submitit calls in every task of a job: ``run_net`` with the words of a command line.

    When submitit hears that the time is up, or that the job must make room, it calls ``checkpoint``: the run is asked
    to end (SIGTERM), saves where it is, and the same job is queued again, to go on from there.

    Args:
        words: of the command line, ``--cfg FILE KEY VALUE ...``.
        gpus: processes on each machine.
    """

    def __init__(self, words: Sequence[str], gpus: int) -> None:
        self.words, self.gpus, self.pid = list(words), gpus, 0

    def __call__(self) -> None:
        """Run until the end.

        Raises:
            SystemExit: with the exit code of the run, where that is not 0.
        """
        process = subprocess.Popen([sys.executable, "-c", _RUN, *self.words, *self._place()])
        self.pid = process.pid
        while process.poll() is None:  # a blocking wait would hold a lock that the signal's handler needs
            time.sleep(0.5)
        if process.returncode:
            raise SystemExit(process.returncode if process.returncode > 0 else 128 - process.returncode)

    def checkpoint(self):
        """End the run, wait until it has saved, and return what the job is to do when its turn comes again."""
        from submitit.helpers import DelayedSubmission

        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(SubmittedRun(self.words, self.gpus))

    def _place(self) -> list[str]:
        """The settings that follow from where this task is."""
        from submitit.helpers import TorchDistributedEnvironment

        task = TorchDistributedEnvironment()
        settings = {"NUM_GPUS": self.gpus, "NUM_SHARDS": task.world_size, "SHARD_ID": task.rank}
        if task.world_size > 1:
            settings["INIT_METHOD"] = f"tcp://{task.master_addr}:{task.master_port}"
        return [str(word) for setting in settings.items() for word in setting]
