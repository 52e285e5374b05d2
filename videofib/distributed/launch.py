"""How the processes of a run are started, find each other and end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from videofib.distributed.processes import TIMEOUT, rank
from videofib.distributed.torchrun import torchrun_processes
from videofib.starting import check_exit, starting

LOOPBACK = "127.0.0.1"


def launch(
    function: Callable[..., None],
    args: tuple = (),
    *,
    processes: int = 1,
    nodes: int = 1,
    node: int = 0,
    init_method: str = "",
) -> None:
    """Run ``function(*args)`` in every process, and return when all are done.

    Under torchrun this process is one of them already. Otherwise ``processes`` are started on this node, rank =
    node * processes + local rank; several nodes rendezvous at ``init_method`` (``tcp://host:port``). When one process
    fails, the others of this node are ended and the failure is raised here. When the process that started them is
    killed, by SIGKILL too, all end at once.

    Args:
        function: importable by name, since new processes look it up.

    Raises:
        SystemExit: with the exit code of a process that ended by ``sys.exit``.
        torch.multiprocessing.ProcessRaisedException, ProcessExitedException: any other failure of a process.
    """
    if torchrun_processes():
        _end_with_launcher()
        local, nodes = torchrun_processes()
        with _process_group(int(os.environ.get("LOCAL_RANK", 0)), local, nodes, **_torchrun_rendezvous()):
            function(*args)
    elif processes * nodes == 1:
        function(*args)
    else:
        store = None
        if nodes == 1:  # the parent holds the store, so no other program can take the port between choice and use
            store = _local_store()
        port = store.port if store else 0
        spawn_args = (function, args, processes, nodes, node, init_method, port)
        start_method = _start_method(function.__module__)
        with starting("NUM_GPUS"):  # without SIGINT until they can handle it
            started = mp.start_processes(_spawned, spawn_args, nprocs=processes, join=False, start_method=start_method)
        try:
            with _signals_passed_on(started.pids()) as interrupted:
                while not started.join():
                    pass
        except mp.ProcessExitedException as error:
            if interrupted:  # a process that could not save was ended by the signal passed on
                raise SystemExit(128 + signal.SIGINT) from None
            check_exit(error.exit_code)
            if error.exit_code > 0:
                raise SystemExit(error.exit_code) from None
            raise


def _local_store() -> dist.TCPStore:
    """A store for the processes of this machine. No other machine can reach it, since it accepts every connection."""
    listening = socket.create_server((LOOPBACK, 0))
    port = listening.getsockname()[1]
    return dist.TCPStore(
        LOOPBACK,
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listening.detach(),
        use_libuv=False,  # torch 2.6's libuv store takes no socket that is listening already
    )


def _torchrun_rendezvous() -> dict[str, Any]:
    """How processes that torchrun started find each other, as arguments of ``init_process_group``.

    torchrun's own store outlives its workers. A restarted group would find the addresses of the previous one and wait
    for processes that are gone, so each attempt has its own keys. Every node numbers attempts by itself, so numbers
    could differ between nodes; with several, TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 gives each attempt its own store.
    """
    local, nodes = torchrun_processes()
    if nodes > 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {"init_method": "env://"}
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    own = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    return {"store": own, "rank": int(os.environ["RANK"]), "world_size": local}


@contextmanager
def _signals_passed_on(pids: list[int]) -> Iterator[list[int]]:
    """Within the block SIGTERM and a first Ctrl-C are passed on to the processes of this node, which end by themselves.

    Gives a list that has SIGINT once there was one. It is passed on as SIGTERM: a terminal sends it to all processes,
    and for those a second one means to end at once, as it does here.
    """
    interrupted: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # others cannot receive signals
        yield interrupted
        return

    def pass_on(number, frame):
        if number == signal.SIGINT:
            interrupted.append(number)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start_method(module: str) -> str:
    """``forkserver`` where it is safe: one server imports ``module`` (and so torch), and each process is its copy."""
    if sys.platform != "linux":
        return "spawn"
    mp.get_context("forkserver").set_forkserver_preload([module])
    return "forkserver"


def _spawned(
    local_rank: int,
    function: Callable[..., None],
    args: tuple,
    processes: int,
    nodes: int,
    node: int,
    init_method: str,
    port: int,
) -> None:
    _end_with_launcher()
    mp.set_start_method(None, force=True)  # data workers start by the platform's default, not the way this process did
    where = {"init_method": init_method} if nodes > 1 else {"store": dist.TCPStore(LOOPBACK, port)}
    ranks = {"rank": node * processes + local_rank, "world_size": processes * nodes}
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        with _process_group(local_rank, processes, nodes, **where, **ranks):
            function(*args)
    except KeyboardInterrupt:  # the launcher reports it
        raise SystemExit(128 + signal.SIGINT) from None


def _end_with_launcher() -> None:
    """From now on this process ends once the one that started it is gone.

    Otherwise the processes of a run whose launcher was killed would train on, and nobody could resume the run.
    """
    launcher, parent = multiprocessing.parent_process(), os.getppid()  # the parent may be the fork server

    def watch() -> None:
        if launcher is not None:
            wait([launcher.sentinel])
        while launcher is None and os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)  # exceptions would wait for other processes

    threading.Thread(target=watch, name="launcher-watch", daemon=True).start()


@contextmanager
def _process_group(local_rank: int, processes: int, nodes: int, **how):
    if nodes == 1 and sys.platform == "linux":  # ranks exchange pickles, which must not come from elsewhere
        for backend in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{backend}_SOCKET_IFNAME", "lo")
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))  # the processes share the cores
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT, **how)
    yield
    dist.destroy_process_group()  # not after an exception: it would wait for the other ranks


def limit_threads(workers: int) -> None:
    """Where the model runs on the CPU, leave a core to each data worker of this process.

    Torch's threads wait for each other by spinning. Where a worker occupies the core that one of them needs, every
    operation takes at least one time slice of the scheduler; with other busy processes, steps of a small model took up
    to 30 times the CPU time.
    """
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() - workers))


def delay_unless_main() -> None:
    """Wait a moment in ranks other than 0 before reporting an error that rank 0 most likely reports as well.

    When rank 0 ends, the launcher ends this process, so that the user reads the message once.
    """
    if rank() or int(os.environ.get("RANK", 0)):  # under torchrun the rank is known before the group is initialised
        time.sleep(10)  # of which rank 0, on a busy machine, takes most to leave
