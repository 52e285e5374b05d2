"""The loader: batches in order, no sample lost to a broken video, memory that is reused."""

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.data.loading.misbehaving import CannotStart, Videos
from videofib.data.loading.loader import VideoLoader
from videofib.data.loading.shared_memory import BatchBuffers
from videofib.data.loading.workers import WorkerError


@pytest.fixture
def make_loader():
    """Loaders with two workers, which are closed after the test."""
    loaders = []

    def make(dataset, keys=None, batch_size=3, **options):
        keys = range(len(dataset.records)) if keys is None else keys
        loaders.append(VideoLoader(dataset, keys, batch_size, **{"num_workers": 2, **options}))
        return loaders[-1]

    yield make
    for loader in loaders:
        loader.close()


def labels(batches):
    return [batch["labels"].tolist() for batch in batches]


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_batches_come_in_the_order_of_the_keys_even_if_a_read_is_slow(make_loader, num_workers):
    loader = make_loader(Videos("slow", *["good"] * 6), num_workers=num_workers)
    for _ in range(2):
        found = [(batch["labels"].tolist(), batch["views"][:, 0, 0, 0, 0, 0].tolist()) for batch in loader]
        assert found == [([0, 1, 2], [0, 1, 2]), ([3, 4, 5], [3, 4, 5]), ([6], [6])]
    assert len(loader) == 3


def test_a_hanging_read_costs_its_worker_and_nothing_else(make_loader, caplog):
    loader = make_loader(Videos("good", "hang", "good", "good"), batch_size=2, time_limit=1.0)
    with caplog.at_level(logging.ERROR):
        start = time.perf_counter()
        first = list(loader)
        assert 2 <= time.perf_counter() - start < 20  # it is tried twice
        start = time.perf_counter()
        second = list(loader)
        assert time.perf_counter() - start < 0.9  # it is not read again
    for batches in (first, second):
        assert labels(batches) == [[0, 2], [2, 3]]
        assert batches[0]["failures"] == [("v1", "hang 1: it was not read within 1 s, at the second attempt, too")]
    assert caplog.text.count("hang 1") == 1


def test_a_read_that_crashes_once_is_tried_again(make_loader, tmp_path, caplog):
    action = f"crash-once 1 {tmp_path / 'crashed'}"
    batches = list(make_loader(Videos("good", action, "crash", "good")))
    assert labels(batches) == [[0, 1, 3], [3]]
    assert batches[0]["failures"] == [
        ("v2", "crash 2: the process that read it died (signal SIGSEGV), at the second attempt, too")
    ]
    assert "crash 2" in caplog.text
    assert "crash-once" not in caplog.text


def test_a_read_that_hangs_once_is_tried_again(make_loader, tmp_path, caplog):
    action = f"hang-once 1 {tmp_path / 'hung'}"
    assert labels(make_loader(Videos("good", action, "good"), time_limit=0.5)) == [[0, 1, 2]]
    assert "hang-once" not in caplog.text


