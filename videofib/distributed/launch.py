"""How the processes of a run are started, meet and end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from videofib.distributed.processes import TIMEOUT, rank


def torchrun_processes() -> tuple[int, int] | None:
    """(processes on this machine, machines) where torchrun started this process, else None."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        return None
    world = int(os.environ["WORLD_SIZE"])
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    return local, world // local


def launch(
    function: Callable[..., None],
    args: tuple = (),
    *,
    processes: int = 1,
    machines: int = 1,
    machine: int = 0,
    init_method: str = "",
) -> None:
    """Run ``function(*args)`` in every process, and return when all are done.

    Under torchrun this process is one of them already. Otherwise ``processes`` are started on this machine, rank =
    machine * processes + local rank; several machines meet at ``init_method`` (``tcp://host:port``). When one process
    fails, those on this machine are ended and the failure is raised here.

    Args:
        function: importable by name, since new processes look it up.

    Raises:
        SystemExit: with the exit code of a process that ended by ``sys.exit``.
        torch.multiprocessing.ProcessRaisedException, ProcessExitedException: any other failure of a process.
    """
    if torchrun_processes():
        with _process_group(int(os.environ.get("LOCAL_RANK", 0)), torchrun_processes()[0], **_torchrun_meeting()):
            function(*args)
    elif processes * machines == 1:
        function(*args)
    else:
        store, port = None, 0
        if machines == 1:  # the parent holds the meeting place, so no port can be snatched between choice and use
            store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
            port = store.port
        spawn_args = (function, args, processes, machines, machine, init_method, port)
        start_method = _start_method(function.__module__)
        started = mp.start_processes(_spawned, spawn_args, nprocs=processes, join=False, start_method=start_method)
        try:
            with _sigterm_passed_on(started.pids()):
                while not started.join():
                    pass
        except mp.ProcessExitedException as error:
            if error.exit_code > 0:
                raise SystemExit(error.exit_code) from None
            raise


def _torchrun_meeting() -> dict[str, Any]:
    """Where processes that torchrun started meet.

    torchrun's own store outlives its workers. A group that it starts anew would find the addresses of the one before,
    and wait for processes that are gone, so each attempt has keys of its own. Attempts are numbered machine by machine,
    so on several machines that would part them; there, TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 gives each its own store.
    """
    local, machines = torchrun_processes()
    if machines > 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {"init_method": "env://"}
    kept = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    own = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", kept)
    return {"store": own, "rank": int(os.environ["RANK"]), "world_size": local}


@contextmanager
def _sigterm_passed_on(pids: list[int]) -> Iterator[None]:
    """Within the block SIGTERM goes on to processes of this machine, which end in their own way."""
    if threading.current_thread() is not threading.main_thread():  # others cannot receive signals
        yield
        return

    def pass_on(number, frame):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start_method(module: str) -> str:
    """A server that has imported ``module`` (and so torch) once, and is copied for each process; where that is safe."""
    if sys.platform != "linux":
        return "spawn"
    mp.get_context("forkserver").set_forkserver_preload([module])
    return "forkserver"


def _spawned(
    local_rank: int,
    function: Callable[..., None],
    args: tuple,
    processes: int,
    machines: int,
    machine: int,
    init_method: str,
    port: int,
) -> None:
    mp.set_start_method(None, force=True)  # data workers start as the platform does it, not as this process did
    where = {"init_method": init_method} if machines > 1 else {"store": dist.TCPStore("localhost", port)}
    ranks = {"rank": machine * processes + local_rank, "world_size": processes * machines}
    with _process_group(local_rank, processes, **where, **ranks):
        function(*args)


@contextmanager
def _process_group(local_rank: int, processes: int, **how):
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))  # the processes share the cores
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT, **how)
    yield
    dist.destroy_process_group()  # not after an exception: it would wait for ranks that are not coming


def leave_cores_to(workers: int) -> None:
    """Where the model runs on the CPU, let it use only the cores that this process's data workers leave over.

    Torch's threads wait for each other by spinning. Where a worker holds the core that one of them needs, every
    operation takes as long as the scheduler's turn; beside other busy processes a small model's
    steps were seen to take 30 times the CPU time.
    """
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() - workers))


def let_main_speak_first() -> None:
    """In other ranks, wait a moment before reporting an error that rank 0 most likely reports as well.

    Its end makes the launcher end this process, so the user reads the message once.
    """
    if rank() or int(os.environ.get("RANK", 0)):  # under torchrun the number is known before the group is
        time.sleep(2)
