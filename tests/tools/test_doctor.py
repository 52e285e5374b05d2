"""``videofib doctor``: its lines and its exit status."""

from dataclasses import replace

import pytest

from tests.commands import call
from videofib.attention.backends import BACKENDS
from videofib.commands.doctor import main
from videofib.doctor import examination, readers


@pytest.fixture
def few_readers(monkeypatch):
    """One reader instead of five, each of which takes a process."""
    monkeypatch.setattr(readers, "READERS", {"pyav in order": True})


def test_a_machine_on_which_all_works(few_readers):
    done = call(main, ["--compile", "--head-dims", "64"])
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert lines[-1] == "all that is needed works"
    words = ("package av", "CPU", "reader pyav in order", "kernel, head dim 64", "backend cpu", "cache CPU kernel")
    starts = [next(n for n, line in enumerate(lines) if line[9:].startswith(word)) for word in words]
    assert starts == sorted(starts)
    assert "FAILED" not in done.stdout


def test_a_wrong_backend_is_named_and_gives_status_1(few_readers, monkeypatch):
    right = BACKENDS["cpu"]
    monkeypatch.setitem(BACKENDS, "cpu", replace(right, attend=lambda q, k, v, *rest: right.attend(q, k, -v, *rest)))
    done = call(main, [])
    assert done.returncode == 1
    (failed,) = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert failed.startswith("FAILED   backend cpu             wrong: largest difference from the reference ")
    assert done.stdout.endswith("\n1 failed: backend cpu\n")


def test_a_reader_with_wrong_frames_is_named_and_gives_status_1(few_readers, monkeypatch):
    right = readers.written()
    monkeypatch.setattr(readers, "written", iter([right[::-1], right]).__next__)  # what is encoded, what is expected
    done = call(main, [])
    assert done.returncode == 1
    assert done.stdout.endswith("\n1 failed: reader pyav in order\n")


def test_a_part_that_cannot_be_examined_does_not_hide_the_others(few_readers, monkeypatch):
    def without_torch():
        raise ImportError("libtorch.so: no such file")

    monkeypatch.setattr(examination, "devices", without_torch)
    done = call(main, [])
    assert done.returncode == 1
    assert "FAILED   devices                 ImportError: libtorch.so: no such file\n" in done.stdout
    assert "ok       backend cpu " in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--head-dims", "32"], "--head-dims needs --compile"),
        (["--compile", "--head-dims", "0"], "--head-dims must lie between 1 and 1024"),
        (["--compile", "--head-dims", "2048"], "--head-dims must lie between 1 and 1024"),
    ],
)
def test_wrong_options(words, message):
    done = call(main, words)
    assert done.returncode == 2
    assert done.stderr.endswith(f"error: {message}\n")
