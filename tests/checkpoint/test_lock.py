"""One run at a time trains in a folder: who takes the lock of a process that is gone, and who is refused."""

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from videofib.checkpoint import lock
from videofib.checkpoint.file import CheckpointError
from videofib.checkpoint.lock import run_lock
from videofib.distributed.launch import launch

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc, which only Linux has")

HOLD = """
import sys, time
from videofib.checkpoint.lock import run_lock
with run_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def hold():
    """Starts a process that holds the lock of a folder; it is killed at the end."""
    with ExitStack() as ends:

        def start(folder):
            command = [sys.executable, "-c", HOLD, str(folder)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
            ends.callback(process.wait)
            ends.callback(process.kill)
            assert process.stdout.readline() == "held\n"
            return process

        yield start


def own_lock(folder):
    """What a lock of this process holds."""
    with run_lock(folder):
        return json.loads((folder / "run.lock").read_text())


def left_behind(folder, **changes):
    """Write the lock of this process, apart from some changes, as a killed run leaves it; returns its text."""
    text = json.dumps({**own_lock(folder), **changes})
    (folder / "run.lock").write_text(text)
    return text


def refusal(folder, **options):
    with pytest.raises(CheckpointError) as caught, run_lock(folder, **options):
        pass
    return str(caught.value)


@pytest.fixture(scope="module")
def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_the_lock_is_there_during_the_run_and_gone_after_it_however_it_ends(tmp_path):
    folder = tmp_path / "runs" / "new"
    with run_lock(folder):
        content = json.loads((folder / "run.lock").read_text())
        assert content["pid"] == os.getpid()
        assert content["host"] == os.uname().nodename
    assert list(folder.iterdir()) == []
    with pytest.raises(ZeroDivisionError), run_lock(folder):
        _ = 1 / 0
    assert list(folder.iterdir()) == []


def test_a_lock_that_was_released_leaves_nothing_open(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with run_lock(tmp_path):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_second_run_is_refused_and_a_killed_one_is_replaced_at_once(tmp_path, hold):
    process = hold(tmp_path)
    assert re.fullmatch(
        rf"another run trains in {tmp_path}: process {process.pid} on {os.uname().nodename}, since \S+; wait until it "
        "ends, or set another OUTPUT_DIR",
        refusal(tmp_path),
    )
    process.send_signal(signal.SIGKILL)
    while Path(f"/proc/{process.pid}/stat").exists() and " Z " not in Path(f"/proc/{process.pid}/stat").read_text():
        time.sleep(0.01)
    with run_lock(tmp_path):  # its parent, this process, has not waited for it yet
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()


def test_a_run_that_is_just_being_killed_is_waited_for(tmp_path, hold, monkeypatch):
    monkeypatch.setattr(lock, "_GRACE", 30.0)  # of which no more is used than it takes
    holder = hold(tmp_path)
    kill = threading.Timer(0.5, holder.kill)
    kill.start()
    with run_lock(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    kill.join()


def test_another_process_with_the_number_of_the_killed_one_is_not_taken_for_it(tmp_path):
    left_behind(tmp_path, started=own_lock(tmp_path)["started"] - 1)  # the number is that of this process
    with run_lock(tmp_path):
        pass
    left_behind(tmp_path)
    assert "another run trains in" in refusal(tmp_path)


def test_a_lock_from_another_machine_is_left_and_the_message_says_what_to_remove(tmp_path, gone):
    text = left_behind(tmp_path, host="node7", pid=gone, since="2026-01-02T03:04:05+00:00")
    hour_ago = time.time() - 3600
    os.utime(tmp_path / "run.lock", (hour_ago, hour_ago))
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(hour_ago))
    assert re.fullmatch(
        re.escape(
            f"another run trains in {tmp_path}: process {gone} on node7, since 2026-01-02T03:04:05+00:00; it last "
        )
        + re.escape(f"touched its lock at {when}+00:00, ")
        + r"360\d s ago, and does so every 20 s\. Wait until it ends, or set another OUTPUT_DIR; if it was killed, "
        + re.escape(f"remove {tmp_path}/run.lock"),
        refusal(tmp_path),
    )
    assert (tmp_path / "run.lock").read_text() == text


def test_a_restarted_machine_runs_none_of_its_earlier_processes(tmp_path):
    (started,) = re.findall(r"^btime (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    text = left_behind(tmp_path, boot="an earlier one")
    assert "remove" in refusal(tmp_path)  # touched since: so it is another machine of the same name
    (tmp_path / "run.lock").write_text(text)
    os.utime(tmp_path / "run.lock", (int(started) - 5, int(started) - 5))
    with run_lock(tmp_path):
        pass


@pytest.mark.parametrize(
    ("elsewhere", "job"),
    [
        ({"host": "node7"}, {"SLURM_JOB_ID": "42"}),
        ({"host": "node7"}, {"TORCHELASTIC_RUN_ID": "mine", "SLURM_JOB_ID": "42"}),
        ({"pids": "pid:[1]"}, {}),  # another container of this machine
    ],
)
def test_a_job_restarted_elsewhere_takes_the_lock_once_nobody_touches_it(tmp_path, monkeypatch, elsewhere, job, gone):
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    text = left_behind(tmp_path, pid=gone, **elsewhere)
    with run_lock(tmp_path, beat=0.05):
        pass
    (tmp_path / "run.lock").write_text(text)
    ended = threading.Event()

    def touch():
        while not ended.wait(0.02):
            os.utime(tmp_path / "run.lock")

    touching = threading.Thread(target=touch)
    touching.start()
    assert f"process {gone} on " in refusal(tmp_path, beat=0.1)
    ended.set()
    touching.join()
    if job:
        monkeypatch.setenv(next(iter(job)), "none")
        monkeypatch.setenv("SLURM_JOB_ID", "43")
        assert f"process {gone} on " in refusal(tmp_path, beat=0.05)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 200, b"{", b"[]", b"[" * 100_000, b'{"pid": 1}', b'{"token": {}, "host": 3}', b"\xff\xfe"],
    ids=range(8),
)
def test_a_file_that_is_not_a_lock_is_named_and_left(tmp_path, content):
    (tmp_path / "run.lock").write_bytes(content)
    assert re.fullmatch(
        rf"{tmp_path}/run.lock is not the lock of a run \([^\n]+\); if no run trains in this folder, remove it",
        refusal(tmp_path),
    )
    assert (tmp_path / "run.lock").read_bytes() == content


def test_a_link_or_folder_in_its_place_is_named(tmp_path):
    (tmp_path / "run.lock").symlink_to(tmp_path / "nowhere")
    assert "run.lock is not the lock of a run (it is a link that leads nowhere)" in refusal(tmp_path)
    (tmp_path / "run.lock").unlink()
    (tmp_path / "run.lock").mkdir()
    assert "run.lock is not the lock of a run (" in refusal(tmp_path)


@pytest.mark.parametrize("pid", [0, -1, 2**70])
def test_impossible_processes_are_gone(tmp_path, pid):
    left_behind(tmp_path, pid=pid)
    with run_lock(tmp_path):
        pass


def test_a_full_disk_leaves_no_lock(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        message = refusal(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert message == f"cannot write {tmp_path}/run.lock: [Errno 27] File too large"
    assert list(tmp_path.iterdir()) == []


def test_the_holder_touches_its_lock_and_leaves_that_of_another_run(tmp_path, caplog):
    caplog.set_level("WARNING", logger="videofib")
    file = tmp_path / "run.lock"
    with run_lock(tmp_path, beat=0.02):
        os.utime(file, (1, 1))
        wait_until(lambda: file.stat().st_mtime > 1)
        foreign = file.read_text().replace(json.loads(file.read_text())["token"], "another")
        file.write_text(foreign)
        wait_until(lambda: caplog.messages)
    assert file.read_text() == foreign
    assert caplog.messages == [f"{file} was removed or replaced while this run trains; another run may train here, too"]


@pytest.mark.parametrize("call", ["utime", "open"])
def test_a_network_that_fails_for_a_moment_does_not_end_the_touching(tmp_path, caplog, monkeypatch, call):
    caplog.set_level("WARNING", logger="videofib")
    file, owner = (tmp_path / "run.lock", os if call == "utime" else Path)
    real, failed = getattr(owner, call), []

    def failing(*arguments, **options):
        if threading.current_thread().name == "run.lock" and len(failed) < 3:
            failed.append(True)
            raise OSError(errno.EIO, "Input/output error", str(file))
        return real(*arguments, **options)

    monkeypatch.setattr(owner, call, failing)
    with run_lock(tmp_path, beat=0.02):
        wait_until(lambda: len(failed) == 3)
        os.utime(file, (1, 1))
        wait_until(lambda: file.stat().st_mtime > 1)
    assert caplog.messages == []


def test_when_a_run_has_ended_nobody_is_about_to_touch_its_lock(tmp_path, monkeypatch):
    utime, touching = os.utime, threading.Event()

    def slow(file):
        touching.set()
        time.sleep(0.3)
        utime(file)

    monkeypatch.setattr(os, "utime", slow)
    with run_lock(tmp_path, beat=0.001):
        assert touching.wait(timeout=10)
    assert "run.lock" not in {thread.name for thread in threading.enumerate()}


def test_where_folders_cannot_be_locked_another_run_may_remove_the_lock_first(tmp_path, monkeypatch, gone):
    left_behind(tmp_path, pid=gone)
    is_over = lock._is_over

    def refused(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    def and_the_other_is_faster(found, own, file):
        over = is_over(found, own, file)
        file.unlink()
        return over

    monkeypatch.setattr(lock.fcntl, "flock", refused)
    monkeypatch.setattr(lock, "_is_over", and_the_other_is_faster)
    with run_lock(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()


def test_a_lock_that_is_released_just_now_is_taken(tmp_path, monkeypatch):
    left_behind(tmp_path)
    read = lock._read

    def after_its_release(file):
        monkeypatch.setattr(lock, "_read", read)
        file.unlink()
        return read(file)

    monkeypatch.setattr(lock, "_read", after_its_release)
    with run_lock(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()


def test_a_lock_that_is_released_while_a_run_is_refused_was_touched_just_now(tmp_path, monkeypatch):
    left_behind(tmp_path, host="node7")
    may_be_over = lock._may_be_over

    def and_is_released(found, own):
        (tmp_path / "run.lock").unlink()
        return may_be_over(found, own)

    monkeypatch.setattr(lock, "_may_be_over", and_is_released)
    assert ", 0 s ago, and does so every 20 s" in refusal(tmp_path)


def test_a_full_disk_is_the_reason_although_the_half_written_lock_is_gone(tmp_path, monkeypatch):
    def full(*_):
        (tmp_path / "run.lock").unlink()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        message = refusal(tmp_path)
    assert message == f"cannot write {tmp_path}/run.lock: [Errno 28] No space left on device"


def wait_until(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def test_of_many_runs_that_find_the_lock_of_a_killed_one_a_single_one_goes_on(tmp_path, gone):
    left_behind(tmp_path, pid=gone)
    together, outcomes = threading.Barrier(16), []

    def start():
        together.wait()
        try:
            with run_lock(tmp_path):
                outcomes.append("trains")
                together.wait()
        except CheckpointError as error:
            outcomes.append(str(error).partition(" in ")[0])
            together.wait()

    runs = [threading.Thread(target=start) for _ in range(16)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert sorted(outcomes) == ["another run trains"] * 15 + ["trains"]


def in_each_process(folder, out):
    from videofib.distributed import processes

    try:
        with run_lock(folder):
            processes.barrier()
            outcome = json.loads((folder / "run.lock").read_text())["pid"]
            processes.barrier()
    except CheckpointError as error:
        outcome = str(error)
    (out / str(processes.rank())).write_text(f"{os.getpid()} {outcome}")


def test_the_processes_of_a_run_take_one_lock_and_are_refused_together(tmp_path):
    (tmp_path / "out").mkdir()
    launch(in_each_process, (tmp_path / "run", tmp_path / "out"), processes=2)
    (first, first_saw), (_, second_saw) = [(tmp_path / "out" / rank).read_text().split(" ", 1) for rank in "01"]
    assert first_saw == second_saw == first
    left_behind(tmp_path / "run", host="node7")
    launch(in_each_process, (tmp_path / "run", tmp_path / "out"), processes=2)
    said = [(tmp_path / "out" / rank).read_text().split(" ", 1)[1] for rank in "01"]
    assert said[0] == said[1]
    assert "on node7" in said[0]