def test_a_paused_run_loses_no_video(tmp_path):
    """Ctrl-Z and fg, a suspended job, a frozen container: the clock runs on while nobody reads."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.data.loading.paused", str(tmp_path / "started")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for pause in (0.0, 0.3):
        wait_for(tmp_path / "started")
        time.sleep(pause)  # another moment within a read
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(3.0)  # the limit is 1 s
        os.killpg(process.pid, signal.SIGCONT)
        time.sleep(0.5)
    output, _ = process.communicate(timeout=60)
    assert json.loads(output) == {"labels": list(range(24)), "failures": []}


def wait_for(file):
    while not file.exists():
        time.sleep(0.01)


def test_a_killed_worker_loses_no_sample(make_loader):
    loader = make_loader(Videos(*["slow"] * 8), batch_size=4)
    batches = iter(loader)
    next(batches)
    os.kill(next(iter(loader._workers._workers.values())).process.pid, signal.SIGKILL)
    assert labels(batches) == [[4, 5, 6, 7]]
    assert labels(loader) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_stopped_worker_is_replaced(make_loader):
    """SIGSTOP is the closest a test gets to a decoder that hangs in the kernel: no code of the worker runs."""
    loader = make_loader(Videos(*["slow"] * 4), batch_size=1, num_workers=1, time_limit=1.0)
    batches = iter(loader)
    next(batches)
    worker = loader._workers._workers[0].process.pid
    threading.Timer(0.05, os.kill, (worker, signal.SIGSTOP)).start()
    assert len(list(batches)) == 3
    assert loader._workers._workers[0].process.pid != worker


def test_unreadable_videos_are_replaced_and_named_in_their_batch(make_loader):
    batches = list(make_loader(Videos("good", "bad", "good", "bad", "good"), batch_size=2))
    assert labels(batches) == [[0, 2], [2, 4], [4]]
    assert [batch["failures"] for batch in batches] == [
        [("v1", "bad 1: not a video")],
        [("v3", "bad 3: not a video")],
        [],
    ]
    with pytest.raises(RuntimeError, match="nothing can be read"):
        list(make_loader(Videos("bad", "bad")))


def test_an_error_in_the_code_is_not_taken_for_a_bad_video(make_loader):
    with pytest.raises(WorkerError, match=r"(?s)bug 1.*KeyError: 'an error in the code'"):
        list(make_loader(Videos("good", "bug")))


def test_workers_that_cannot_start_are_reported_and_not_restarted_forever(make_loader):
    dataset = Videos("good", "good")
    dataset.read = CannotStart()
    with pytest.raises(WorkerError, match=r"end before they read the first one \(exit code 3\)"):
        list(make_loader(dataset))


def test_stopping_early_does_not_disturb_the_next_pass(make_loader):
    loader = make_loader(Videos(*["slow"] * 2, *["good"] * 10), batch_size=2)
    for _ in range(3):
        batches = iter(loader)
        next(batches)
        batches.close()
    for batch in loader:
        assert batch["views"][:, 0, 0, 0, 0, 0].tolist() == batch["labels"].tolist()


def test_two_passes_at_once_do_not_disturb_each_other(make_loader):
    loader = make_loader(Videos(*["good"] * 500), batch_size=100)
    first, second = iter(loader), iter(loader)
    assert next(first)["labels"].tolist() == next(second)["labels"].tolist() == list(range(100))
    first.close()
    assert [batch["labels"][0].item() for batch in second] == [100, 200, 300, 400]


def test_a_batch_is_not_overwritten_while_a_view_of_it_exists(make_loader):
    loader = make_loader(Videos(*["good"] * 12), batch_size=2)
    kept = [batch["views"][1, 0, 0] for _ in range(3) for batch in loader]  # views of views
    assert [part.unique().tolist() for part in kept] == [[i] for i in range(1, 12, 2)] * 3


def test_memory_is_reused(make_loader):
    loader = make_loader(Videos(*["good"] * 12), batch_size=2)
    for _ in range(5):
        for batch in loader:  # noqa: B007
            pass
    assert len(loader._buffers._maps) <= 5
    buffers = BatchBuffers((2, 3))
    number, batch = buffers.acquire()
    row = batch[0]
    del batch
    gc.collect()
    assert buffers.acquire()[0] != number
    del row
    gc.collect()
    assert buffers.acquire()[0] == number
    assert torch.equal(buffers.acquire()[1].fill_(7), torch.full((2, 3), 7.0))
    buffers.close()


def alive(pids):
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes through /proc, which only Linux has")
def test_closing_a_loader_ends_its_workers_and_a_later_pass_starts_new_ones():
    with VideoLoader(Videos(*["good"] * 6), range(6), 2, num_workers=2) as loader:
        loader.close()  # without workers yet
        for _ in range(2):
            batches = iter(loader)
            assert next(batches)["labels"].tolist() == [0, 1]
            pids = [worker.process.pid for worker in loader._workers._workers.values()]
            assert alive(pids) == pids
            loader.close()
            loader.close()
            assert alive(pids) == []
            with pytest.raises(WorkerError, match="the loader was closed before this pass over its videos ended"):
                list(batches)
        assert labels(loader) == [[0, 1], [2, 3], [4, 5]]
        pids = [worker.process.pid for worker in loader._workers._workers.values()]
    assert alive(pids) == []


def test_a_sampler_without_a_length_is_refused():
    with pytest.raises(TypeError, match="generator"):
        VideoLoader(Videos("good"), (i for i in range(3)), 1)
