"""The lock of a run's folder: one run at a time trains in it, so that no two mix their checkpoints.

``OUTPUT_DIR/run.lock`` names the process that holds it, and is touched as long as that process lives. It stays where a
run is killed; the next run takes it over

- at once on the same machine, where it sees that the process is gone, or that another one has its number by now (a
  process that is being ended is given a moment);
- after a while in which nobody touches it, where it cannot see that but belongs to the same job, restarted on another
  machine (Slurm, torchrun), or runs on the same machine in another container.

All others are refused with a message that says what to remove.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from videofib.checkpoint.file import CheckpointError
from videofib.distributed import processes
from videofib.printable import printable

logger = logging.getLogger(__name__)

LOCK = "run.lock"
_BEAT = 20.0  # seconds between two touches
_SILENT_BEATS = 3  # a lock that is not touched for so many is that of a process that is gone
_MOST_BYTES = 1 << 16  # a lock has 400
_ATTEMPTS = 100  # to take a lock that others take and release at the same time
_GRACE = 2.0  # seconds in which the processes of a run that was killed just now have certainly ended
_FIELDS = {"token": str, "host": str, "boot": str, "pids": str, "pid": int, "started": int, "job": str, "since": str}


@contextmanager
def run_lock(folder: str | Path, beat: float = _BEAT) -> Iterator[None]:
    """Within the block this run alone trains in ``folder``. All its processes call it; the main one holds the lock.

    Args:
        folder: of the run; is created.
        beat: seconds between two touches of the file.

    Raises:
        CheckpointError: another run holds the lock, or may do so, or the folder cannot be written to; in all processes.
    """
    file, own, refusal = Path(folder) / LOCK, None, None
    if processes.is_main():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            own = _take(file, beat)
        except CheckpointError as error:
            refusal = str(error)
        except OSError as error:
            refusal = f"cannot write {file}: {error}"
    if refusal := processes.broadcast(refusal):
        raise CheckpointError(refusal)
    if own is None:
        yield
        return
    ended = threading.Event()
    beating = threading.Thread(target=_touch, args=(file, own["token"], beat, ended), name=LOCK, daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        _remove(file, own["token"])


def _take(file: Path, beat: float) -> dict[str, Any]:
    """Create the lock, in place of one whose process is gone; returns its content."""
    own, deadline = _this_process(), time.monotonic() + _GRACE
    for _ in range(_ATTEMPTS):
        with _alone(file.parent):
            if _create(file, own):
                return own
            found = _read(file)
            if found is not None and _is_over(found, own, file):
                file.unlink(missing_ok=True)
                continue
        if found is None:
            continue
        if _is_seen(found, own) and time.monotonic() < deadline:
            time.sleep(_GRACE / 20)
        elif _may_be_over(found, own) and _is_silent(file, found, beat):
            _remove(file, found["token"])
        else:
            raise CheckpointError(_refusal(found, own, file))
    raise CheckpointError(f"{file} keeps changing; are other runs being started in this folder?")


def _create(file: Path, own: dict[str, Any]) -> bool:
    """Write a new lock; False where there is one."""
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, json.dumps(own).encode() + b"\n")
        os.fsync(descriptor)
    except OSError:
        file.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return True


def _read(file: Path) -> dict[str, Any] | None:
    """The content of the lock; None where there is none any more.

    Raises:
        CheckpointError: it is not a lock.
        OSError: it cannot be read, perhaps only now.
    """
    try:
        with file.open("rb") as stream:
            content = json.loads(stream.read(_MOST_BYTES))
        if not isinstance(content, dict):
            raise ValueError("it is not an object")
        if wrong := [name for name, kind in _FIELDS.items() if not isinstance(content.get(name), kind)]:
            raise ValueError(f"it lacks {', '.join(wrong)}")
    except FileNotFoundError:
        if not file.is_symlink():
            return None
        reason = "it is a link that leads nowhere"
    except (IsADirectoryError, ValueError, RecursionError) as error:
        reason = str(error)
    else:
        return content
    raise CheckpointError(f"{file} is not the lock of a run ({reason}); if no run trains in this folder, remove it")


def _remove(file: Path, token: str) -> None:
    """Remove the lock with this token; it may be gone, or be another run's by now."""
    with suppress(OSError, CheckpointError), _alone(file.parent):
        found = _read(file)
        if found is not None and found["token"] == token:
            file.unlink(missing_ok=True)


