"""The environment of a run: the git state of its source, the machine, the packages and the command line.

Nothing recorded identifies the user: no names of users or hosts, no environment variables; the home folder is ``~``.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

from videofib import __version__
from videofib.files import replacing

_SOURCE = Path(__file__).parents[1]
# for computing, for reading videos, for writing files; those that are installed are recorded
_PACKAGES = (
    *("torch", "torchvision", "triton", "timm", "einops", "fvcore", "pytorchvideo", "transformers", "safetensors"),
    *("numpy", "numba", "av", "decord2", "torchcodec", "pillow", "pyarrow", "fsspec"),
)
_LARGEST_DIFF = 1 << 20  # bytes; of a larger diff only the hash is kept


def write_record(folder: str | Path, *, prefix: str = "", processes: int = 1) -> dict:
    """Write ``environment.json``, and ``source.diff`` where the source has uncommitted changes; returns the former.

    Args:
        prefix: of both files' names.
        processes: of the run.

    Raises:
        OSError: the folder cannot be written to.
    """
    git, diff = git_state(_SOURCE)
    record = {
        "videofib": __version__,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(_program(sys.argv)),  # which spawned processes have as well
        "git": git,
        "processes": processes,
        **machine(),
        "packages": _versions(),
    }
    changes = Path(folder) / f"{prefix}source.diff"
    if diff and len(diff) <= _LARGEST_DIFF:
        with replacing(changes) as partial:
            partial.write_bytes(diff)
    else:
        changes.unlink(missing_ok=True)  # of an earlier start
    with replacing(Path(folder) / f"{prefix}environment.json") as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def git_state(source: Path) -> tuple[dict | None, bytes]:
    """The git state of the checkout that contains the folder ``source``, and its uncommitted changes as a patch.

    Returns:
        ``commit``, ``branch`` (None for a detached head), ``dirty``, ``changed`` files (also untracked ones) and
        ``diff_sha256`` of the patch (of tracked files; None without changes); None where the source is not in a
        checkout, or git is not installed.
    """
    try:
        _git(source, "ls-files", "--error-unmatch", "__init__.py")  # otherwise the checkout is another project's
        commit = _git(source, "rev-parse", "HEAD").decode().strip()
        branch = _git(source, "rev-parse", "--abbrev-ref", "HEAD").decode(errors="replace").strip()
        top = Path(os.fsdecode(_git(source, "rev-parse", "--show-toplevel").rstrip(b"\n")))
        changed = _git(top, "status", "--porcelain", "-z", "--no-renames")
        diff = _git(top, "diff", "--no-ext-diff", "--no-textconv", "--binary", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None, b""
    return {
        "commit": commit,
        "branch": None if branch == "HEAD" else branch,
        "dirty": bool(changed),
        "changed": [entry[3:].decode(errors="backslashreplace") for entry in changed.split(b"\0") if entry],
        "diff_sha256": hashlib.sha256(diff).hexdigest() if diff else None,
    }, diff


def machine() -> dict:
    """Python, the system, CPU, memory and GPUs of this machine, as this process sees them."""
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "cpu_cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "gpus": [_gpu(number) for number in range(torch.cuda.device_count())] if cuda else [],
    }


def command_line(words: Sequence[str]) -> str:
    """A command to copy and run again, without the home folder's name and without passwords in URLs."""
    home = os.path.expanduser("~")  # noqa: PTH111, since Path.home fails where the home folder is unknown
    text = shlex.join(words)
    if len(home) > 1:
        text = re.sub(rf"(?<![\w.-]){re.escape(home)}(?=/|\s|'|$)", "~", text)
    return re.sub(r"(?<=://)[^/\s@']+@", "", text)


def _program(argv: Sequence[str]) -> list[str]:
    """The words that start this program: ``videofib ...``, ``python -m videofib ...`` or ``python SCRIPT ...``."""
    program = Path(argv[0])
    if program.name == "videofib":
        return ["videofib", *argv[1:]]
    if program == _SOURCE / "__main__.py":
        return ["python", "-m", "videofib", *argv[1:]]
    return ["python", *argv]


def _git(folder: Path, *words: str) -> bytes:
    """The output of a git command; without GIT_ variables, which in a hook point to another checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", folder, *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=20,
    ).stdout


def _gpu(number: int) -> dict:
    found = torch.cuda.get_device_properties(number)
    return {
        "name": found.name,
        "memory_gib": round(found.total_memory / 2**30, 1),
        "capability": f"{found.major}.{found.minor}",
    }


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
