"""Processes find each other, exchange values, and do not wait for one that died."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from videofib.distributed import processes
from videofib.distributed.launch import launch, limit_threads
from videofib.distributed.torchrun import torchrun_processes


def test_a_single_process_needs_no_group():
    assert (processes.rank(), processes.world_size(), processes.is_main()) == (0, 1, True)
    assert processes.all_gather({"a": 1}) == [{"a": 1}]
    assert processes.total([1.5, 2.0]) == [1.5, 2.0]
    processes.barrier()
    model = nn.Linear(1, 1)
    assert processes.replicate(model) is model
    ran = []
    launch(ran.append, ("here",))
    assert ran == ["here"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="threads are limited where the model runs on the CPU")
def test_a_model_on_the_cpu_leaves_a_core_to_each_data_worker(monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        monkeypatch.setenv("OMP_NUM_THREADS", "4")  # the user has decided
        limit_threads(3)
        assert torch.get_num_threads() == 4
        monkeypatch.delenv("OMP_NUM_THREADS")
        limit_threads(3)
        assert torch.get_num_threads() == 1
        limit_threads(3)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_torchrun_is_recognised(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert torchrun_processes() is None
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "host", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert torchrun_processes() == (4, 2)


def listening(pid):
    """The sockets at which a process accepts connections: by number the address, as /proc/net shows it."""
    own = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()}
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return {line[9]: line[1].partition(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in own}


def record_listening(folder, launcher):
    processes.all_gather("all are connected")
    found = listening(os.getpid()) | (listening(launcher) if processes.is_main() else {})
    (folder / str(processes.rank())).write_text(json.dumps(found))
    processes.barrier()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc, which only Linux has")
def test_processes_of_one_machine_listen_to_nobody_else(tmp_path):
    before = listening(os.getpid())  # of other tests
    launch(record_listening, (tmp_path, os.getpid()), processes=2)
    found = {}
    for rank in (0, 1):
        found |= json.loads((tmp_path / str(rank)).read_text())
    opened = {number: address for number, address in found.items() if number not in before}
    assert len(opened) >= 3  # the store's, and one of each process
    assert set(opened.values()) == {"0100007F"}  # 127.0.0.1, the least byte first


def exchange(folder):
    rank = processes.rank()
    assert processes.world_size() == 2
    assert processes.all_gather({"rank": rank, "rest": [0] * rank}) == [
        {"rank": 0, "rest": []},
        {"rank": 1, "rest": [0]},
    ]
    assert processes.total([float(rank), 3.0]) == [1.0, 6.0]
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, rank + 1.0)
    replica = processes.replicate(model)
    assert model.weight.item() == 1.0  # rank 0's weights
    replica(torch.full((1, 1), float(rank))).sum().backward()
    assert model.weight.grad.item() == 0.5  # the mean of 0 and 1
    (folder / f"rank {rank}, {torch.get_num_threads()} threads").touch()


def test_two_processes_exchange_values_and_share_the_cores(tmp_path):
    """In a process of its own, without the thread number that the tests set: each of two uses half of the cores."""
    script = (
        "import sys; from pathlib import Path; from tests.distributed.test_processes import exchange;"
        "from videofib.distributed.launch import launch; launch(exchange, (Path(sys.argv[1]),), processes=2);"
        "import torch; print(torch.get_num_threads())"
    )
    env = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=root, env=env, capture_output=True, text=True, check=True
    )
    found = sorted(file.name for file in tmp_path.iterdir())
    assert found == [f"rank {rank}, {max(1, int(done.stdout) // 2)} threads" for rank in range(2)]


def test_two_nodes_rendezvous_at_an_address(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"tcp://localhost:{probe.getsockname()[1]}"
    with ThreadPoolExecutor() as pool:  # two launchers, as if on two nodes with one process each
        launches = [
            pool.submit(launch, exchange, (tmp_path,), nodes=2, node=node, init_method=address) for node in range(2)
        ]
    assert [launched.result() for launched in launches] == [None, None]
    assert [file.name[:6] for file in sorted(tmp_path.iterdir())] == ["rank 0", "rank 1"]


def one_leaves():
    if processes.rank() == 1:
        sys.exit(7)
    time.sleep(600)


def test_when_one_process_exits_the_other_is_ended_and_its_exit_code_passed_on():
    started = time.monotonic()
    with pytest.raises(SystemExit) as caught:
        launch(one_leaves, processes=2)
    assert caught.value.code == 7
    assert time.monotonic() - started < 120


def report_and_wait(folder):
    (folder / f"pid_{processes.rank()}").write_text(str(os.getpid()))
    time.sleep(600)


LAUNCH = """
import sys
from pathlib import Path
from tests.distributed.test_processes import report_and_wait
from videofib.distributed.launch import launch
if __name__ == "__main__":
    launch(report_and_wait, (Path(sys.argv[1]),), processes=2)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc, which only Linux has")
@pytest.mark.parametrize("starter", ["videofib", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path, starter):
    root = Path(__file__).parents[2]
    (tmp_path / "script.py").write_text(LAUNCH)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] * (starter == "torchrun")
    process = subprocess.Popen(
        [sys.executable, *torchrun, tmp_path / "script.py", tmp_path], env={**os.environ, "PYTHONPATH": str(root)}
    )
    files = [tmp_path / "pid_0", tmp_path / "pid_1"]
    try:
        while not all(file.exists() and file.read_text() for file in files):
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    pids = [int(file.read_text()) for file in files]
    deadline = time.monotonic() + 30
    while any(_is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [pid for pid in pids if _is_running(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
