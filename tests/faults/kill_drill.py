"""kill -9 at bad moments: preparation, run again, must end with the bytes of an undisturbed run.

    python tests/faults/kill_drill.py --videos UCF-101 --clips 60 --kills 20
    python tests/faults/kill_drill.py --videos UCF-101 --clips 60 --kills 20 --engine ray --victim worker

--victim all kills the preparation and every process below it at once, as a power cut or an operator does; the same
command then resumes. --victim worker kills one busy worker: with Ray the same run must end complete, with the local
engine the next one. A run that ends is compared with the undisturbed one, file by file, and the drill starts again with
an empty folder until so many kills have hit. After every kill each video in the journal must be complete, and so must
be whatever stands under its own name. Linux only.

Half of the kills of everything come at random moments, the other half within milliseconds of a file's appearing under
its name: a writer that writes in place is then in the middle of it, and the half file is seen.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


LOOK_SECONDS = 0.0005  # between two looks at the folder: far less than a video's encoding takes


class DrillError(AssertionError):
    """Preparation did not survive; the message says what is wrong."""


class Drill:
    """Preparations of one folder of videos, undisturbed and killed.

    Args:
        videos: folder of classes.
        work: a folder for the outputs.
        options: of the preparation, such as ``("--jobs", "2")``.
        seed: of the moments.
    """

    def __init__(self, videos: Path, work: Path, options: Sequence[str], seed: int):
        self.out, self._random = work / "killed", random.Random(seed)
        self.kills: list[int] = []  # how many videos were done at each
        self.aimed = 0  # kills at the appearance of a file
        self.compared = self.runs = 0
        self._command = [sys.executable, str(ROOT / "data_prep/folder.py"), "--videos", str(videos), *options, "--out"]
        start = time.monotonic()
        self._finish(self._start(work / "calm"))
        self.duration = time.monotonic() - start  # seconds of an undisturbed run
        self._expected = digests(work / "calm")

    def kill_all(self, kills: int) -> None:
        """Kill all processes of the preparation at so many moments, then let it end.

        Every other kill is aimed at the first appearance of a file, which over the kills is any of them.
        """
        while len(self.kills) < kills:
            aim = len(self.kills) % 2 == 0
            known = visible(self.out)
            process = self._start(self.out)
            if aim:
                left = len(self._expected.keys() - known)
                self._wait_for_file(process, known, self._random.randint(1, max(left, 1)))
            else:
                time.sleep(self._random.uniform(0, self.duration))
            if process.poll() is None:
                self._kill([process.pid, *descendants(process.pid)])
                process.communicate()
                self.aimed += aim
            else:  # it had ended before its moment came
                self._finish(process)
                self._compare()
                shutil.rmtree(self.out)
        self._finish(self._start(self.out))
        self._compare()

    def kill_workers(self, kills: int, *, is_worker: bytes, same_run_completes: bool) -> None:
        """Kill one busy worker at so many moments; ``is_worker`` is in its command line."""
        while len(self.kills) < kills:
            process = self._start(self.out)
            moment = time.monotonic() + self._random.uniform(0, self.duration)
            while process.poll() is None and len(self.kills) < kills:
                workers = [pid for pid in descendants(process.pid) if is_worker in command_line(pid)]
                if workers and time.monotonic() >= moment:
                    self._kill([self._random.choice(workers)])
                    moment = time.monotonic() + self._random.uniform(0, self.duration)
                time.sleep(0.02)
            self._finish(process)
            if not same_run_completes:
                self._finish(self._start(self.out))
            self._compare()
            shutil.rmtree(self.out)

    def _wait_for_file(self, process: subprocess.Popen, known: set[str], number: int) -> None:
        """Return once so many files have appeared that were not known, or the process has ended."""
        while process.poll() is None and len(visible(self.out) - known) < number:
            time.sleep(LOOK_SECONDS)

    def _start(self, out: Path) -> subprocess.Popen:
        self.runs += 1
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        return subprocess.Popen([*self._command, str(out)], text=True, **pipes)

    def _finish(self, process: subprocess.Popen) -> None:
        _, errors = process.communicate()
        if process.returncode:
            raise DrillError(f"an undisturbed run ended with {process.returncode}: {errors}")

    def _kill(self, pids: Sequence[int]) -> None:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:  # it ended in the meantime
                continue
        while any(is_running(pid) for pid in pids):  # until the kernel has ended what they were doing
            time.sleep(0.001)
        journal = self.out / "journal.jsonl"
        entries = [json.loads(line) for line in complete_lines(journal)] if journal.exists() else []
        for entry in entries:
            if "corrupt" in entry:
                continue
            video = self.out / entry["path"]
            if hashlib.sha256(video.read_bytes()).hexdigest() != entry["facts"]["sha256"]:
                raise DrillError(f"{video} is in the journal, but not complete")
        for name, digest in digests(self.out).items() if self.out.exists() else ():
            if not Path(name).name.startswith(".") and name != journal.name and digest != self._expected.get(name):
                raise DrillError(f"{name} has its name, but is not complete")
        self.kills.append(len(entries))

    def _compare(self) -> None:
        found = digests(self.out)
        names = found.keys() | self._expected.keys()
        if wrong := sorted(name for name in names if found.get(name) != self._expected.get(name)):
            raise DrillError(f"after {len(self.kills)} kills these files differ: {', '.join(wrong)}")
        self.compared += 1


def visible(folder: Path) -> set[str]:
    """The names of the files below a folder, without hidden ones, which may be half written."""
    return {
        str((Path(where) / name).relative_to(folder))
        for where, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".")
    }


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 by name of every file below a folder, but .lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def complete_lines(file: Path) -> list[str]:
    """The lines of a file, without one that a crash has cut short."""
    return [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def descendants(pid: int) -> list[int]:
    """The processes below one, parents first."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it ended in the meantime
        return []
    return children + [below for child in children for below in descendants(child)]


def is_running(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def choose_clips(videos: Path, count: int, folder: Path) -> Path:
    """A folder of classes with links to ``count`` videos spread over those of ``videos``."""
    files = sorted(path for path in videos.rglob("*.*") if path.is_file())
    for number in range(count):
        file = files[number * len(files) // count].resolve()
        (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / file.parent.name / file.name).symlink_to(file)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill preparations at bad moments and compare what comes out.")
    parser.add_argument("--videos", type=Path, required=True, help="folder of classes of real videos")
    parser.add_argument("--clips", type=int, default=60, help="how many of them to prepare (default 60)")
    parser.add_argument("--kills", type=int, default=20, help="default 20")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--victim", choices=("all", "worker"), default="all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        raw = choose_clips(args.videos, args.clips, Path(work) / "raw")
        start = time.monotonic()
        drill = Drill(raw, Path(work), ("--jobs", "2", "--short-side", "96", "--engine", args.engine), args.seed)
        if args.victim == "all":
            drill.kill_all(args.kills)
        else:
            name = b"ray::_call" if args.engine == "ray" else b"spawn_main"
            drill.kill_workers(args.kills, is_worker=name, same_run_completes=args.engine == "ray")
        print(
            f"{len(drill.kills)} kills of {args.victim} on {args.engine}, {drill.aimed} of them aimed at a file\n"
            f"{args.clips} videos, {drill.runs} runs in {time.monotonic() - start:.0f} s, "
            f"undisturbed {drill.duration:.1f} s\n"
            f"{drill.compared} folders were finished, each byte for byte the undisturbed one\n"
            f"videos done at the kills: {drill.kills}"
        )


if __name__ == "__main__":
    main()