def _touch(file: Path, token: str, beat: float, ended: threading.Event) -> None:
    """Touch the lock again and again, as long as it is this run's."""
    while not ended.wait(beat):
        try:
            found = _read(file)
            is_own = found is not None and found["token"] == token
            if is_own:
                os.utime(file)
        except CheckpointError:
            is_own = False
        except OSError:  # of a network for a moment
            continue
        if not is_own:
            logger.warning("%s was removed or replaced while this run trains; another run may train here, too", file)
            return


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Within the block no other process removes or creates the lock, where the file system can lock folders.

    Without that, two runs that are started within the same millisecond after a third was killed could both go on.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_over(found: dict[str, Any], own: dict[str, Any], file: Path) -> bool:
    """Whether the process that holds the lock is gone for certain."""
    if found["host"] == own["host"] and found["boot"] != own["boot"]:
        # this machine was restarted since, unless another one has the same name
        return _touched(file) < _boot_time()
    return _is_seen(found, own) and not _is_running(found["pid"], found["started"])


def _is_seen(found: dict[str, Any], own: dict[str, Any]) -> bool:
    """Whether this process can see the one that holds the lock: on the same machine, in the same container."""
    return all(found[name] == own[name] for name in ("host", "boot", "pids"))


def _may_be_over(found: dict[str, Any], own: dict[str, Any]) -> bool:
    """Whether the process may be gone although this one cannot see it; then it no longer touches the lock."""
    same_machine = (found["host"], found["boot"]) == (own["host"], own["boot"])
    return (same_machine and found["pids"] != own["pids"]) or (
        found["host"] != own["host"] and found["job"] == own["job"] != ""
    )


def _is_silent(file: Path, found: dict[str, Any], beat: float) -> bool:
    """Wait until the lock would have been touched; whether it was not."""
    logger.info(
        "%s is held by process %d on %s, which may be gone; waiting %g s to see whether it touches it",
        *(file, found["pid"], found["host"], _SILENT_BEATS * beat),
    )
    before = _touched(file)
    time.sleep(_SILENT_BEATS * beat)
    return _touched(file) == before


def _refusal(found: dict[str, Any], own: dict[str, Any], file: Path) -> str:
    host, since = printable(found["host"]), printable(found["since"])
    what = f"another run trains in {file.parent}: process {found['pid']} on {host}, since {since}"
    if _is_seen(found, own):
        return f"{what}; wait until it ends, or set another OUTPUT_DIR"
    touched = _touched(file)
    return (
        f"{what}; it last touched its lock at {_clock(touched)}, {time.time() - touched:.0f} s ago, and does so "
        f"every {_BEAT:g} s. Wait until it ends, or set another OUTPUT_DIR; if it was killed, remove {file}"
    )


def _this_process() -> dict[str, Any]:
    """What a lock says of the process that holds it. ``started``: ticks from boot to its start, 0 if not known."""
    pid = os.getpid()
    state = _process_state(pid)
    return {
        "token": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "boot": _text_of("/proc/sys/kernel/random/boot_id"),
        "pids": _link_of("/proc/self/ns/pid"),  # the container, in which processes have their own numbers
        "pid": pid,
        "started": state[1] if state else 0,
        "job": _job(),
        "since": _clock(time.time()),
    }


def _job() -> str:
    """The job of a cluster that this process belongs to, the same when the job is restarted; empty: none."""
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"):
        if os.environ.get(name, "none") not in ("none", ""):  # none: torchrun's default
            return f"{name} {os.environ[name]}"
    return ""


def _is_running(pid: int, started: int) -> bool:
    """Whether the process runs that had this number and started then."""
    state = _process_state(pid)
    if state is not None:
        return state[0] not in "ZX" and (not started or state[1] == started)  # Z: killed, but not yet waited for
    if pid <= 0:  # which would be a group of processes
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError as error:
        return error.errno == errno.EPERM  # a process of another user, which /proc may hide
    return True


def _process_state(pid: int) -> tuple[str, int] | None:
    """A process's state, such as R or Z, and the ticks from boot to its start; None where /proc does not show it."""
    fields = _text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()  # the name before may hold anything
    return (fields[0], int(fields[19])) if len(fields) > 19 else None


def _boot_time() -> float:
    """When this machine started, in seconds since 1970; 0 where that is not known."""
    lines = (line.split() for line in _text_of("/proc/stat").splitlines())
    return next((float(words[1]) for words in lines if words[:1] == ["btime"]), 0.0)


def _text_of(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _link_of(file: str) -> str:
    try:
        return str(Path(file).readlink())
    except OSError:
        return ""


def _touched(file: Path) -> float:
    """When the lock was last touched, in seconds since 1970; now, where it is gone."""
    try:
        return file.stat().st_mtime
    except OSError:
        return time.time()


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
