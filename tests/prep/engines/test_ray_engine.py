"""The engine on a real local Ray: what run_parallel promises, and that lost workers cost nothing."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from videofib.prep.encode import write_video
from videofib.prep.engines.parallel import WorkerDied
from videofib.prep.engines.ray_engine import run_on_ray

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'videofib[ray]'")
DIE = "__import__('os').kill(__import__('os').getpid(), 9)"
SCRIPT = Path(__file__).parents[3] / "data_prep/folder.py"


@pytest.fixture(scope="module")
def local_ray():
    """One Ray for the tests of this file: starting one takes seconds."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=128 * 2**20)
    yield
    ray.shutdown()


def test_an_address_without_ray_is_refused_in_one_line(tmp_path):
    (tmp_path / "raw/c").mkdir(parents=True)
    (tmp_path / "raw/c/a.mp4").write_bytes(b"x")
    command = [sys.executable, str(SCRIPT), "--videos", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    result = subprocess.run([*command, "--address", "auto"], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (1, "folder.py: --address auto needs --engine ray\n")


def test_auto_without_a_cluster_is_reported_in_one_line(tmp_path):
    (tmp_path / "raw/c").mkdir(parents=True)
    (tmp_path / "raw/c/a.mp4").write_bytes(b"x")
    command = [sys.executable, str(SCRIPT), "--videos", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    command += ["--engine", "ray", "--address", "auto"]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "RAY_ADDRESS": ""})
    if "not one of 1 videos could be read" in result.stderr:
        pytest.skip("another Ray runs on this machine, and auto has found it")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "Could not find any running Ray instance" in result.stderr


@pytest.mark.usefixtures("local_ray")
def test_results_exceptions_and_lost_workers(tmp_path):
    mark = str(tmp_path / "mark")
    once = f"[open({mark!r}, 'x'), {DIE}] if not __import__('os').path.exists({mark!r}) else 7"
    results = dict(run_on_ray(eval, ["1 + 1", "1 / 0", once, DIE, "'e' * 3"], 2))
    assert (results[0], results[4]) == (2, "eee")
    assert isinstance(results[1], ZeroDivisionError)
    assert results[2] == 7  # the first worker died, another did it again
    assert isinstance(results[3], WorkerDied)
    assert "lost 4 times" in str(results[3])


@pytest.mark.usefixtures("local_ray")
def test_only_as_many_items_as_jobs_are_with_ray_at_once():
    item = "[__import__('time').time(), __import__('time').sleep(0.1), __import__('time').time()]"
    spans = sorted(result for _, result in run_on_ray(eval, [item] * 5, 1))
    assert all(before[2] <= after[0] for before, after in pairwise(spans))


def test_no_items_and_no_jobs():
    assert list(run_on_ray(eval, [], 2)) == []
    with pytest.raises(ValueError, match="jobs is 0"):
        next(run_on_ray(eval, ["1"], 0))


def descendants(pid):
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [grandchild for child in children for grandchild in descendants(child)]


def ray_workers(pid):
    """Workers of a process's own Ray that have something to do."""
    found = []
    for child in descendants(pid):
        try:
            if Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"ray::_call"):
                found.append(child)
        except OSError:  # it ended in the meantime
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the worker through /proc, which only Linux has")
def test_a_preparation_on_ray_with_a_killed_worker_ends_with_the_bytes_of_a_local_one(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(4):
        (tmp_path / "raw/c").mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / f"raw/c/{number}.mp4", rng.integers(0, 255, (60, 96, 96, 3)).astype(np.uint8), 25)
    command = [sys.executable, str(SCRIPT), "--videos", str(tmp_path / "raw"), "--jobs", "2"]
    subprocess.run([*command, "--out", str(tmp_path / "local")], check=True, capture_output=True)
    on_ray = [*command, "--engine", "ray", "--out", str(tmp_path / "ray")]
    process = subprocess.Popen(on_ray, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (workers := ray_workers(process.pid)):
        time.sleep(0.02)
    os.kill(workers[0], signal.SIGKILL)
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "4 of 4 listed videos" in printed
    assert "a Ray worker was lost (WorkerCrashedError); its item" in errors
    trees = [
        {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for out in (tmp_path / "local", tmp_path / "ray")
    ]
    assert trees[0] == trees[1]
