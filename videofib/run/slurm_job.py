"""A run as a cluster job: one task per machine, which starts its processes and saves before the time limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence


class SubmittedRun:
    """The function that submitit calls in every task of a job: ``videofib run`` with a command line.

    Before the time limit, and when the job is preempted, submitit calls ``checkpoint``: the run gets SIGTERM and saves,
    and the job is queued again, to resume.

    Args:
        words: the command line, ``--cfg FILE KEY VALUE ...``.
        gpus: processes on each machine.
    """

    def __init__(self, words: Sequence[str], gpus: int) -> None:
        self.words, self.gpus, self.pid = list(words), gpus, 0

    def __call__(self) -> None:
        """Run to the end.

        Raises:
            SystemExit: with the run's exit code, unless that is 0.
        """
        process = subprocess.Popen([sys.executable, "-m", "videofib", "run", *self.words, *self._task_settings()])
        self.pid = process.pid
        while process.poll() is None:  # a blocking wait would hold a lock that the signal handler needs
            time.sleep(0.5)
        if process.returncode:
            raise SystemExit(process.returncode if process.returncode > 0 else 128 - process.returncode)

    def checkpoint(self):
        """End the run, wait until it has saved, and return what the job runs when it starts again."""
        from submitit.helpers import DelayedSubmission

        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(SubmittedRun(self.words, self.gpus))

    def _task_settings(self) -> list[str]:
        """KEY VALUE pairs that follow from this task's index in the job."""
        from submitit.helpers import TorchDistributedEnvironment

        task = TorchDistributedEnvironment()
        settings = {"NUM_GPUS": self.gpus, "NUM_SHARDS": task.world_size, "SHARD_ID": task.rank}
        if task.world_size > 1:
            settings["INIT_METHOD"] = f"tcp://{task.master_addr}:{task.master_port}"
        return [str(word) for setting in settings.items() for word in setting]
